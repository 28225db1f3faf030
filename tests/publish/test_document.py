from __future__ import annotations

import pytest

from pytest_ocrepro.publish.document import Words, issue_url, issues, said


def test_what_is_not_known_is_a_dash_and_a_zero_is_one() -> None:
    assert said(None, "", 0, 1.5, Words("x", "mono")) == ("\u2013", "0", "1.5", Words("x", "mono"))


def test_issues_stand_in_a_row() -> None:
    assert issues(()) == ()
    link = Words("a/b#1", href="https://github.com/a/b/issues/1")
    assert issues(("a/b#1", "hearsay")) == (link, ", ", "hearsay")


@pytest.mark.parametrize(
    ("issue", "url"),
    [
        ("anomalyco/opencode#29395", "https://github.com/anomalyco/opencode/issues/29395"),
        ("KE7/helix#35", "https://github.com/KE7/helix/issues/35"),
        ("javascript:alert(1)", ""),
        ("a/b#1/../../x", ""),
        ('a/b"onclick=x#1', ""),
        ("https://example.invalid/a#1", ""),
    ],
)
def test_only_issues_become_links(issue: str, url: str) -> None:
    assert issue_url(issue) == url

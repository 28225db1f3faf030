from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.publish.markdown import PARTS, cell, code, escaped, fenced, folded, prose, table

SPECIAL = r"\`*_{}[]<>()#|~&$!@:"


@given(st.text(st.sampled_from(SPECIAL + "ab 1-.\n\t\x1b\u202e")))
def test_nothing_is_left_that_markdown_acts_on_and_the_words_stay(text: str) -> None:
    found = escaped(text)
    assert not re.search(r"[\n\t\x1b\u202e]", found)
    naked = re.sub(r"\\[!-/:-@\[-`{-~]", "", found)  # CommonMark 2.4: a backslash before ASCII punctuation
    assert not any(character in naked for character in SPECIAL)
    spelled = text.replace("\x1b", "␛").replace("\u202e", "<U+202E>")
    assert re.sub(r"\\(.)", r"\1", found).replace(PARTS, "") == " ".join(spelled.split())
    assert not re.search(r"[@#][^\u200b]", re.sub(r"\\(.)", r"\1", found))  # nobody is called, no issue is linked


PIECES = [*SPECIAL, *"ab 1-.+=\n\x1b\u202e", "www.", "://", "GH-1", "a_b", "1. "]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_prose_is_escaped_only_where_markdown_would_act(text: str) -> None:
    found = prose(text)
    naked = re.sub(r"\\[!-/:-@\[-`{-~]", "", found)
    assert not re.search(r"[`*\[<#|~&$@]", naked)
    assert not re.search(r"(?<!\w)_|_(?!\w)", re.sub(r"\\_", "x", found))
    assert not re.match(r"[>=+-]|\d+[.)] ", found)
    assert not re.search(r"[@#][^\u200b]|\bwww\.|://|\bGH-\d", re.sub(r"\\(.)", r"\1", found))
    spelled = text.replace("\x1b", "␛").replace("\u202e", "<U+202E>")
    assert re.sub(r"\\(.)", r"\1", found).replace(PARTS, "") == " ".join(spelled.split())


@pytest.mark.parametrize(
    "text",
    ["epoll_wait(fd) after 2.2 s: exit 1; 3/4 (75 %)", "1.18.34", "no: no progress, a-b, x=y, {}", "http:/a://b"[:6]],
)
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert prose(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a|b", "`a|b`"), ("", ""), ("a\nb", "`a b`")],
)
def test_code_is_one_span(text: str, shown: str) -> None:
    assert code(text) == shown
    assert cell(text) == shown.replace("|", "\\|")


def test_what_is_folded_has_its_empty_lines() -> None:
    assert folded("Logs", "a", "b") == "<details><summary>Logs</summary>\n\na\n\nb\n\n</details>"


@given(st.text(st.sampled_from("`a\n"), max_size=40))
def test_no_text_ends_the_fence_that_it_is_in(text: str) -> None:
    fence, *inside, end = fenced(text).split("\n")
    assert fence == end
    assert set(fence) == {"`"}
    assert not any(fence in line for line in inside)
    assert "\n".join(inside) == text


def test_a_table_has_as_many_cells_in_each_line() -> None:
    assert table(("a", "b"), [("1", escaped("x|y"))]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"


def test_a_long_text_is_cut() -> None:
    assert escaped("x" * 1000, most=10) == "x" * 9 + "…"

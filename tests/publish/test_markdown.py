from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.publish.markdown import PARTS, escaped, fenced, table

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

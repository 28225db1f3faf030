from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro.publish.text import visible


def test_hidden_characters_are_spelled_out_and_others_left() -> None:
    assert visible("a\x1b[31mb\x00\u202e\x9b\x7f\u2066\ufeff") == "a␛[31mb␀<U+202E><U+009B><U+007F><U+2066><U+FEFF>"
    assert visible("line\n\tnext é 日本 👍🏽 👨‍👩‍👧") == "line\n\tnext é 日本 👍🏽 👨‍👩‍👧"
    assert visible("\ud800") == "<U+D800>"


@settings(deadline=None, database=None)
@given(st.text())
def test_visible_text_can_always_be_stored(text: str) -> None:
    shown = visible(text)
    assert shown.encode().decode() == shown
    assert visible(shown) == shown

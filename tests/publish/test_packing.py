from __future__ import annotations

import base64
import gzip

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_ocrepro.publish.document import Paragraph, Trial
from pytest_ocrepro.publish.packing import CHUNK_BYTES, Chunks, packed
from pytest_ocrepro.publish.text import visible


def unpacked(text: str) -> object:
    return msgspec.json.decode(gzip.decompress(base64.b64decode(text)))


@settings(deadline=None, database=None)
@given(st.text())
@example("\\r \\u001b \r \x1b \x7f \x85 \u2028 \ud800 \U000e0041 \b\f\t\n")
def test_texts_are_made_visible_before_they_are_packed(text: str) -> None:
    assert unpacked(packed([text, {"key": (text,)}])) == [visible(text), {"key": [visible(text)]}]


def trial(anchor: str, text: str = "") -> Trial:
    block = Paragraph(text=(text,))
    return Trial(anchor=anchor, result="reproduced", glyph="", title="", note="", blocks=(block,))


def test_every_trial_is_found_where_it_was_put() -> None:
    chunks = Chunks()
    places = [chunks.add(trial(f"t{n}", "x" * (CHUNK_BYTES // 3))) for n in range(7)]
    chunks.close()
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    found = [msgspec.convert(unpacked(chunk), list[dict[str, object]]) for chunk in chunks.done]
    assert [found[chunk][place]["anchor"] for chunk, place in places] == [f"t{n}" for n in range(7)]


def test_an_empty_packing_has_no_chunk() -> None:
    chunks = Chunks()
    chunks.close()
    assert chunks.done == []
    assert chunks.size == 0

"""What travels in the page compressed: an index of all trials, and the evidence of those that are not drawn at once.

Each piece is base64 of gzip of JSON in an inert ``<template>``; the page's script decodes a piece when it is wanted.
The alphabet of base64 has no character that means anything in HTML. Texts are made visible before they are packed.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pytest_ocrepro.publish.counting import Entry, scenario_of
from pytest_ocrepro.publish.document import Trial
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.text import clip, visible

CHUNK_BYTES = 400_000  # of JSON; decoding one takes a browser some 5 ms
ON_THE_PAGE, NOT_KEPT = -1, -2  # where the evidence of a trial is, beside the number of a chunk


def packed(record: Any) -> str:
    """The record as visible JSON, compressed, in base64."""
    return _squeezed(_json(record))


class Chunks:
    """Trials go in one after the other; chunks come out."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._open: list[bytes] = []
        self._bytes = 0

    @property
    def size(self) -> int:
        """Characters of the chunks that are done, and a guess at the open one (such JSON shrinks to an eighth)."""
        return sum(map(len, self.done)) + self._bytes // 6

    def add(self, trial: Trial) -> tuple[int, int]:
        """Pack a trial; returns its chunk, and its place there."""
        place = len(self.done), len(self._open)
        self._open.append(_json(trial))
        self._bytes += len(self._open[-1])
        if self._bytes >= CHUNK_BYTES:
            self.close()
        return place

    def close(self) -> None:
        """Finish the open chunk."""
        if self._open:
            self.done.append(_squeezed(b"[" + b",".join(self._open) + b"]"))
        self._open, self._bytes = [], 0


class Row(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One trial in the index. Whole numbers below stand for a text of ``Index.words``, but for trial, seed, chunk."""

    anchor: str
    result: int
    title: int
    scenario: int
    version: int
    trial: int
    verdict: int
    grade: int
    seconds: float
    reason: int
    signature: int
    expected: int
    seed: int
    chunk: int
    place: int
    offset: float | None  # milliseconds, of a scenario that sweeps one; as it came to be, else as it was asked for


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """All trials in the order of the page. ``style``: the style sheet of a picture that is shown as an image."""

    words: tuple[str, ...]
    rows: tuple[Row, ...]
    style: str


def index(entries: Sequence[Entry], where: dict[str, tuple[int, int]], style: str) -> Index:
    """The index; ``where`` has the chunk and the place of each anchor whose evidence is kept."""
    words: dict[str, int] = {}
    rows = tuple(_rows(entries, where, words))
    return Index(words=tuple(words), rows=rows, style=style)


def _rows(entries: Sequence[Entry], where: dict[str, tuple[int, int]], words: dict[str, int]) -> Iterator[Row]:
    def number(text: str) -> int:
        return words.setdefault(text, len(words))

    for entry in entries:
        result = entry.result
        chunk, place = where.get(entry.anchor, (NOT_KEPT, 0))
        yield Row(
            anchor=entry.anchor,
            result=number(entry.kind),
            title=number(clip(result.title, 160)),
            scenario=number(scenario_of(result)),
            version=number(result.version),
            trial=result.trial,
            verdict=number(result.verdict),
            grade=number(result.grade),
            seconds=-1 if entry.seconds is None else round(entry.seconds, 2),
            reason=number(clip(result.reason, 200)),
            signature=number(result.signature),
            expected=number(clip(result.expected, 120)),
            seed=result.seed,
            chunk=chunk,
            place=place,
            offset=_offset(result),
        )


def _offset(result: TrialResult) -> float | None:
    swept = result.offset
    return None if swept is None else swept.asked_ms if swept.took_ms is None else swept.took_ms


# What ``visible`` may have to spell, as JSON writes it: C0 as \u00.., the rest as it is
_SUSPECT = re.compile(
    r"\\u00[01]|[\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\\[bfr]"
    "|[\U000e0000-\U000e007f]"
)


def _json(record: Any) -> bytes:
    try:
        line = msgspec.json.encode(record)
    except UnicodeEncodeError:  # half a surrogate pair
        return msgspec.json.encode(_visible(msgspec.to_builtins(record)))
    if _SUSPECT.search(line.decode()):  # seldom: to look costs a tenth of spelling all
        line = msgspec.json.encode(_visible(msgspec.to_builtins(record)))
    return line


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, (list, tuple)):
        return [_visible(item) for item in value]
    if isinstance(value, dict):
        return {key: _visible(item) for key, item in value.items()}
    return value


def _squeezed(line: bytes) -> str:
    return base64.b64encode(gzip.compress(line, 6, mtime=0)).decode("ascii")

"""Which trials' evidence the page holds, and where: drawn into it, compressed, or left in the bundle on disk.

All that reproduced is kept, and of the others a few of each scenario on each version. One trial of each (scenario,
version, result) is drawn, so that every number of the matrix leads to evidence without a script; the rest travels
compressed. Where the room does not suffice, every group gets its share, and what was left out is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
from markupsafe import Markup

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish import drawing
from pytest_ocrepro.publish.counting import Entry, plural, scenario_of
from pytest_ocrepro.publish.packing import ON_THE_PAGE, Chunks
from pytest_ocrepro.publish.trial_document import document
from pytest_ocrepro.publish.trial_view import View

OTHERS = 3  # trials of one (scenario, version, result) that did not reproduce whose evidence is kept
DRAWN_CHARACTERS = 2_500_000  # drawn into the page: it is to open at once
PACKED_CHARACTERS = 11_000_000  # compressed: the page is to be attached

Reader = Callable[[Entry], View | None]


class Evidence(msgspec.Struct, kw_only=True):
    """``where``: chunk and place by anchor. Trials that are counted here have a row and their bundle on disk."""

    drawn: list[Markup] = []
    where: dict[str, tuple[int, int]] = {}
    chunks: list[str] = []
    like_others: int = 0  # did not reproduce, as others that are kept
    no_room: int = 0

    @property
    def kept(self) -> int:
        """Trials whose evidence is on the page."""
        return len(self.where)

    @property
    def anchors(self) -> frozenset[str]:
        """Those of the drawn ones."""
        return frozenset(anchor for anchor, (chunk, _) in self.where.items() if chunk == ON_THE_PAGE)

    @property
    def left_out(self) -> str:
        """What is not on the page and why, in sentences; "" where all is."""
        told = []
        if self.like_others:
            told.append(f"{plural(self.like_others, 'trial')} like others that did not reproduce")
        if self.no_room:
            told.append(f"{plural(self.no_room, 'trial')} for which there was no room")
        rows = "have" if self.like_others + self.no_room > 1 else "has"
        return f"Only a row here, and their bundle on disk, {rows} {' and '.join(told)}." if told else ""


def gather(entries: Sequence[Entry], read: Reader, clearest: Entry | None) -> Evidence:
    """Read, draw and pack; ``read`` gives None for a bundle that cannot be read. ``clearest`` is drawn open."""
    return _Gathering(read, clearest).gather(entries)


class _Gathering:
    """One page's."""

    def __init__(self, read: Reader, clearest: Entry | None) -> None:
        self._read = read
        self._clearest = clearest
        self._evidence = Evidence()
        self._chunks = Chunks()
        self._characters = 0

    def gather(self, entries: Sequence[Entry]) -> Evidence:
        groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.path is not None:
                groups[scenario_of(entry.result), entry.result.version, entry.says].append(entry)
        for group in groups.values():
            if self._clearest in group:
                self._draw_one([self._clearest])
            elif self._characters < DRAWN_CHARACTERS:
                self._draw_one(group)
        left = len(groups)
        for group in sorted(groups.values(), key=len):  # what a small group does not use is there for the large ones
            self._pack(group, (PACKED_CHARACTERS - self._chunks.size) // left)
            left -= 1
        self._chunks.close()
        self._evidence.chunks = self._chunks.done
        return self._evidence

    def _draw_one(self, group: Sequence[Entry | None]) -> None:
        """The first that can be read."""
        view = next((view for entry in group if entry is not None and (view := self._read(entry))), None)
        if view is None:
            return
        number = len(self._evidence.drawn)
        one = drawing.trial(document(view, uid=f"{number}"), opened=view.entry is self._clearest)
        self._evidence.drawn.append(one)
        self._characters += len(one)
        self._evidence.where[view.entry.anchor] = ON_THE_PAGE, number

    def _pack(self, group: Sequence[Entry], room: int) -> None:
        begun = self._chunks.size
        rest = [entry for entry in group if entry.anchor not in self._evidence.where]
        if group[0].says is not Result.REPRODUCED:
            wanted = max(0, OTHERS - (len(group) - len(rest)))
            self._evidence.like_others += len(rest[wanted:])
            rest = rest[:wanted]
        for entry in rest:
            if self._chunks.size - begun >= room:
                self._evidence.no_room += 1
                continue
            view = self._read(entry)
            if view is not None:
                self._evidence.where[entry.anchor] = self._chunks.add(document(view, uid="0"))

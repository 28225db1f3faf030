"""The logs of all processes and what the harness did, interleaved on the trial's one clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pytest_ocrepro.events import ProcessFound, ProcessStarted, TrialStarted
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.document import LEVELS, MAX_VOICES, Block, Line, Logbook, Paragraph, Part, mono, said
from pytest_ocrepro.publish.log_clock import TimedLine, timed_lines
from pytest_ocrepro.publish.moments import moments, origin_of
from pytest_ocrepro.publish.text import clip
from pytest_ocrepro.readings import LogTail, Snapshot

KEPT_LINES = 150  # of one voice: what was last is what tells most
_HARNESS = "harness"


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line and its place."""

    at_s: float
    voice: str
    level: str
    text: str


def logbook(history: History, full: Sequence[Snapshot], anchor: str) -> Iterator[Block]:
    """Every line of the snapshots' log tails and every moment of the harness; long voices lose their beginning."""
    started = next(iter(history.of_type(TrialStarted)), None)
    tails = {(tail.path, tail.pid): tail for snapshot in full for tail in snapshot.logs}
    if started is None:
        return
    names = _names(history, tails.values())
    lines = timed_lines(full, started, continued=True)
    entries = sorted([*_logged(lines, names, origin_of(history)), *_harness(history)], key=lambda one: one.at_s)
    entries = list(_cut(entries))
    voices = _voices(entries)
    shown = tuple(_line(one, voices) for one in entries)
    told = tuple(dict.fromkeys(_size_in_words(tail, names) for tail in tails.values()))
    levels = tuple(level for level in LEVELS if any(line.level == level for line in shown))
    caption = "Logs of all processes and moments of the harness, on one clock; seconds since the trial's start"
    book = Logbook(caption=caption, voices=voices, levels=levels, lines=shown)
    sizes = tuple(Paragraph(text=said(mono(one)), css="small soft") for one in told)
    note = f"{len(shown)} lines of {len(voices)} voices on one clock"
    yield Part(title="Logs", note=note, id=f"{anchor}-logs", blocks=(book, *sizes))


def _names(history: History, tails: Iterable[LogTail]) -> dict[tuple[str, int | None], str]:
    """Whose each log is. Two processes that share a file without marks of their own speak with one voice."""
    roles = {e.id.pid: e.role for e in history if isinstance(e, (ProcessStarted, ProcessFound))}
    alike: dict[tuple[str, tuple[str, ...]], list[LogTail]] = defaultdict(list)
    for tail in tails:
        alike[tail.path, tuple(line.text for line in tail.lines)].append(tail)
    names: dict[tuple[str, int | None], str] = {}
    for group in alike.values():
        name = " or ".join(_role(roles, tail.pid) for tail in group)
        names |= {(tail.path, tail.pid): name for tail in group}
    return names


def _role(roles: dict[int, str], pid: int | None) -> str:
    return "shared log" if pid is None else roles.get(pid, f"pid {pid}")


def _logged(lines: Iterable[TimedLine], names: dict[tuple[str, int | None], str], origin_ns: int) -> Iterator[_Entry]:
    seen: set[tuple[str, int, str]] = set()
    for one in lines:
        voice = names[one.path, one.pid]
        key = voice, one.at_ns, one.line.text
        if " or " in voice and key in seen:  # the same line of the same file, told of each of its writers
            continue
        seen.add(key)
        mark = "◆ " if one.line.milestone else ""
        level = one.line.level.lower()
        yield _Entry(
            at_s=(one.at_ns - origin_ns) / 1e9,
            voice=voice,
            level=level if level in LEVELS else "other",
            text=mark + clip(one.line.text, 600),
        )


def _harness(history: History) -> Iterator[_Entry]:
    for moment in moments(history):
        text = f"{moment.kind}: {clip(moment.text, 300)}"
        yield _Entry(at_s=moment.at_s, voice=_HARNESS, level="other", text=text)


def _cut(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """The last lines of each voice; where its beginning was, how much is missing."""
    left: dict[str, int] = defaultdict(int)
    for one in entries:
        left[one.voice] += 1
    missing = {voice: count - KEPT_LINES for voice, count in left.items() if count > KEPT_LINES}
    for one in entries:
        left[one.voice] -= 1
        if left[one.voice] >= KEPT_LINES:
            continue
        if one.voice in missing:
            text = f"… {missing.pop(one.voice):,} lines cut …"
            yield msgspec.structs.replace(one, level="other", text=text)
        yield one


def _voices(entries: Iterable[_Entry]) -> tuple[str, ...]:
    voices = list(dict.fromkeys([_HARNESS, *(one.voice for one in entries)]))
    return tuple(voices if len(voices) <= MAX_VOICES else [*voices[: MAX_VOICES - 1], "others"])


def _line(one: _Entry, voices: Sequence[str]) -> Line:
    text = one.text if one.voice in voices else f"{one.voice}: {one.text}"
    who = voices.index(one.voice) if one.voice in voices else len(voices) - 1
    return Line(at=f"{one.at_s:.3f}", who=who, level=one.level, text=text)


def _size_in_words(tail: LogTail, names: dict[tuple[str, int | None], str]) -> str:
    last = f", last milestone {tail.milestone}" if tail.milestone else ""
    size = f"{tail.size_bytes:,} B, of which the last {len(tail.lines)} lines were looked at"
    return f"{names[tail.path, tail.pid]}: {tail.path}, {size}{last}"

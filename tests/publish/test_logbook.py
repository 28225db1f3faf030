from __future__ import annotations

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.document import MAX_VOICES, Logbook, Part
from pytest_ocrepro.publish.logbook import KEPT_LINES, logbook

S = 10**9
WALL = "2026-11-21T09:04:25.000+00:00"


def book(tails: tuple[r.LogTail, ...], *events: h.Event) -> Logbook:
    started = h.TrialStarted(
        at_ns=7 * S, scenario="s", version="1", trial=1, seed=0, wall=WALL, boot_id="b", kernel="6", cpus=2
    )
    look = r.Snapshot(number=1, started_ns=19 * S, ended_ns=20 * S, boottime_ns=0, full=True, logs=tails)
    history = History.of([started, *events, h.SnapshotTaken(at_ns=20 * S, snapshot=look)])
    (part,) = logbook(history, [look], "trial-x")
    assert isinstance(part, Part)
    assert part.id == "trial-x-logs"
    assert isinstance(part.blocks[0], Logbook)
    return part.blocks[0]


def process(pid: int, role: str) -> h.Event:
    return h.ProcessFound(
        at_ns=8 * S, id=r.ProcessId(pid=pid, start_ticks=pid), role=role, argv=("x",), parent_pid=1, is_subject=True
    )


def tail(pid: int | None, *lines: str, path: str = "l", level: str = "INFO") -> r.LogTail:
    told = tuple(r.LogLine(text=line, level="" if "timestamp" not in line else level) for line in lines)
    return r.LogTail(path=path, pid=pid, size_bytes=9, lines=told)


def at(second: float, text: str) -> str:
    return f"timestamp=2026-11-21T09:04:{25 + second:06.3f}Z level=INFO run=1 message={text}"


def told(found: Logbook) -> list[tuple[str, str, str]]:
    return [(line.at, found.voices[line.who], line.text.rpartition("=")[2]) for line in found.lines]


def test_two_logs_and_the_harness_are_one_story() -> None:
    found = book(
        (tail(1, at(2, "a"), "  at somewhere()", at(6, "c")), tail(2, at(3.5, "b"))),
        process(1, "first"),
        process(2, "second"),
        h.FaultInjected(at_ns=11 * S, fault="registry", detail="stalls"),
    )
    assert told(found)[2:] == [
        ("2.000", "first", "a"),
        ("2.000", "first", "  at somewhere()"),
        ("3.500", "second", "b"),
        ("4.000", "harness", "fault injected: registry, stalls"),
        ("6.000", "first", "c"),
        ("13.000", "harness", "snapshot: number 1"),
    ]
    assert found.levels == ("info", "other")
    assert [line.level for line in found.lines][2:4] == ["info", "other"]


def test_processes_that_share_a_file_speak_with_one_voice() -> None:
    found = book((tail(1, at(2, "a"), at(3, "b")), tail(2, at(2, "a"), at(3, "b"))), process(1, "x"), process(2, "y"))
    assert [one for one in told(found) if one[1] != "harness"] == [("2.000", "x or y", "a"), ("3.000", "x or y", "b")]


def test_a_long_voice_loses_its_beginning_and_says_so() -> None:
    lines = tuple(at(n / 100, f"{n}") for n in range(KEPT_LINES + 40))
    found = [one for one in told(book((tail(5, *lines),))) if one[1] == "pid 5"]
    assert found[0] == ("0.400", "pid 5", "… 40 lines cut …")
    assert [text for _, _, text in found[1:]] == [str(n) for n in range(40, KEPT_LINES + 40)]


def test_more_voices_than_filters_are_the_others() -> None:
    tails = tuple(tail(n, at(n, f"{n}"), path=f"l{n}") for n in range(1, 15))
    found = book(tails)
    assert len(found.voices) == MAX_VOICES
    assert found.voices[-1] == "others"
    assert any(line.text.startswith("pid 14: ") and line.who == MAX_VOICES - 1 for line in found.lines)


def test_without_a_clock_there_is_no_logbook() -> None:
    assert list(logbook(History.of([h.Note(at_ns=1, text="x")]), [], "a")) == []

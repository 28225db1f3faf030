from __future__ import annotations

import msgspec
import pytest

from pytest_ocrepro import readings as r
from pytest_ocrepro.events import TrialStarted
from pytest_ocrepro.publish.log_clock import TimedLine, timed_lines

MS = 1_000_000
STARTED = TrialStarted(
    at_ns=5_000 * MS, scenario="s", version="1", trial=1, seed=0, wall="2026-11-21T00:44:35.250+00:00", boot_id="b"
)


def snapshot(*texts: str, pid: int = 1) -> r.Snapshot:
    lines = tuple(r.LogLine(text=text) for text in texts)
    tail = r.LogTail(path=f"{pid}.log", pid=pid, size_bytes=1, lines=lines)
    return r.Snapshot(number=1, started_ns=0, ended_ns=0, boottime_ns=0, full=True, logs=(tail,))


def read(*snapshots: r.Snapshot) -> list[TimedLine]:
    return list(timed_lines(snapshots, STARTED))


def since_start_ms(lines: list[TimedLine]) -> list[float]:
    return [(line.at_ns - STARTED.at_ns) / MS for line in lines]


def modern(at: str, word: str = "x") -> str:
    return f"timestamp=2026-11-21T{at}Z level=INFO run=1 message={word}"


def legacy(at: str, since_ms: int, word: str = "x") -> str:
    return f"INFO  2026-11-21T{at} +{since_ms}ms service=db {word}"


def test_the_newer_dialect_is_right_to_the_millisecond() -> None:
    lines = read(snapshot(modern("00:44:35.250"), modern("00:44:36.001")))
    assert since_start_ms(lines) == [0, 751]
    assert {line.exact_to_s for line in lines} == {0.001}


def test_lines_of_one_second_of_the_older_dialect_follow_each_other() -> None:
    texts = (legacy("00:44:36", 336), legacy("00:44:36", 0), legacy("00:44:36", 40), legacy("00:44:37", 2))
    lines = read(snapshot(*texts))
    assert since_start_ms(lines) == [750, 750, 790, 1750]
    assert {line.exact_to_s for line in lines} == {1.0}


def test_a_gap_never_leads_out_of_the_lines_own_second() -> None:
    lines = read(snapshot(legacy("00:44:36", 0), legacy("00:44:36", 5_000)))
    first, second = since_start_ms(lines)
    assert first == 750
    assert 1749 < second < 1750


def test_a_line_is_told_once_though_several_snapshots_show_it() -> None:
    texts = [modern(f"00:44:3{n}.000", f"word-{n}") for n in range(5, 9)]
    lines = read(snapshot(*texts[:2]), snapshot(*texts[:3]), snapshot(*texts[1:]), snapshot(*texts[1:]))
    assert [line.line.text for line in lines] == texts


def test_words_that_come_again_are_told_again() -> None:
    same = modern("00:44:36.000", "again")
    assert len(read(snapshot(same, same), snapshot(same, same, same))) == 3


def test_a_tail_that_has_lost_all_that_was_known_is_all_new() -> None:
    texts = [modern(f"00:44:3{n}.000") for n in range(5, 9)]
    assert len(read(snapshot(*texts[:2]), snapshot(*texts[2:]))) == 4


def test_each_log_has_a_clock_of_its_own() -> None:
    one, two = snapshot(legacy("00:44:36", 0), pid=1), snapshot(legacy("00:44:36", 700), pid=2)
    both = msgspec.structs.replace(one, logs=(*one.logs, *two.logs))
    assert since_start_ms(read(both)) == [750, 750]
    assert [line.pid for line in read(both)] == [1, 2]


@pytest.mark.parametrize("text", ["", "panic: no time", "timestamp=yesterday level=INFO x", "INFO  2026 +1ms x"])
def test_a_line_that_does_not_say_when_is_left_out(text: str) -> None:
    assert read(snapshot(text)) == []


@pytest.mark.parametrize("stamp", ["2026-13-45T99:99:99.000Z", "0000-00-00T00:00:00.000Z"])
def test_what_only_looks_like_an_instant_is_none(stamp: str) -> None:
    assert read(snapshot(f"timestamp={stamp} level=INFO run=1 message=x")) == []


def test_without_a_clock_of_the_trial_there_is_no_time() -> None:
    lost = msgspec.structs.replace(STARTED, wall="yesterday")
    line = r.LogLine(text="timestamp=2026-11-21T09:04:26.071Z level=INFO run=1 message=x")
    tail = r.LogTail(path="l", pid=1, size_bytes=1, lines=(line,))
    look = r.Snapshot(number=1, started_ns=1, ended_ns=1, boottime_ns=1, full=True, logs=(tail,))
    assert list(timed_lines([look], lost)) == []

from __future__ import annotations

import msgspec

from pytest_ocrepro.events import ProcessStarted, StepWaited, SweptOffset
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.offsets import Offset
from pytest_ocrepro.publish.danger_window import danger_windows, in_lines
from pytest_ocrepro.publish.records import TrialResult, offset_of
from pytest_ocrepro.readings import ProcessId


def trial(result: str, asked_ms: float | None, *, version: str = "1.18.34", number: int = 1) -> TrialResult:
    told = {
        "run_id": "r", "scenario": f"a.py::test_it[{version}-t{number}]", "title": "it", "issue": (),
        "version": version, "binary_sha256": "", "trial": number, "seed": 0, "result": result, "reason": "",
        "verdict": "completed", "grade": "weak", "seconds_to_verdict": 0.0, "chain": (), "processes": (),
        "findings": (), "leaked": (), "signature": "", "bundle": "",
    }  # fmt: skip
    if asked_ms is None:
        return msgspec.convert(told, TrialResult)
    offset = Offset(asked_ms=asked_ms, took_ms=asked_ms + 7, low_ms=0, high_ms=800, after="the start of run")
    return msgspec.structs.replace(msgspec.convert(told, TrialResult), offset=offset)


def test_trials_become_rows_by_scenario_and_version() -> None:
    tried = [("reproduced", 400), ("not-seen", 400), ("reproduced", 200), ("not-seen", 0), ("inconclusive", 800)]
    results = [trial(result, offset, number=n) for n, (result, offset) in enumerate(tried, 1)]
    old = trial("not-seen", 0, version="1.14.48")
    first, window = danger_windows([*results, old, trial("reproduced", None)])
    assert (first.version, first.headline) == ("1.14.48", "not seen in 1 trials, 0 to 800 ms after the start of run")
    assert [(row.offset_ms, row.failed, row.n) for row in window.rows] == [(0, 0, 1), (200, 1, 1), (400, 1, 2)]
    assert (window.scenario, window.failed, window.n, window.lag_ms) == ("a.py::test_it", 2, 4, 7)
    assert window.headline == "seen at 200 to 400 ms; 2 of 4 trials, 0 to 800 ms after the start of run"


def test_the_table_says_offset_count_interval_and_rate() -> None:
    (window,) = danger_windows([trial("reproduced", 200), trial("not-seen", 0), trial("not-seen", 200)])
    head, none, half = in_lines(window)
    assert head.startswith("danger window of it on 1.18.34: seen at 200 ms")
    assert none.split() == ["0", "ms", "0/1", "0-79", "%"]
    assert half.split() == ["200", "ms", "1/2", "9.5-91", "%", "##########"]


def test_no_trial_with_an_offset_makes_no_window() -> None:
    assert danger_windows([trial("reproduced", None), trial("inconclusive", 100)]) == ()


def test_the_offset_is_told_with_when_the_next_process_really_started() -> None:
    def started(at_ns: int) -> ProcessStarted:
        identity = ProcessId(pid=1, start_ticks=1)
        return ProcessStarted(
            at_ns=at_ns, id=identity, role="run", argv=(), obligation="", fail_fast_s=1, deadline_s=1, stdin=""
        )

    swept = SweptOffset(asked_s=0.4, low_s=0, high_s=3.2, since_ns=1_000_000_000)
    waited = StepWaited(at_ns=1_401_000_000, kind="offset", what="the start of run", offset=swept)
    history = History.of([started(1_000_000_000), waited, started(1_403_000_000), started(2_000_000_000)])
    told = offset_of(history)
    assert told == Offset(asked_ms=400, took_ms=403, low_ms=0, high_ms=3200, after="the start of run")
    assert offset_of(History.of([waited])) == msgspec.structs.replace(told, took_ms=None)
    assert offset_of(History.of([started(1)])) is None

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.subject import Build

SWEPT = """
    def test_swept(ocrepro):
        first = ocrepro.run("hi", model="bogus/x")
        offset_s = ocrepro.sweep(first, 0.8)
        second = ocrepro.run("hi", model="crash" if 0.2 <= offset_s <= 0.4 else "bogus/x")
        ocrepro.expect(second).to_finish()
"""
TRIALS = 8


def test_trials_of_a_run_go_where_the_rate_is_not_known(
    pytester: pytest.Pytester, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    pytester.makepyfile(test_it=SWEPT)
    options = [f"--ocrepro-binary={stand_in}", f"--ocrepro-trials={TRIALS}", "--ocrepro-expect=any"]
    done = pytester.runpytest_subprocess("--ocrepro", *options, "test_it.py", timeout=240)
    done.assert_outcomes(passed=TRIALS)
    lines = (pytester.path / "reports/latest/results.jsonl").read_text().splitlines()
    told = {one["offset"]["asked_ms"]: one for one in map(json.loads, lines)}
    assert len(told) == TRIALS, "none is tried twice while others were never tried"
    for asked_ms, one in told.items():
        assert (one["result"] == "reproduced") == (200 <= asked_ms <= 400)
        assert one["offset"]["took_ms"] >= asked_ms
        assert one["offset"]["after"] == "the start of first"
    failing = sorted(offset for offset in told if 200 <= offset <= 400)
    assert failing, "the sweep found the window"
    done.stdout.fnmatch_lines(
        [f"danger window of *swept*: seen at {failing[0]:g}*", *(f"*{offset:g} ms *1/1 *####*" for offset in failing)]
    )


def test_a_range_that_is_none_is_refused(stand_in: Path, tmp_path: Path) -> None:
    session = Session(RunDir.create(tmp_path / "reports"))
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    trial = Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    try:
        with pytest.raises(UsageError, match=r"a sweep from 2 to 1 s has no offsets: give 0 <= least_s < most_s"):
            trial.sweep(trial.at_request(), 1, least_s=2)
    finally:
        trial.finish()
        session.close()

"""What is new against an earlier run, and the README's workflow for every night, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.publish.news import News, news

README = Path(__file__).parents[2] / "README.md"
SCENARIOS = """
    import os

    def test_old(ocrepro):
        ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()

    def test_sometimes(ocrepro):
        ocrepro.expect(ocrepro.run("hi", model=os.environ["NOW"])).to_finish()
"""


def line(scenario: str, result: str, signature: str = "", **fields: object) -> TrialResult:
    told = {
        "run_id": "r", "scenario": f"a.py::{scenario}", "title": scenario, "issue": (), "version": "1.0.0",
        "binary_sha256": "", "trial": 1, "seed": 0, "result": result, "reason": "", "verdict": "completed",
        "grade": "weak", "seconds_to_verdict": 0.0, "chain": (), "processes": (), "findings": (), "leaked": (),
        "signature": signature, "bundle": "trials/x",
    }  # fmt: skip
    return msgspec.convert(told | fields, TrialResult)


def run_of(folder: Path, *lines: TrialResult) -> Path:
    run = RunDir.create(folder)
    for number, one in enumerate(lines, 1):
        run.append_result(
            msgspec.structs.replace(one, run_id=run.path.name, trial=number, bundle=f"trials/t{number}")
        )
    return run.path


def test_new_is_a_worse_rate_a_first_reproduction_and_a_first_signature(tmp_path: Path) -> None:
    before = [line("worse", "not-seen")] * 12 + [
        line("same", "reproduced", "oc-1 x"),
        line("sign", "reproduced", "oc-1 x"),
    ]
    before += [line("gone", "reproduced", "oc-1 x")]
    now = [line("worse", "reproduced", "oc-1 x")] * 12 + [line("same", "reproduced", "oc-1 x")]
    now += [line("sign", "reproduced", "oc-2 y"), line("first", "reproduced", "oc-1 x"), line("calm", "not-seen")]
    found = news(run_of(tmp_path / "a", *before), run_of(tmp_path / "b", *now))
    assert {name.rpartition("::")[2] for name in found.scenarios} == {"worse", "sign", "first"}
    assert found.worse


def test_on_another_version_what_was_known_is_no_news(tmp_path: Path) -> None:
    before = run_of(tmp_path / "a", *[line("known", "reproduced", "oc-1 x")] * 3, *[line("rises", "not-seen")] * 12)
    risen = [line("rises", "reproduced", "oc-1 x", version="1.0.1")] * 12
    now = run_of(tmp_path / "b", *[line("known", "reproduced", "oc-1 x", version="1.0.1")] * 3, *risen)
    assert news(before, now).scenarios == ("a.py::rises",)
    assert news(before, now).worse
    assert news(now, now) == News(scenarios=(), worse=False)


def night(pytester: pytest.Pytester, stand_in: Path, name: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOW", model)
    options = ["--ocrepro-expect=any", "--ocrepro-trials=5", f"--ocrepro-reports={name}", "--ocrepro-github=off"]
    done = pytester.runpytest_subprocess("--ocrepro", f"--ocrepro-binary={stand_in}", *options, "test_night.py")
    done.assert_outcomes(passed=10)
    shutil.copytree(RunDir.read(pytester.path / name).path, pytester.path / f"{name}-run")


def steps() -> str:
    """What the README's last step runs."""
    found = re.search(r"hashFiles\('before/run\.json'\).*?run: (.*?)\n```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_readmes_night_fails_and_tells_what_is_new(
    pytester: pytest.Pytester, stand_in: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    pytester.makepyfile(test_night=SCENARIOS)
    night(pytester, stand_in, "calm", "bogus/x", monkeypatch)
    night(pytester, stand_in, "bad", "crash", monkeypatch)

    def end_of(before: str, now: str) -> tuple[int, str]:
        place = pytester.mkdir(f"{before}-{now}")
        (place / "before").symlink_to(pytester.path / f"{before}-run")
        (place / "merged").symlink_to(pytester.path / f"{now}-run")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        told = place / "summary.md"
        done = subprocess.run(
            ["bash", "-e", "-c", steps()], cwd=place, check=False,
            env={**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(told)},
        )  # fmt: skip
        return done.returncode, told.read_text()

    code, summary = end_of("calm", "bad")
    assert code == 1
    assert "sometimes" in summary
    assert summary.count("### ") >= 3, "the headings of an issue text"
    assert "signal 11" in summary
    code, summary = end_of("bad", "bad")
    assert (code, "signal 11" in summary) == (0, False)

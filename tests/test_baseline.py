from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.baseline import Verdict, compare, read_baseline, run_of
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.records import TrialResult

Run = Callable[..., pytest.RunResult]


def results(
    scenario: str, k: int, n: int, *, version: str = "1.2.0", unsure: int = 0, sign: str = "oc-1 x"
) -> list[TrialResult]:
    """k of n reproduced, and so many inconclusive ones more."""
    told = ["reproduced"] * k + ["not-seen"] * (n - k) + ["inconclusive"] * unsure
    return [
        TrialResult(
            run_id="r", scenario=f"s.py::{scenario}[{version}-t{trial}]", title="", issue=(), version=version,
            binary_sha256="", trial=trial, seed=0, result=result, reason="", verdict="", grade="",
            seconds_to_verdict=0.0, chain=(), processes=(), findings=(), leaked=(),
            signature=sign if result == "reproduced" else "", bundle=f"trials/{scenario}-{trial}",
        )
        for trial, result in enumerate(told, 1)
    ]  # fmt: skip


def against(then: list[TrialResult], now: list[TrialResult]) -> Verdict:
    return compare(then, now)


@pytest.mark.parametrize(
    ("then", "now", "worse", "better"),
    [
        ((0, 10), (10, 10), True, False),
        ((10, 10), (0, 10), False, True),
        ((0, 20), (1, 1), True, False),
        ((0, 20), (3, 20), False, False),
        ((5, 8), (1, 8), False, False),
        ((10, 10), (10, 10), False, False),
    ],
)
def test_only_what_chance_does_not_explain_is_told(
    then: tuple[int, int],
    now: tuple[int, int],
    worse: bool,  # noqa: FBT001
    better: bool,  # noqa: FBT001
) -> None:
    told = against(results("a", *then), results("a", *now))
    assert ([pair.worse for pair in told.pairs], [pair.better for pair in told.pairs]) == ([worse], [better])
    assert told.failed == worse


def test_twenty_scenarios_do_not_make_one_worse_by_chance() -> None:
    """p is 0.048 for each: alone it would be told, among twenty it is to be expected."""
    then, now = [], []
    for number in range(20):
        then += results(f"t{number}", 0, 20)
        now += results(f"t{number}", int(number == 7), 1)
    told = against(then, now)
    assert not told.failed
    assert sum(pair.worse for pair in told.pairs) == 0
    assert "20 of 20 comparisons have too few trials" in list(told.lines())[-1]


def test_another_version_is_compared_with_the_newest_of_the_baseline() -> None:
    then = results("a", 9, 10, version="1.9.0") + results("a", 0, 10, version="1.10.0")
    (pair,) = against(then, results("a", 10, 10, version="1.11.0")).pairs
    assert (pair.then_version, str(pair.then), pair.worse) == ("1.10.0", "0/10", True)
    (pair,) = against(then, results("a", 10, 10, version="1.9.0")).pairs
    assert (pair.then_version, pair.worse) == ("1.9.0", False)
    assert "worse: s.py::a: 1.10.0 0/10, 1.11.0 10/10 (p 1.1e-05)" in list(
        against(then, results("a", 10, 10, version="1.11.0")).lines()
    )


def test_inconclusive_is_never_a_pass() -> None:
    told = against(results("a", 0, 10), results("a", 0, 0, unsure=4))
    assert told.failed
    assert "no conclusive trial on one side: s.py::a: then 0/10, 1.2.0 0/0" in list(told.lines())
    other = against(results("a", 0, 10) + results("b", 0, 9), results("a", 0, 0, unsure=4) + results("b", 0, 9))
    assert not other.failed


def test_what_is_new_is_told() -> None:
    told = against(results("a", 2, 9), results("a", 3, 9, sign="oc-2 y") + results("b", 0, 3))
    assert told.missing == ("s.py::b",)
    lines = list(told.lines())
    assert "not in the baseline: s.py::b" in lines
    assert "new signature: oc-2 y in s.py::a" in lines
    assert against(results("b", 0, 3), results("a", 0, 3)).failed, "nothing at all could be compared"


def test_a_baseline_is_a_file_or_a_directory(tmp_path: Path) -> None:
    run = tmp_path / "reports/run"
    run.mkdir(parents=True)
    told = results("a", 1, 3)
    (run / "results.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in told))
    (run / "run.json").write_text('{"run_id":"run"}')
    assert read_baseline(run / "results.jsonl") == read_baseline(run) == tuple(told)
    assert run_of(run / "results.jsonl") == run_of(run) == run.resolve()
    (tmp_path / "alone.jsonl").write_bytes(b"")
    assert run_of(tmp_path / "alone.jsonl") is None


@pytest.mark.parametrize("content", [None, "", "rubbish\n", '{"run_id": 1}\n'])
def test_what_is_no_baseline_is_told_in_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"the baseline .*results\.jsonl") as caught:
        read_baseline(path)
    assert "\n" not in str(caught.value)


# --- whole runs


@pytest.fixture
def run(pytester: pytest.Pytester, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OCREPRO_BINARY", "OCREPRO_TRIALS", "OCREPRO_EXPECT", "OCREPRO_REPORTS", "OCREPRO_BASELINE"):
        monkeypatch.delenv(name, raising=False)

    def go(model: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(
            test_it=f'def test_it(ocrepro):\n    ocrepro.expect(ocrepro.run("hi", model="{model}")).to_finish()\n'
        )
        fixed = ("--ocrepro", f"--ocrepro-binary={stand_in}", "-p", "no:cacheprovider", "--ocrepro-trials=4")
        return pytester.runpytest_subprocess(*fixed, *arguments, "test_it.py", timeout=120)

    return go


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_run_fails_only_where_it_got_worse(pytester: pytest.Pytester, run: Run, workers: tuple[str, ...]) -> None:
    run("bogus/x", "--ocrepro-reports=before", *workers)
    kept = pytester.path / "before/latest/results.jsonl"
    worse = run("crash", f"--ocrepro-baseline={kept}", *workers)
    worse.assert_outcomes(passed=4)
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    worse.stdout.fnmatch_lines(
        ["against the baseline: 1 worse, 0 better, 0 not told apart", "worse: test_it.py::test_it:*"]
    )
    crashed = pytester.path / "reports/latest/results.jsonl"
    same = run("crash", f"--ocrepro-baseline={crashed}", "--ocrepro-reports=again", *workers)
    assert same.ret == pytest.ExitCode.OK
    better = run("bogus/x", f"--ocrepro-baseline={crashed}", "--ocrepro-reports=better", *workers)
    assert better.ret == pytest.ExitCode.OK
    better.stdout.fnmatch_lines(["better: test_it.py::test_it: then 4/4, 9.9.9 0/4 (p 0.029)"])


def test_a_baseline_that_is_none_ends_it_before_anything_runs(pytester: pytest.Pytester, run: Run) -> None:
    result = run("bogus/x", "--ocrepro-baseline=none.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*the baseline *none.jsonl holds no results: give the results.jsonl of an earlier run*"]
    )
    assert not (pytester.path / "reports").exists()


def test_an_expectation_that_is_given_counts_beside_it(pytester: pytest.Pytester, run: Run) -> None:
    run("crash", "--ocrepro-reports=before")
    kept = pytester.path / "before/latest/results.jsonl"
    result = run("crash", f"--ocrepro-baseline={kept}", "--ocrepro-expect=clean")
    result.assert_outcomes(failed=4)

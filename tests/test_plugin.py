from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.pytest_session import OcreproSession
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.settings import EXPECTATIONS
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.subject import PINNED, Build, fetch

FINISHES = """
    import pytest

    def test_finishes(ocrepro):
        ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()
"""
CRASHES = """
    import pytest

    @pytest.mark.ocrepro(issue="o/r#1", known={known})
    def test_crashes(ocrepro):
        ocrepro.expect(ocrepro.run("hi", model="crash")).to_finish()
"""
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OCREPRO_BINARY", "OCREPRO_TRIALS", "OCREPRO_EXPECT", "OCREPRO_REPORTS"):
        monkeypatch.delenv(name, raising=False)

    def go(*arguments: str, binary: Path | None = stand_in) -> pytest.RunResult:
        which = [] if binary is None else [f"--ocrepro-binary={binary}"]
        return pytester.runpytest_subprocess("--ocrepro", *which, "-p", "no:cacheprovider", *arguments, timeout=120)

    return go


def results(pytester: pytest.Pytester) -> list[dict[str, object]]:
    lines = (pytester.path / "reports/latest/results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.real
def test_the_intrusive_step_proves_the_waiter_of_the_stalled_overlap(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Path(__file__).parents[1] / "scenarios/test_overlap_during_plugin_install.py"
    (pytester.path / "test_overlap.py").write_text(scenario.read_text())
    node = "test_overlap.py::test_run_started_while_another_installs_its_plugin"
    binary = f"--ocrepro-binary={fetch(PINNED).path}"
    pytester.runpytest_subprocess("--ocrepro", binary, "--ocrepro-intrusive", node, timeout=120)
    (line,) = results(pytester)
    assert (line["verdict"], line["grade"], line["leaked"]) == ("blocked", "proved", [])
    chain = line["chain"]
    assert isinstance(chain, list)
    assert chain[0].partition(" [")[2].startswith("proved: strace: 2 times mkdir of it within")


def test_without_the_option_a_scenario_is_skipped_and_nothing_is_loaded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        FINISHES,
        test_load="""
        import sys

        def test_nothing_is_loaded():
            loaded = [name for name in sys.modules if name.startswith("pytest_ocrepro")]
            assert sorted(loaded) == ["pytest_ocrepro", "pytest_ocrepro.plugin"]
        """,
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*a scenario: needs --ocrepro*"])
    assert not (pytester.path / "reports").exists()


def test_a_run_that_fails_fast_is_not_seen(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(FINISHES)
    result = run("test_a_run_that_fails_fast_is_not_seen.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["ocrepro: opencode 9.9.9*", "*= ocrepro =*", "report: file://*report.html*"])
    (line,) = results(pytester)
    assert line["result"] == "not-seen"
    assert line["verdict"] == "failed-fast"
    assert line["leaked"] == []
    assert line["scenario"] == "test_a_run_that_fails_fast_is_not_seen.py::test_finishes"


@pytest.mark.parametrize(
    ("expect", "known", "outcome"),
    [
        ("known", {}, {"failed": 1}),
        ("known", {"9.9.9": "3/8"}, {"xfailed": 1}),
        ("known", ["9.9.9"], {"xfailed": 1}),
        ("known", {"1.0.0": "8/8"}, {"failed": 1}),
        ("clean", {"9.9.9": "8/8"}, {"failed": 1}),
        ("reproduced", {}, {"passed": 1}),
        ("any", {}, {"passed": 1}),
    ],
)
def test_what_becomes_of_a_reproduction(
    pytester: pytest.Pytester, run: Run, expect: str, known: object, outcome: dict[str, int]
) -> None:
    pytester.makepyfile(test_it=CRASHES.format(known=known))
    result = run("test_it.py", "--ocrepro-expect", expect, "-rx")
    result.assert_outcomes(**outcome)
    (line,) = results(pytester)
    assert (line["result"], line["verdict"]) == ("reproduced", "crashed")
    assert str(line["expected"]).startswith(next(iter(outcome)))


def test_parameters_that_never_failed_are_not_known_by_others(pytester: pytest.Pytester, run: Run) -> None:
    text = CRASHES.format(known={"9.9.9": "5/10"}).replace("(ocrepro)", "(ocrepro, how)")
    pytester.makepyfile(test_it=text.replace("    def", '    @pytest.mark.parametrize("how", "xy")\n    def'))
    rows = [f"test_it.py::test_crashes[{how}]\t9.9.9\t{seen}\t5\t0\t" for how, seen in (("x", 5), ("y", 0))]
    (pytester.path / "trials.tsv").write_text("\n".join(["scenario\tversion\tk\tn\tunknown\tsignature", *rows]))
    run("test_it.py").assert_outcomes(xfailed=1, failed=1)
    assert [str(line["expected"]) for line in results(pytester)] == [
        "xfailed: known on 9.9.9 (5/5 in our runs)",
        "failed: not known on 9.9.9 with these parameters (0/5 in our runs)",
    ]


def test_a_known_deterministic_failure_that_is_gone_fails_as_seems_fixed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=CRASHES.format(known={"9.9.9": "20/20"}).replace('"crash"', '"bogus/x"'))
    result = run("test_it.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*seems fixed on 9.9.9*"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("pass", "the scenario demanded nothing of the subject"),
        ("1 / 0", "the scenario raised ZeroDivisionError"),
        ("ocrepro.provider.wait_for_request(timeout_s=0.1)", "the model was not asked"),
        ('ocrepro.spawn(["no-such-program"])', "cannot start no-such-program"),
        ("ocrepro.expect(ocrepro.run('hi', model='ask')).to_complete()", "script is exhausted"),
    ],
)
def test_what_is_our_trouble_is_inconclusive_and_fails(
    pytester: pytest.Pytester, run: Run, body: str, reason: str
) -> None:
    pytester.makepyfile(test_it=f"def test_it(ocrepro):\n    {body}\n")
    result = run("test_it.py")
    result.assert_outcomes(failed=1)
    (line,) = results(pytester)
    assert line["result"] == "inconclusive"
    assert reason in str(line["reason"])


def test_an_assertion_of_the_scenario_is_its_claim(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(ocrepro):
            ocrepro.run("hi", model="bogus/x").wait_for_end()
            assert 1 == 2, 'the world is odd'
        """
    )
    run("test_it.py", "--ocrepro-expect", "reproduced").assert_outcomes(passed=1)
    assert "the world is odd" in str(results(pytester)[0]["reason"])


def test_an_answered_run_completes(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        from pytest_ocrepro import text

        def test_it(ocrepro):
            ocrepro.provider.script(text("forty two"))
            ocrepro.expect(ocrepro.run("hi", model="ask")).to_complete()
        """
    )
    run("test_it.py").assert_outcomes(passed=1)
    assert results(pytester)[0]["verdict"] == "completed"


def test_a_hang_is_found_at_the_deadline_and_nothing_is_left(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(ocrepro):
            ocrepro.expect(ocrepro.run("hi", model="daemon", deadline_s=4)).to_finish()
        """
    )
    result = run("test_it.py")
    result.assert_outcomes(failed=1)
    (line,) = results(pytester)
    assert line["verdict"] in ("stalled", "blocked")
    assert line["leaked"] == []
    assert _still_alive(pytester) == []


def _still_alive(pytester: pytest.Pytester) -> list[int]:
    (bundle,) = (pytester.path / "reports/latest/trials").iterdir()
    events = [json.loads(line) for line in (bundle / "history.jsonl").read_text().splitlines()]
    started = [event["id"] for event in events if event["event"] in ("process-started", "process-found")]
    assert len(started) == 2
    return [one["pid"] for one in started if Reader().alive(ProcessId(**one))]


def test_trials_and_xdist_give_one_table(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=FINISHES)
    result = run("test_it.py", "--ocrepro-trials", "4", "-n", "2", "--ocrepro-seed", "7")
    result.assert_outcomes(passed=4)
    lines = results(pytester)
    assert sorted((line["trial"], line["seed"]) for line in lines) == [(1, 7), (2, 8), (3, 9), (4, 10)]
    result.stdout.fnmatch_lines(["*0/4*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_trials_that_a_look_makes_needless_are_not_run(
    pytester: pytest.Pytester, run: Run, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=CRASHES.format(known={}))
    asked = ("--ocrepro-trials=12", "--ocrepro-looks=7", "--ocrepro-expect=any", "-v")
    result = run("test_it.py", *asked, *workers)
    ran = {line["trial"] for line in results(pytester)}
    assert ran >= set(range(1, 8))
    assert len(ran) == 7 if not workers else len(ran) < 12
    result.assert_outcomes(passed=len(ran), skipped=12 - len(ran))
    result.stdout.fnmatch_lines(
        [
            "ocrepro: a rate above or below 50 %? look after 7, 12 trials and at no other time; *",
            f"*{12 - len(ran)} trial* not needed after a look",
        ]
    )
    assert RunDir.read(pytester.path / "reports/latest").info.planned == len(ran)
    assert "cut short" not in (pytester.path / "reports/latest/report.html").read_text()


def test_looks_and_a_baseline_contradict_each_other(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=FINISHES)
    run("test_it.py").assert_outcomes(passed=1)
    earlier = (pytester.path / "reports/latest/results.jsonl").resolve()
    result = run("test_it.py", f"--ocrepro-baseline={earlier}", "--ocrepro-trials=9", "--ocrepro-looks=8")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ocrepro-looks and a baseline contradict each other*"])


def test_versions_are_tried_in_turns() -> None:
    """What drifts while a run goes on, as the load does, must not look like a difference between two versions."""
    builds = tuple(Build(version=one, path="/x", sha256="", source="binary") for one in ("1.0.0", "1.0.1"))
    share = SimpleNamespace(settings=SimpleNamespace(trials=3), builds=builds)
    asked = Mock()
    OcreproSession.parametrize(SimpleNamespace(share=share), asked)  # type: ignore[arg-type]
    turns = [(build.version, trial) for build, trial in asked.parametrize.call_args.args[1]]
    assert turns == [(version, trial) for trial in (1, 2, 3) for version in ("1.0.0", "1.0.1")]
    assert asked.parametrize.call_args.kwargs["ids"] == [f"{version}-t{trial}" for version, trial in turns]


def test_each_parameter_set_of_a_test_is_a_scenario_and_its_replay_line_runs_it(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.ocrepro(title="a run")
        @pytest.mark.parametrize("words", ["hi", "good-day"])
        def test_it(ocrepro, words):
            ocrepro.expect(ocrepro.run(words, model="bogus/x")).to_finish()
        """
    )
    run("test_it.py", "--ocrepro-trials", "2").assert_outcomes(passed=4)
    assert {(line["scenario"], line["title"]) for line in results(pytester)} == {
        ("test_it.py::test_it[hi]", "a run: hi"),
        ("test_it.py::test_it[good-day]", "a run: good-day"),
    }
    info = next((pytester.path / "reports/latest/trials").glob("*good-day*/trial.json"))
    replay = msgspec.json.decode(info.read_bytes())["replay"]
    again = pytester.runpytest_subprocess(*shlex.split(replay)[1:])
    again.assert_outcomes(passed=1)
    assert results(pytester)[0]["scenario"] == "test_it.py::test_it[good-day]"


PROFILED = """
import pytest

def demand(ocrepro):
    ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()

def test_of_smoke(ocrepro): demand(ocrepro)

@pytest.mark.ocrepro(profile="ci")
def test_of_ci(ocrepro): demand(ocrepro)

@pytest.mark.ocrepro(profile="soak")
def test_of_soak(ocrepro): demand(ocrepro)

@pytest.mark.ocrepro(soak=("large",))
@pytest.mark.parametrize("how", ["small", "large"])
def test_of_sets(ocrepro, how): demand(ocrepro)

def test_of_the_project_itself(): pass
"""


@pytest.mark.parametrize(
    ("arguments", "passed", "deselected"),
    [
        (("test_it.py",), 3, 3),
        (("test_it.py", "--ocrepro-profile", "ci"), 4, 2),
        (("test_it.py", "--ocrepro-profile", "soak"), 6, 0),
        (("test_it.py::test_of_soak",), 1, 0),
        (("test_it.py::test_of_sets",), 2, 0),
        (("test_it.py", "-n", "2"), 3, 0),  # xdist does not tell of what its workers deselect
    ],
)
def test_a_profile_leaves_out_what_is_larger(
    pytester: pytest.Pytester, run: Run, arguments: tuple[str, ...], passed: int, deselected: int
) -> None:
    pytester.makepyfile(test_it=PROFILED)
    run(*arguments).assert_outcomes(passed=passed, deselected=deselected)


ENDINGS = """
import pytest

def test_fails(ocrepro):
    ocrepro.run("hi", model="bogus/x").wait_for_end()
    pytest.fail("it is not so")

def test_asserts_of_nothing(ocrepro):
    assert 1 == 2

def test_skips(ocrepro):
    pytest.skip("not today")

def test_is_expected_to_fail(ocrepro):
    pytest.xfail("one day")

def test_exits(ocrepro):
    raise SystemExit(3)

@pytest.fixture
def broken(ocrepro):
    raise RuntimeError("no")

def test_with_a_broken_fixture(ocrepro, broken):
    pass
"""


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_what_a_mark_skips_was_not_to_be_run(pytester: pytest.Pytester, run: Run, workers: str) -> None:
    skipped = "import pytest\n@pytest.mark.skip(reason='later')\ndef test_later(ocrepro):\n    pass\n"
    pytester.makepyfile(test_finishes=FINISHES, test_later=skipped)
    run(workers, "test_finishes.py", "test_later.py").assert_outcomes(passed=1, skipped=1)
    made = RunDir.read(pytester.path / "reports")
    assert made.info.planned == 1
    assert "cut short" not in (made.path / "report.html").read_text()


def test_a_trial_is_one_line_of_the_results_however_it_ended(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=ENDINGS)
    run("test_it.py").assert_outcomes(failed=3, skipped=1, xfailed=1, errors=1)
    told = {str(line["scenario"]).split("::test_")[1]: (line["result"], line["reason"]) for line in results(pytester)}
    assert told.keys() == {
        "fails",
        "asserts_of_nothing",
        "skips",
        "is_expected_to_fail",
        "exits",
        "with_a_broken_fixture",
    }
    assert told.pop("fails")[0] == "reproduced"
    assert told["skips"] == ("inconclusive", "skipped: not today")
    assert [line["skipped"] for line in results(pytester) if line["skipped"]] == ["not today"]
    assert {result for result, _ in told.values()} == {"inconclusive"}
    assert "nothing was started" in str(told["asserts_of_nothing"][1])


def test_a_build_that_lacks_what_a_scenario_is_about_is_skipped(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        from pytest_ocrepro.errors import LackingError

        def test_it(ocrepro):
            ocrepro.claim("something", held=False, because="of it")
            raise LackingError("this build takes no install lock")
        """
    )
    result = run("test_it.py", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["it * - n/a *skipped: this build takes no install lock; *", "SKIPPED*no install lock"]
    )
    told = 'skipped: this build takes no install lock; before that "something" does not hold: of it'
    assert results(pytester)[0]["reason"] == told
    assert "trouble" not in next((pytester.path / "reports/latest/trials").glob("*/history.jsonl")).read_text()


def test_a_usage_error_leaves_the_newest_run_the_newest(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=FINISHES)
    run("test_it.py")
    before = (pytester.path / "reports/latest").readlink()
    assert run("test_it.py", "--ocrepro-version", "banana", binary=None).ret == pytest.ExitCode.USAGE_ERROR
    run("test_it.py", "-k", "nothing_like_it")
    assert (pytester.path / "reports/latest").readlink() == before
    assert len(list((pytester.path / "reports").iterdir())) == 2


def test_a_replay_line_of_the_catalogue_runs_where_there_is_none(pytester: pytest.Pytester, run: Run) -> None:
    result = run("scenarios/test_overlapping_runs.py::test_single_bogus_run")
    result.assert_outcomes(passed=1)
    assert results(pytester)[0]["scenario"] == "scenarios/test_overlapping_runs.py::test_single_bogus_run"


def test_the_seed_decides_what_a_scenario_draws(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(ocrepro):
            ocrepro.run("hi", model="bogus/x").wait_for_end()
            ocrepro.claim("drawn", held=True, because=str(ocrepro.random.random()))
        """
    )

    def drawn(seed: str) -> str:
        run("test_it.py", "--ocrepro-seed", seed).assert_outcomes(passed=1)
        (history,) = (pytester.path / "reports/latest/trials").glob("*/history.jsonl")
        (line,) = [line for line in history.read_text().splitlines() if '"claim":"drawn"' in line]
        return str(json.loads(line)["because"])

    assert drawn("7") == drawn("7") != drawn("8")


def test_junit_carries_the_verdict(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=CRASHES.format(known={}))
    run("test_it.py", "--junitxml=junit.xml")
    root = ET.parse(pytester.path / "junit.xml").getroot()  # noqa: S314  our own file
    found = {one.attrib["name"]: one.attrib["value"] for one in root.iter("property")}
    assert found["ocrepro.verdict"] == "crashed"
    assert found["ocrepro.result"] == "reproduced"
    assert found["ocrepro.signature"].startswith("oc-")
    assert "--ocrepro" in found["ocrepro.replay"]


def test_a_wrapper_is_judged_with_the_opencode_beneath_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import sys

        WRAPPER = '''
        import subprocess, sys
        first = subprocess.Popen(["opencode", "run", "-m", "hang", "hi"])
        sys.exit(first.wait())
        '''

        def test_it(ocrepro):
            program = ocrepro.project.write("wrapper.py", WRAPPER.replace("\\n        ", "\\n"))
            wrapper = ocrepro.spawn([sys.executable, str(program)], role="wrapper", deadline_s=5)
            ocrepro.expect(wrapper).to_finish()
        """
    )
    run("test_it.py").assert_outcomes(failed=1)
    (line,) = results(pytester)
    processes = line["processes"]
    assert isinstance(processes, list)
    roles = {one["role"].split("-")[0]: one["verdict"] for one in processes}
    assert set(roles) == {"wrapper", "opencode"}
    assert roles["wrapper"] == "blocked"
    assert "opencode" in " ".join(line["chain"])  # type: ignore[arg-type]
    assert line["leaked"] == []


USAGE = [
    (("--ocrepro-trials", "0"), "--ocrepro-trials is '0'; it must be a number from 1"),
    (("--ocrepro-trials", "many"), "--ocrepro-trials is 'many'"),
    (("--ocrepro-expect", "nothing"), "--ocrepro-expect is 'nothing'; it must be one of known, clean"),
    (("--ocrepro-reports=",), "--ocrepro-reports is empty; give a value or leave the option out"),
    (("--ocrepro-profile", "huge"), "--ocrepro-profile is 'huge'; it must be one of smoke, ci, soak"),
    (("--ocrepro-version", "1.18.34"), "--ocrepro-binary and --ocrepro-version contradict"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_bad_options_are_usage_errors(
    pytester: pytest.Pytester, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    pytester.makepyfile(test_it=FINISHES)
    result = run("test_it.py", *arguments)
    _is_usage_error(pytester, result, message)


def _is_usage_error(pytester: pytest.Pytester, result: pytest.RunResult, message: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [line for line in result.stderr.lines if line.startswith("ERROR: ")]
    assert len(said) == 1
    assert message in said[0]
    assert not (pytester.path / "reports").exists()


def test_a_bad_environment_value_names_its_source(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCREPRO_TRIALS", "-3")
    pytester.makepyfile(test_it=FINISHES)
    _is_usage_error(pytester, run("test_it.py"), "OCREPRO_TRIALS is '-3'")


def test_a_bad_ini_value_names_its_source(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\nocrepro_trials = x\n")
    pytester.makepyfile(test_it=FINISHES)
    _is_usage_error(pytester, run("test_it.py"), "ocrepro_trials in ")


def test_a_project_without_scenarios(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it="def test_it():\n    pass\n")
    _is_usage_error(pytester, run("test_it.py"), "no scenario in test_it.py")


def test_a_mark_with_a_word_that_does_not_exist(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=CRASHES.format(known={}).replace("issue=", "isue="))
    _is_usage_error(pytester, run("test_it.py"), "mark ocrepro does not take isue")


def test_a_binary_that_is_no_program(pytester: pytest.Pytester, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "opencode"
    file.write_text("not a program")
    pytester.makepyfile(test_it=FINISHES)
    result = run("test_it.py", binary=file)
    _is_usage_error(pytester, result, "executable")


def test_a_cache_limit_that_is_no_size(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=FINISHES)
    _is_usage_error(pytester, run("test_it.py", "--ocrepro-cache-limit=lots"), "--ocrepro-cache-limit is 'lots'")


def test_reports_that_cannot_be_written(pytester: pytest.Pytester, run: Run) -> None:
    (pytester.path / "taken").write_text("a file")
    pytester.makepyfile(test_it=FINISHES)
    _is_usage_error(pytester, run("test_it.py", "--ocrepro-reports=taken"), "taken")


def test_an_option_value_that_pytest_takes_for_a_path(pytester: pytest.Pytester, run: Run, stand_in: Path) -> None:
    pytester.makeini("[pytest]\nocrepro_scenarios = own\n")
    result = pytester.runpytest_subprocess("--ocrepro", "--ocrepro-binary", str(stand_in))
    _is_usage_error(pytester, result, "write --ocrepro-binary=PATH with an equals sign")


def test_the_outer_guard_leaves_a_report(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import threading

        def test_own_code_never_ends(ocrepro):
            threading.Event().wait(60)

        def test_our_wait_never_ends(ocrepro):
            ocrepro.expect(ocrepro.run("hi", model="hang", deadline_s=60)).to_finish()
        """
    )
    result = run("test_it.py", "--timeout=4")
    result.assert_outcomes(failed=2)
    lines = results(pytester)
    assert [line["result"] for line in lines] == ["inconclusive", "inconclusive"]
    assert (pytester.path / "reports/latest/report.html").exists()


def test_trials_that_measure_times_take_turns(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        from pathlib import Path

        @pytest.mark.ocrepro(timing=True)
        def test_it(ocrepro):
            inside = Path(__file__).with_name("inside")
            inside.mkdir()  # fails where somebody else is inside
            ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()
            inside.rmdir()
        """
    )
    result = run("test_it.py", "--ocrepro-trials", "3", "-n", "2")
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGKILL, ()), (signal.SIGKILL, ("-n", "2")), (signal.SIGTERM, ("-n", "2"))]
)
def test_a_killed_pytest_leaves_evidence_and_no_process(
    pytester: pytest.Pytester, run: Run, stand_in: Path, number: int, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(ocrepro):
            ocrepro.expect(ocrepro.run("hi", model="daemon", deadline_s=60)).to_finish()
        """
    )
    command = [sys.executable, "-m", "pytest", "--ocrepro", f"--ocrepro-binary={stand_in}", "test_it.py", *workers]
    command += () if workers else ("--ocrepro-trials", "3")
    child = subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL)
    try:
        trials = pytester.path / "reports/latest/trials"
        until(lambda: _started(trials), timeout_s=30, what="the daemon of the trial")
        begun = _processes(trials)
        assert any(Reader().alive(one) for one in begun)
    finally:
        child.send_signal(number)
        child.wait()
    until(lambda: not any(Reader().alive(one) for one in begun), timeout_s=30, what="the end of all that it started")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_ocrepro.cli", "report", "reports"],
        cwd=pytester.path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    page = (pytester.path / "reports/latest/report.html").read_text()
    assert done.stdout.startswith("file://")
    assert "<b>1</b> inconclusive" in page
    if not workers:  # a worker lives for long enough to put its trial away
        assert "pytest ended before this trial was judged" in page
        assert "cut short: of 3 planned trials 2 were never begun; 1 trial ended before the verdict." in page
        assert "pytest ended before this trial was judged" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trial_is_inconclusive_and_nothing_has_crashed(
    pytester: pytest.Pytester, run: Run, stand_in: Path, number: signal.Signals
) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(ocrepro):
            ocrepro.expect(ocrepro.run("hi", model="daemon", deadline_s=60)).to_finish()
        """
    )
    command = [sys.executable, "-m", "pytest", "--ocrepro", f"--ocrepro-binary={stand_in}", "test_it.py"]
    child = subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL)
    trials = pytester.path / "reports/latest/trials"
    until(lambda: _started(trials), timeout_s=30, what="the daemon of the trial")
    child.send_signal(number)
    assert child.wait() == pytest.ExitCode.INTERRUPTED
    assert (trials.parent / "report.html").exists()
    (stored,) = trials.glob("*/judgement.json")
    judged = json.loads(stored.read_text())
    assert judged["result"] == "inconclusive"
    assert "before the trial was judged" in judged["reason"]
    assert judged["verdict"] != "crashed"


@pytest.mark.parametrize(("test", "code"), [(FINISHES, 3), (CRASHES.format(known={}), 1)])
def test_a_page_that_cannot_be_written_is_not_a_success(
    pytester: pytest.Pytester, run: Run, test: str, code: int
) -> None:
    """The trials' own results are as they were, and so is the exit code of a run that failed anyway."""
    pytester.makeconftest("""
        import pytest_ocrepro.closing as closing

        def write_report(*_):
            raise OSError(28, "No space left on device")

        closing.write_report = write_report
        """)
    pytester.makepyfile(test_it=test)
    result = run("test_it.py", "--ocrepro-expect", "known")
    result.stdout.fnmatch_lines(["the page was not written: OSError: *No space left*; try: ocrepro report *"])
    assert (result.ret, len(results(pytester))) == (code, 1)
    assert result.parseoutcomes() == ({"passed": 1} if code == 3 else {"failed": 1})


def _processes(trials: Path) -> list[ProcessId]:
    """All that the stored histories know."""
    lines = [line for path in trials.glob("*/history.jsonl") for line in path.read_text().splitlines()]
    begun = (json.loads(line) for line in lines if '"event":"process-' in line and line.endswith("}"))
    return [msgspec.convert(event["id"], ProcessId) for event in begun if "id" in event]


def _started(trials: Path) -> bool:
    found = "".join(path.read_text() for path in trials.glob("*/history.jsonl"))
    return found.count('"event":"process-found"') >= 1


def test_a_corrupt_bundle_does_not_keep_the_others_from_the_page(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=FINISHES)
    run("test_it.py", "--ocrepro-trials", "2")
    first, second = sorted((pytester.path / "reports/latest/trials").iterdir())
    lines = (first / "history.jsonl").read_bytes().splitlines(keepends=True)
    (first / "history.jsonl").write_bytes(lines[0] + b"{rubbish\n" + b"".join(lines[1:]))
    command = [sys.executable, "-m", "pytest_ocrepro.cli", "report", "reports/latest"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1
    assert "history.jsonl" in done.stderr
    page = (pytester.path / "reports/latest/report.html").read_text()
    assert f"trial-{second.name}" in page
    assert "1 reproduced" not in page


def test_collect_only_writes_nothing(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=FINISHES)
    result = run("test_it.py", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["test_it.py::test_finishes[[]9.9.9[]]"])
    assert not (pytester.path / "reports").exists()


def test_with_no_path_the_installed_catalogue_runs(pytester: pytest.Pytester, run: Run) -> None:
    result = run("--collect-only", "-q")
    assert "test_single_bogus_run[9.9.9]" in result.stdout.str()


def test_own_scenarios_run_when_no_path_is_given(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\nocrepro_scenarios = own\n")
    own = pytester.mkdir("own")
    (own / "test_own.py").write_text("def test_own(ocrepro):\n    pass\n")
    result = run("--collect-only", "-q")
    assert "own/test_own.py::test_own[9.9.9]" in result.stdout.str()
    assert "bogus" not in result.stdout.str()


def test_own_scenarios_run_under_xdist_when_no_path_is_given(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\nocrepro_scenarios = own\n")
    own = pytester.mkdir("own")
    (own / "test_own.py").write_text(textwrap.dedent(FINISHES))
    run("-n", "2").assert_outcomes(passed=1)
    assert results(pytester)[0]["scenario"] == "own/test_own.py::test_finishes"


def test_no_scenario_under_xdist_is_a_usage_error_too(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it="")
    result = run("test_it.py", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["ocrepro: no scenario was collected; give the path of one"])
    assert not (pytester.path / "reports").exists()


def test_a_disk_that_is_full_ends_the_session_in_one_line(pytester: pytest.Pytester, run: Run) -> None:
    """A file size limit stands in for the disk: the write of the evidence itself fails."""
    pytester.makepyfile(
        test_it="""
        import resource, signal

        def test_it(ocrepro):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
            try:
                ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        def test_that_must_not_run(ocrepro):
            ocrepro.claim("it runs", held=True, because="it did")
        """
    )
    result = run("test_it.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [line for line in result.stdout.lines + result.stderr.lines if "Exit: ocrepro: " in line]
    assert len(said) == 1
    assert "history.jsonl" in said[0]
    assert "that_must_not_run" not in result.stdout.str()


def test_the_help_offers_what_the_settings_take(pytester: pytest.Pytester) -> None:
    assert f"--ocrepro-expect={'|'.join(EXPECTATIONS)}" in pytester.runpytest_subprocess("--help").stdout.str()


def test_rules_of_the_user_mask_before_anything_is_stored(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\nocrepro_redact =\n    customer = CUST-\\d{6}\n")
    pytester.makepyfile("""
        def test_tells(ocrepro):
            \"\"\"CUST-111111 saw it.\"\"\"
            ocrepro.project.write("CUST-222222.txt", "of CUST-333333")
            ocrepro.note("CUST-444444")
            run = ocrepro.run("CUST-555555", role="CUST-666666", model="ask", TICKET="CUST-777777")
            ocrepro.expect(run).to_finish()
    """)
    result = run("test_rules_of_the_user_mask_before_anything_is_stored.py", "--ocrepro-expect", "any")
    stored = [path for path in (pytester.path / "reports/latest/").rglob("*") if path.is_file()]
    assert len(stored) >= 6
    for path in stored:
        assert "CUST-" not in path.name
        assert b"CUST-" not in path.read_bytes(), path
    (receipt,) = [json.loads(path.read_text()) for path in stored if path.name == "receipt.json"]
    counts = {one["kind"]: one["count"] for one in receipt["masked"]}
    assert counts["customer"] >= 7
    assert "[masked:customer]" in (pytester.path / "reports/latest/report.html").read_text()
    assert result.ret == 0


def test_a_bad_rule_is_a_usage_error_of_one_line(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\nocrepro_redact =\n    customer = CUST-(\n")
    pytester.makepyfile(FINISHES)
    result = run("test_a_bad_rule_is_a_usage_error_of_one_line.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: ocrepro: ocrepro_redact in ")
    assert "the pattern of 'customer' is no regular expression" in line
    assert not (pytester.path / "reports").exists()


SPEAKS_TO_THE_RUNNER = """
    def test_commands(ocrepro):
        ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()
        said = "a" + chr(10) + "::error::from the subject" + chr(10) + " ##[error]and again"
        ocrepro.claim(said, held=False, because=said)
"""


def commands(result: pytest.RunResult) -> list[str]:
    """What GitHub's runner would take for a command in this log."""
    return [line for line in result.stdout.lines if line.lstrip().startswith("::") or "##[" in line]


@pytest.mark.parametrize("expect", ["known", "any"])
def test_on_github_there_are_a_summary_and_annotations_and_no_command_of_the_subject(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, expect: str
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    pytester.makepyfile(test_said=SPEAKS_TO_THE_RUNNER)
    result = run("-ra", "-v", f"--ocrepro-expect={expect}", "test_said.py")
    (told,) = commands(result)
    assert told.startswith("::error file=test_said.py," if expect == "known" else "::notice ")
    assert "from the subject" in told
    assert "1 of 1 trial" in (pytester.path / "summary.md").read_text()


def test_github_can_be_asked_for_and_declined(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(CRASHES.format(known={}))
    result = run("--ocrepro-github=on", ".")
    (line,) = (line for line in result.stdout.lines if line.startswith("summary: file://"))
    assert line.endswith("/summary.md")
    assert len(commands(result)) == 1
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    assert commands(run("--ocrepro-github=off", ".")) == []
    assert not (pytester.path / "summary.md").exists()
    assert commands(run("--ocrepro-github=on", "-n", "2", "--ocrepro-trials=2", ".")) != []


def test_a_ctrf_file_is_written_where_it_was_asked_for(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_one=CRASHES.format(known={"9.9.9": "1/1"}), test_two=FINISHES)
    (pytester.path / "sub").mkdir()
    result = run("--ocrepro-ctrf=sub/ctrf.json", ".")
    result.stdout.fnmatch_lines([f"ctrf: {(pytester.path / 'sub/ctrf.json').as_uri()}"])
    report = json.loads((pytester.path / "sub/ctrf.json").read_text())["results"]
    assert {test["rawStatus"].split()[0]: test["status"] for test in report["tests"]} == {
        "reproduced": "other",
        "not-seen": "passed",
    }
    assert (report["summary"]["tests"], report["summary"]["other"]) == (2, 1)


def test_a_ctrf_file_that_cannot_be_written_is_one_line(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(FINISHES)
    result = run("--ocrepro-ctrf=nowhere/ctrf.json", ".")
    result.assert_outcomes(passed=1)
    assert len([line for line in result.stdout.lines if line.startswith("ocrepro: ") and "ctrf.json" in line]) == 1


HANGS = """
    import pytest

    @pytest.mark.ocrepro(issue="o/r#1")
    def test_hangs(ocrepro):
        run = ocrepro.run("hi", model="hang", deadline_s=3, fail_fast_s=2)
        ocrepro.expect(run).to_finish()
"""


def test_repro_scripts_are_run_at_the_end_where_it_is_asked_for(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(HANGS)
    result = run(
        "test_repro_scripts_are_run_at_the_end_where_it_is_asked_for.py",
        "--ocrepro-expect=any",
        "--ocrepro-verify-repro=2",
    )
    result.stdout.fnmatch_lines(["repro script of *-test_hangs-9.9.9: reproduced 2 of 2 by this script"])
    (stored,) = (pytester.path / "reports/latest/issues").glob("*.json")
    assert json.loads(stored.read_text())["k"] == 2


def test_a_number_of_scripts_that_is_none_is_a_usage_error(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(FINISHES)
    result = run("--ocrepro-verify-repro=often")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ocrepro-verify-repro is 'often'; it must be a number from 0*"])

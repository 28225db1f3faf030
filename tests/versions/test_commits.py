from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import cli
from pytest_ocrepro.errors import StageError
from pytest_ocrepro.versions import commits
from pytest_ocrepro.versions.commits import Step, answer, decided, evidence
from pytest_ocrepro.versions.journal import Chosen, Tried

Run = Callable[[Chosen], Iterator[Tried]]
STEP = Step(scenario="s.py::test", binary=Path("opencode"))
PROGRAM = Path(__file__).parents[1] / "data/versions/stand_in_subject.py"


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return script(tmp_path / "opencode", "1.0.0", "9.9.9")


def script(path: Path, version: str, first_bad: str) -> Path:
    path.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} -I -S {PROGRAM} {version} {first_bad} "$@"\n')
    path.chmod(0o755)
    return path


def coin(
    rate: float, seed: int = 0, *, result: str = "reproduced", sign: str = "oc-1 x", reason: str = ""
) -> Callable[[Chosen], Iterator[Tried]]:
    thrown = random.Random(seed)  # noqa: S311  a seeded coin

    def run(chosen: Chosen) -> Iterator[Tried]:
        for scenario, version, number in chosen.trials:
            told = result if thrown.random() < rate else "not-seen"
            yield Tried(batch=0, phase="", scenario=scenario, version=version, seed=number, result=told,
                        reason=reason, signs=(sign,) if told == "reproduced" else ())  # fmt: skip

    return run


def test_the_evidence_grows_with_what_speaks_for_it() -> None:
    assert evidence(0, 0, rate=0.3) == pytest.approx(0.0)
    assert evidence(3, 3, rate=0.3) > evidence(2, 3, rate=0.3) > evidence(0, 3, rate=0.3)
    assert evidence(0, 30, rate=0.3) < evidence(0, 10, rate=0.3) < 0
    assert evidence(0, 10, rate=0.9) < evidence(0, 10, rate=0.3)


@pytest.mark.parametrize(("rate", "misses"), [(0.9, 2), (0.6, 5), (0.3, 9)])
def test_how_many_misses_make_it_absent(rate: float, misses: int) -> None:
    step = msgspec.structs.replace(STEP, rate=rate)
    assert next(n for n in range(1, 100) if decided(0, n, step) is False) == misses


@pytest.mark.parametrize(("true", "present"), [(0.6, True), (0.36, True), (0.0, False), (0.01, False)])
def test_it_errs_no_more_often_than_a_step_may(true: float, present: bool, binary: Path) -> None:  # noqa: FBT001
    wrong = 0
    for seed in range(400):
        code = commits._tried(STEP, coin(true, seed), lambda _: None).code
        assert code in (commits.GOOD, commits.BAD, commits.SKIP)
        wrong += code == (commits.GOOD if present else commits.BAD)
    assert wrong / 400 <= 2 * (1 - STEP.confidence) / STEP.steps  # twice: 400 runs cannot tell 0.5 % from 1 %


@pytest.mark.parametrize(("rate", "code", "fixed"), [(1.0, 1, 0), (0.0, 0, 1)])
def test_codes_are_those_of_git_in_both_directions(binary: Path, rate: float, code: int, fixed: int) -> None:
    assert answer(STEP, coin(rate)).code == code
    assert answer(msgspec.structs.replace(STEP, find_fix=True), coin(rate)).code == fixed


def test_what_cannot_be_built_or_started_is_skipped(binary: Path) -> None:
    assert (
        answer(msgspec.structs.replace(STEP, build="exit 3"), coin(1.0)).line
        == "skip: the build command ended with 3"
    )
    assert answer(msgspec.structs.replace(STEP, build="exit 3"), coin(1.0)).code == 125
    assert answer(msgspec.structs.replace(STEP, build="true"), coin(1.0)).code == 1
    binary.write_text("#!/bin/sh\nexit 1\n")
    assert answer(STEP, coin(1.0)).code == 125
    assert answer(msgspec.structs.replace(STEP, binary=Path("none")), coin(1.0)).code == 125


def test_what_stays_undecided_is_skipped(binary: Path) -> None:
    told = answer(msgspec.structs.replace(STEP, most_trials=3), coin(0.0))
    assert (told.code, told.line) == (125, "skip: undecided after 0/3 (a rate above 63 % is excluded at 95 %)")


def test_trouble_of_ours_aborts_and_is_never_an_answer(binary: Path) -> None:
    told = answer(STEP, coin(1.0, result="inconclusive"))
    assert (told.code, told.line) == (128, "abort: 5 of 5 trials were inconclusive")

    told = answer(STEP, coin(1.0, result="skipped", reason="this build takes no install lock"))
    assert (told.code, told.line) == (125, "skip: this build takes no install lock")

    def broken(chosen: Chosen) -> Iterator[Tried]:
        raise StageError("no supervisor")

    assert answer(STEP, broken).code == 128


def test_another_failure_says_nothing(binary: Path) -> None:
    step = msgspec.structs.replace(STEP, signature="oc-2")
    assert answer(step, coin(1.0)).code == 128
    assert answer(step, coin(1.0, sign="oc-2 y")).code == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("x",),
        ("x", "--binary", "y", "--rate", "7"),
        ("x", "--binary", "y", "--nonsense"),
        ("no_such_scenario", "--binary", "y"),
    ],
)
def test_no_mistake_looks_like_an_answer_to_git(words: tuple[str, ...], binary: Path) -> None:
    done = CliRunner().invoke(cli.main, ["bisect-run", *words], prog_name="ocrepro")
    assert done.exit_code in (128, 129)
    assert done.stderr


def test_a_defect_of_ours_does_not_look_like_an_answer(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "at_checkout", _defect)
    words = ["bisect-run", "runs_at_once_on_an_empty_data_directory", "--binary", "opencode"]
    done = CliRunner().invoke(cli.main, words, prog_name="ocrepro")
    assert done.exit_code == 128
    assert "KeyError" in done.stderr


def _defect(*_: object, **__: object) -> None:
    raise KeyError("A DEFECT")


# --- git itself


def git(*words: str) -> str:
    fixed = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run([*fixed, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve commits with a build each; the failure is there from number 7 on; number 5 does not build."""
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "test_asks.py").write_text(
        "from pytest_ocrepro import for_ever, text\n\n\ndef test_asks(ocrepro):\n"
        '    ocrepro.provider.script(for_ever(text("done")))\n'
        '    ocrepro.expect(ocrepro.run("hi")).not_to_die_of_the_database()\n'
    )
    work = tmp_path / "checkout"
    work.mkdir()
    monkeypatch.chdir(work)
    git("init", "-q")
    for number in range(12):
        script(work / "opencode", f"1.0.{number}", "1.0.7")
        (work / "build.sh").write_text("exit 1\n" if number == 5 else f"echo building {number}\n")
        git("add", "-A")
        git("commit", "-q", "-m", f"number {number}")
        git("tag", f"n{number}")
    return work


def test_git_bisect_run_finds_the_commit(repository: Path) -> None:
    scenario = f"{repository.parent}/test_asks.py::test_asks"
    command = [sys.executable, "-m", "pytest_ocrepro.cli", "bisect-run", scenario, "--binary", "opencode",
               "--build", "sh build.sh", "--rate", "0.9", "--reports", "../kept"]  # fmt: skip
    git("bisect", "start", "n11", "n0")
    done = subprocess.run(
        ["git", "bisect", "run", *command], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert git("rev-parse", "n7").strip() in done.stdout
    assert "number 7" in git("show", "-s", "--format=%s", "refs/bisect/bad")
    assert "is the first bad commit" in done.stdout
    assert "skip: the build command ended with 1" in done.stderr


def test_git_bisect_run_stops_where_we_cannot_tell(repository: Path) -> None:
    command = [sys.executable, "-m", "pytest_ocrepro.cli", "bisect-run", "no_such_scenario", "--binary", "opencode"]
    git("bisect", "start", "n11", "n0")
    done = subprocess.run(
        ["git", "bisect", "run", *command], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode != 0
    assert "is the first bad commit" not in done.stdout
    assert "there is no scenario no_such_scenario" in done.stderr

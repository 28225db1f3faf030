from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import cli
from pytest_ocrepro.errors import UnfitBuildError, UsageError
from pytest_ocrepro.versions import campaign
from pytest_ocrepro.versions.campaign import Wanted
from pytest_ocrepro.versions.checkout import Checkout
from pytest_ocrepro.versions.journal import Chosen, Tried
from pytest_ocrepro.versions.trials import Trials

PROGRAM = Path(__file__).parents[1] / "data/versions/stand_in_subject.py"
ASKS = """
from pytest_ocrepro import for_ever, text


def test_asks(ocrepro):
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.expect(ocrepro.run("hi")).not_to_die_of_the_database()
"""
BUILD = "sh build.sh"


def git(*words: str) -> str:
    fixed = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run([*fixed, *words], capture_output=True, text=True, check=True).stdout.strip()


def commit(number: int, *, first_bad: int = 4, broken: bool = False) -> str:
    program = f'exec -a opencode {sys.executable} -I -S {PROGRAM} 1.0.{number} 1.0.{first_bad} "$@"'
    made = f"mkdir -p out\nprintf '%s\\n' '#!/bin/bash' '{program}' > out/opencode\nchmod +x out/opencode\n"
    Path("build.sh").write_text("echo the compiler is missing\nexit 3\n" if broken else made)
    Path("number").write_text(str(number))
    git("add", "-A")
    git("commit", "-q", "-m", f"number {number}")
    git("tag", f"n{number}")
    return git("rev-parse", "--short=12", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Six commits and one on a branch of its own that was merged; number 2 does not build, 4 brings the failure."""
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "test_asks.py").write_text(ASKS)
    monkeypatch.chdir(work)
    git("init", "-q")
    found = {number: commit(number, broken=number == 2) for number in range(4)}
    git("checkout", "-q", "-b", "aside", "n0")
    Path("aside").write_text("x")
    git("add", "-A")
    git("commit", "-q", "-m", "aside")
    git("tag", "beside")
    git("checkout", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "merged", "aside")
    found[40] = git("rev-parse", "--short=12", "HEAD")
    return found | {number: commit(number) for number in (4, 5)}


def checkout(build: str = BUILD, binary: str = "out/opencode") -> Checkout:
    return Checkout(Path.cwd(), build=build, binary=binary)


def test_the_line_is_that_of_first_parents(repository: dict[int, str]) -> None:
    assert checkout().line("n0", "n5") == tuple(repository[number] for number in (0, 1, 2, 3, 40, 4, 5))
    assert checkout().line("n3", None) == tuple(repository[number] for number in (3, 40, 4, 5))


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (("n5", "n0"), "the range is reversed: n5 is not before n0; give the older end first"),
        (("beside", "n5"), "the range is of no single line of first parents"),
        (("n9", "n5"), "n9 names no commit in .*: give a tag, a branch or an id"),
        (("--all", "n5"), "--all names no commit"),
        ((None, "n5"), "--commits needs the older end"),
    ],
)
def test_ends_that_cannot_be_meant(repository: dict[int, str], ends: tuple[str | None, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checkout().line(*ends)


def test_a_commit_is_built_once_and_leaves_the_users_tree_alone(repository: dict[int, str]) -> None:
    before = git("status", "--porcelain"), git("rev-parse", "HEAD")
    source = checkout(build=f"{BUILD} && date +%N >> {Path.cwd().parent}/built")
    first = source(repository[1])
    assert source(repository[1]) == first
    assert len((Path.cwd().parent / "built").read_text().splitlines()) == 1
    assert source.here() == {repository[1]}
    assert checkout().here() == set(), "another way to build makes other builds"
    assert (git("status", "--porcelain"), git("rev-parse", "HEAD")) == before
    assert git("worktree", "list").count("\n") == 0


@pytest.mark.parametrize(
    ("build", "binary", "words"),
    [
        (BUILD, "out/opencode", r"its build ended with 3 after .* the compiler is missing \(.*build\.log\)"),
        ("true", "out/opencode", "its build made no out/opencode"),
        ("echo x > number", "number", "no program|is not"),
    ],
)
def test_what_does_not_build_can_never_be_tried(
    repository: dict[int, str], build: str, binary: str, words: str
) -> None:
    with pytest.raises(UnfitBuildError, match=words):
        checkout(build, binary)(repository[2])
    assert git("worktree", "list").count("\n") == 0


@pytest.mark.timeout(120)
def test_a_pipe_in_the_place_of_a_builds_log_keeps_nobody_waiting(repository: dict[int, str]) -> None:
    log = checkout().binary_of(repository[2]).with_name("build.log")
    log.parent.mkdir(parents=True)
    os.mkfifo(log)
    with pytest.raises(UnfitBuildError, match="the compiler is missing"):
        checkout()(repository[2])


def test_no_checkout_and_paths_outside_are_usage_errors(repository: dict[int, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is in no git checkout"):
        Checkout(tmp_path, build="", binary="x")
    for binary in ("", "/bin/sh", "../x"):
        with pytest.raises(UsageError, match="as a path below the checkout"):
            checkout(binary=binary)


def test_the_commit_is_found_and_the_certificate_says_so(repository: dict[int, str]) -> None:
    """The builds are real, the trials are looks at what was built."""

    source = checkout()
    numbers = functools.cache(lambda commit: subprocess.check_output([source.binary_of(commit), "--version"]))

    def look(chosen: Chosen) -> Iterator[Tried]:
        for scenario, version, seed in chosen.trials:
            bad = numbers(version).strip() >= b"1.0.4"
            said = {"result": "reproduced", "signs": ("oc-1 crashed",)} if bad else {"result": "not-seen"}
            blank = Tried(batch=0, phase="", scenario=scenario, version=version, seed=seed, result="", seconds=1.0)
            yield msgspec.structs.replace(blank, **said)

    wanted = Wanted(scenario="../test_asks.py", good="n0", bad="n5", commits=True, build=BUILD, binary="out/opencode")
    wanted = msgspec.structs.replace(wanted, journal=Path("../found.jsonl"))
    done = campaign.bisect(wanted, tell=lambda _: None, run=look)
    text = done.markdown.read_text()
    assert text.startswith(f"### Introduced in {repository[4]}: the first failing commit among those that build")
    assert f"compare/{repository[3]}...{repository[4]}" in text, "the merge in between builds the same file"
    assert f"{repository[2]} was not tried: its build ended with 3" in text
    assert "git bisect run" not in text, "there is no finer search"
    with pytest.raises(UsageError, match="is the journal of another question"):
        campaign.bisect(
            msgspec.structs.replace(wanted, commits=False, build="", binary="", good=None, bad=None, resume=True),
            tell=lambda _: None,
            run=look,
        )


def test_a_trial_runs_what_a_commit_built(repository: dict[int, str]) -> None:
    source = checkout()
    for number, result in ((1, "not-seen"), (4, "reproduced")):
        source(repository[number])
        made = Trials(Path("../kept"), find=lambda _: "../test_asks.py", binary=source.binary_of)
        told = made.one("test_asks.py::test_asks", repository[number], number)
        assert (told.result, told.version) == (result, repository[number])


def test_how_to_build_without_commits_is_a_usage_error(repository: dict[int, str]) -> None:
    words = ["bisect", "exclusive_lock", "--build", "make"]
    done = CliRunner().invoke(cli.main, words, prog_name="ocrepro")
    assert done.exit_code == 2
    assert "add --commits, or leave them out" in done.output

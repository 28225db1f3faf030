from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import history as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.cli import main
from pytest_ocrepro.publish import cases
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.issue import MOST, USUAL, issue_text
from pytest_ocrepro.publish.records import StoredTrial

if TYPE_CHECKING:
    from tests.data.publish import sample_run
else:
    _spec = importlib.util.spec_from_file_location(
        "ocrepro_sample_run", Path(__file__).parents[1] / "data" / "publish" / "sample_run.py"
    )
    sample_run = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sample_run)

HEADINGS = [
    "Description", "Plugins", "OpenCode version", "Steps to reproduce", "Screenshot and/or share link",
    "Operating System", "Terminal",
]  # fmt: skip
HOSTILE = "</details><script>alert(1)</script> @everyone #1 ```` \x1b[31m \u202e ![x](http://evil.example/)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return sample_run.make_run(tmp_path_factory.mktemp("reports"), trials=2)


@pytest.fixture
def trial(run: RunDir) -> StoredTrial:
    return cases.trial_of(cases.choose(cases.cases(entries_in(run)), None))


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["issue", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_has_the_headings_of_the_form_and_stands_alone(run: RunDir, trial: StoredTrial) -> None:
    text = printed(str(run.path))
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == HEADINGS
    assert trial.judgement is not None
    for link in trial.judgement.chain:
        assert link.split(" ")[0] in text
    assert "| opencode | reproduced | 95 % interval | verdict |" in text
    assert "2 of 2" in text
    assert len(text) <= USUAL


def test_one_scenario_is_chosen_by_name_and_a_wrong_one_is_told(run: RunDir) -> None:
    other = cases.cases(entries_in(run))[-1]
    assert other.row.title.split()[0] in printed(str(run.path), "--scenario", other.scenario)
    done = CliRunner().invoke(main, ["issue", str(run.path), "--scenario", "nothing"])
    assert done.exit_code == 2
    assert "names no scenario that reproduced" in done.output


def with_log(trial: StoredTrial, *lines: str) -> StoredTrial:
    tail = r.LogTail(path="x.log", pid=7, size_bytes=1, lines=tuple(r.LogLine(text=line) for line in lines))
    look = r.Snapshot(number=99, started_ns=2**62, ended_ns=2**62, boottime_ns=1, full=True, logs=(tail,))
    events = [*trial.history, h.SnapshotTaken(at_ns=2**62, snapshot=look)]
    return msgspec.structs.replace(trial, history=h.History.of(events))


@pytest.mark.parametrize("most", [2_500, 6_000, USUAL, MOST])
def test_it_keeps_to_its_length_and_says_what_it_left_out(run: RunDir, trial: StoredTrial, most: int) -> None:
    long = with_log(trial, *(f"line {n} " + "x" * 390 for n in range(40)))
    whole = issue_text(run.info, long, most=MOST)
    text = issue_text(run.info, long, most=most)
    assert len(text) <= most
    assert text.startswith("### Description")
    if len(whole) > most:
        assert "Left out for length: " in text or "(cut: the rest is in the report)" in text
    else:
        assert text == whole
        assert "Left out" not in text
        assert "line 0 " in text


def test_text_of_the_subject_stays_text(run: RunDir, trial: StoredTrial) -> None:
    assert trial.judgement is not None
    judgement = msgspec.structs.replace(trial.judgement, reason=HOSTILE, chain=(HOSTILE,))
    hostile = with_log(msgspec.structs.replace(trial, judgement=judgement), HOSTILE)
    text = issue_text(run.info, hostile, most=MOST)
    fenced, outside = False, []
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            outside.append(line)
    told = "\n".join(outside)
    for markup in ("<script>", "![x]", "</details>"):
        assert markup not in told
    assert "everyone" in told
    for reference in ("@everyone", "#1"):
        assert reference not in told
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not fenced


def test_a_lone_trial_that_reproduced_nothing_is_told_all_the_same(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    sample_run.store(run, sample_run.alone("1.15.4", 1))
    text = printed(str(run.path))
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == HEADINGS


def test_show_prints_where_the_page_is_and_makes_it(run: RunDir) -> None:
    done = CliRunner().invoke(main, ["show", str(run.path)])
    assert done.exit_code == 0
    assert done.stdout.strip() == (run.path / "report.html").resolve().as_uri()
    assert (run.path / "report.html").is_file()

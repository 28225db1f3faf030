from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.cli import main
from pytest_ocrepro.history import History
from pytest_ocrepro.publish import cases
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.issue import LEFT_OUT, MOST, USUAL, issue_text
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.repro import Script
from tests.data.publish import sample_run

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
    assert "seen in 2 of 2 trials (100 %; 95 % interval 34-100 %) on opencode 1.18.34" in text
    assert "| scenario | opencode | reproduced |" in text
    assert len(text) <= USUAL


def test_the_end_of_a_long_reason_stands_there_too(run: RunDir, trial: StoredTrial) -> None:
    """What is waited for, and when that would be over, comes last."""
    end = "it would end by itself in about 296 s, after its deadline"
    for why in (f"blocked (strong) after 4.1 s: {'woke; ' * 60}{end}", f"blocked: {'woke; ' * 999}{end}"):
        events = [*trial.history, h.Expectation(at_ns=10**12, claim="it answers", held=False, because=why, role="")]
        text = issue_text(run.info, msgspec.structs.replace(trial, history=History.of(events)), most=MOST)
        (told,) = (line for line in text.splitlines() if line.startswith("- it answers: **no**"))
        assert told.endswith(end)
        assert why[:20] in told
        assert len(told) < 800


def test_what_an_earlier_page_left_of_other_cases_goes(tmp_path: Path) -> None:
    """It may hold what the gate has learned since; what says how a script fared stays."""
    run = sample_run.make_run(tmp_path, trials=1)
    write_report(run)
    folder = run.path / "issues"
    told = sorted(path.name for path in folder.iterdir())
    for name in ("test_old-test_gone-1.0.0.md", "test_old-test_gone-1.0.0.sh", "test_old-test_gone-1.0.0-ab.json"):
        (folder / name).write_text("{}")
    outside = tmp_path / "mine.md"
    outside.write_text("mine")
    write_report(run)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*told, "test_old-test_gone-1.0.0-ab.json"])
    assert outside.read_text() == "mine"


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.md").write_text("mine")
    run = RunDir.create(tmp_path)
    (run.path / "issues").symlink_to(elsewhere)
    write_report(run)
    assert (elsewhere / "mine.md").read_text() == "mine"


def test_one_scenario_is_chosen_by_name_and_a_wrong_one_is_told(run: RunDir) -> None:
    other = cases.cases(entries_in(run))[-1]
    assert other.row.title.split()[0] in printed(str(run.path), "--scenario", other.scenario)
    done = CliRunner().invoke(main, ["issue", str(run.path), "--scenario", "nothing"])
    assert done.exit_code == 2
    assert "names no scenario that reproduced" in done.output


def with_log(trial: StoredTrial, *lines: str) -> StoredTrial:
    assert trial.judgement is not None
    pid = trial.judgement.processes[0].pid
    tail = r.LogTail(path="x.log", pid=pid, size_bytes=1, lines=tuple(r.LogLine(text=line) for line in lines))
    look = r.Snapshot(number=99, started_ns=2**62, ended_ns=2**62, boottime_ns=1, full=True, logs=(tail,))
    events = [*trial.history, h.SnapshotTaken(at_ns=2**62, snapshot=look)]
    return msgspec.structs.replace(trial, history=History.of(events))


def ours(text: str) -> str:
    """The lines that fold a part away, which no text of the subject is in."""
    return "\n".join(re.findall(r"^<details><summary>[A-Z][a-z ]+</summary>$|^</details>$", text, re.MULTILINE))


@pytest.mark.parametrize("most", [2_500, 6_000, USUAL, MOST])
def test_it_keeps_to_its_length_and_says_what_it_left_out(run: RunDir, trial: StoredTrial, most: int) -> None:
    long = with_log(trial, *(f"line {n} " + "x" * 390 for n in range(40)))
    whole = issue_text(run.info, long, most=MOST)
    text = issue_text(run.info, long, most=most)
    assert len(text) <= most
    assert text.startswith("### Description")
    if len(whole) > most:
        assert "Left out for length: " in text or "(cut here: the rest is in the report)" in text
    else:
        assert text == whole
        assert "Left out" not in text
        assert "line 0 " in text


def test_what_goes_first_goes_in_the_stated_order_and_the_script_stays(run: RunDir, trial: StoredTrial) -> None:
    long = with_log(trial, *(f"line {n} " + "x" * 290 for n in range(40)))
    script = Script(text="#!/usr/bin/env bash\n" + "\n".join(f"line {n}" for n in range(38)) + "\n")
    whole = issue_text(run.info, long, script=script, most=MOST)
    gone: list[list[str]] = []
    for most in range(len(whole), 2_000, -200):
        text = issue_text(run.info, long, script=script, most=most)
        if "(cut here" in text:
            break
        gone.append([name for name, words in LEFT_OUT.items() if words in text])
        assert "script" in gone[-1] or "```bash" in text
    assert gone[0] == []
    order = [name for name in LEFT_OUT if any(name in names for names in gone)]
    assert order[:2] == ["long logs", "timeline"]
    assert order[-1] == "script"
    assert all(names == order[: len(names)] for names in gone), "nothing goes before what is named before it"


def test_the_steps_can_be_followed(run: RunDir, trial: StoredTrial) -> None:
    events = [
        h.SandboxFurnished(at_ns=1, config='{"share": "no"}', files=(h.StagedFile(path="a.js", text="x"),)),
        h.TurnsScripted(at_ns=2, model="m1", turns=(h.ScriptedTurn(name="t", words="done", repeats=True),)),
        h.FaultInjected(at_ns=3, fault="registry", detail="silent"),
        *(
            h.ProcessStarted(
                at_ns=4 + n, id=r.ProcessId(pid=n, start_ticks=n, boot_id="b"), role=f"r{n}",
                argv=("opencode", "run"), obligation="answer", fail_fast_s=1, deadline_s=1, stdin="/dev/null",
            )
            for n in range(3)
        ),
        h.HttpAsked(at_ns=8, role="s", method="POST", path="/session/ses_aaaaaaaaaa/x/ses_bbbbbbbbbb", body="{}"),
        h.StepWaited(at_ns=9, kind="question", what="ses_aaaaaaaaaa"),
        h.SignalSent(at_ns=10, pid=1, role="r1", signal="SIGKILL", why="scenario"),
        h.ProcessExited(at_ns=11, pid=2, role="r2", code=1, ours=False),
        h.Expectation(at_ns=12, claim="it answers", held=False, because="no"),
        h.SignalSent(at_ns=13, pid=2, role="r2", signal="SIGTERM", why="sweep"),
    ]  # fmt: skip
    text = issue_text(run.info, msgspec.structs.replace(trial, history=History.of(events)), most=MOST)
    assert re.findall(r"^\d+\. .*$", text.partition("Step by step")[2], re.MULTILINE) == [
        "1. Write `a.js`: `x`",
        '2. Set in `opencode.json`: `{"share": "no"}`',
        "3. Have a model that answers so: says `done` (each time)",
        "4. Fault (registry): silent",
        "5. Start `opencode run` (3 times)",
        "6. Ask s: `POST /session/$SESSION/x/$SESSION2` with `{}`",
        "7. Wait for the question",
        "8. Send SIGKILL to r1",
        "9. `r2` ends: exit 1",
        "10. What is then demanded does not hold: it answers",
    ]


def test_text_and_script_of_each_case_lie_beside_the_page(tmp_path: Path) -> None:
    run = sample_run.make_run(tmp_path, trials=1)
    page = write_report(run)
    found = cases.cases(entries_in(run))
    assert len(found) > 1
    for case in found:
        text = (run.path / "issues" / f"{case.name}.md").read_text(encoding="utf-8")
        assert hashlib.sha256(page.read_bytes()).hexdigest() in text
        script = cases.script_of(case, cases.trial_of(case))
        path = run.path / "issues" / f"{case.name}.sh"
        assert path.is_file() is bool(script.text)
        assert script.text.rstrip() in text


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
    assert re.findall(r"(?<!\\)</?\w+", told) == re.findall(r"</?(?:details|summary)", ours(told))
    assert "![x]" not in told
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


def test_what_was_seen_of_running_processes_is_told_as_that(run: RunDir, trial: StoredTrial) -> None:
    info = msgspec.structs.replace(trial.info, scenario="dump", replay="ocrepro dump --pid 7", docstring="Looked at.")
    text = issue_text(run.info, msgspec.structs.replace(trial, info=info), case=None)
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == HEADINGS
    assert ": seen once, on opencode 1.18.34." in text
    assert "What led to it is not known" in text
    assert "ocrepro dump --pid 7" in text
    for words in ("Expected:", "of 1 trial", "Step by step", "started by a program"):
        assert words not in text


def test_show_prints_where_the_page_is_and_makes_it(run: RunDir) -> None:
    done = CliRunner().invoke(main, ["show", str(run.path)])
    assert done.exit_code == 0
    assert done.stdout.strip() == (run.path / "report.html").resolve().as_uri()
    assert (run.path / "report.html").is_file()


@pytest.mark.parametrize("place", ["/home/ann/builds/opencode", "/a b/x-ocrepro/bin/opencode"])
def test_the_replay_line_names_no_place_of_this_machine(run: RunDir, trial: StoredTrial, place: str) -> None:
    line = shlex.join(
        ["pytest", "--ocrepro", f"--ocrepro-binary={place}", "--ocrepro-seed", "7", "test_x.py::test[1 2]"]
    )
    info = msgspec.structs.replace(trial.info, replay=line)
    text = issue_text(run.info, msgspec.structs.replace(trial, info=info))
    (told,) = re.findall(r"^pytest --ocrepro .*$", text, re.MULTILINE)
    assert shlex.split(told) == [
        *("pytest", "--ocrepro", "--ocrepro-binary=PATH/opencode", "--ocrepro-seed", "7", "test_x.py::test[1 2]")
    ]
    assert place not in text


def test_one_word_is_no_expectation(run: RunDir, trial: StoredTrial) -> None:
    def told(docstring: str) -> str:
        info = msgspec.structs.replace(trial.info, docstring=docstring)
        return issue_text(run.info, msgspec.structs.replace(trial, info=info))

    assert "Expected: Both must answer." in told("Both must answer.")
    assert "Expected:" not in told("Wrapper.")


def test_one_line_that_fills_a_look_does_not_hide_what_the_log_said_before(run: RunDir, trial: StoredTrial) -> None:
    seen = with_log(with_log(trial, "walnut grove", "maple street"), "maple street", "x" * 5000)
    text = issue_text(run.info, seen)
    assert text.count("walnut grove") == text.count("maple street") == 1
    assert text.index("walnut grove") < text.index("maple street") < text.index("x" * 200)

"""What the command ``explore`` does: trials under schedules, replays from code of their own, and what is told.

What a schedule itself has taken out (killed, suspended for good) owes nothing and fails nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from pytest_ocrepro.catalogue import Scenario, find_scenario, scenario_code
from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.events import Expectation, LockDirectoryChanged, MilestoneReached, ProcessStarted
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Result, Verdict
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.judge.signature import signature_of
from pytest_ocrepro.publish.bundle import TrialBundle
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.storage import replace
from pytest_ocrepro.schedule import LOCK_DIRECTORY, PLACES, Schedule, World
from pytest_ocrepro.stage import subject
from pytest_ocrepro.stage.tarball import Progress
from pytest_ocrepro.versions.exploration import (
    CONTROLS,
    Explored,
    Failure,
    Found,
    Search,
    Tell,
    Told,
    Wanted,
    in_words,
)
from pytest_ocrepro.versions.trials import Trials

OBLIGED = ("answer", "exit")
SLOW = frozenset({Verdict.FAILED_LATE, Verdict.OVERRAN})  # moves make programs slow, and so does a loaded machine


def explore(wanted: Wanted, *, tell: Tell, progress: Progress | None = None) -> tuple[Explored, Path]:
    """Search, then replay each failure from its own code; the result and its Markdown. Raises OcreproError."""
    scenario = find_scenario(wanted.scenario)
    build = subject.fetch(wanted.version, offline=wanted.offline, progress=progress)
    wanted = msgspec.structs.replace(wanted, scenario=scenario.name, version=build.version)
    folder = wanted.reports / scenario.test.removeprefix("test_")

    def attempt(schedule: Schedule, seed: int) -> Told:
        option = f"--ocrepro-schedule={in_words(schedule) if schedule else ''}"
        trials = Trials(folder / "trials", find=lambda name: find_scenario(name).node, options=[option])
        return told_by(trials.one(scenario.name, build.version, seed).bundle, schedule)

    explored = Search(wanted, attempt, tell).run()
    replayed = [
        _replayed(wanted, scenario, number, one, folder, tell) for number, one in enumerate(explored.found, start=1)
    ]
    explored = msgspec.structs.replace(explored, found=tuple(replayed))
    path = folder / "explored.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, as_markdown(explored).encode())
    return explored, path


def told_by(bundle: str, schedule: Schedule) -> Told:
    """What a stored trial says; a trial without a bundle or a judgement is trouble."""
    try:
        trial = TrialBundle.read(Path(bundle)) if bundle else None
    except BundleError as error:
        return Told(trouble=str(error))
    if trial is None or trial.judgement is None:
        return Told(trouble="the trial left no evidence")
    failures = tuple({one.sign: one for one in _failures(trial, schedule)}.values())
    trouble = trial.judgement.reason if trial.judgement.result is Result.INCONCLUSIVE and not failures else ""
    page = trial.path.parents[1] / "report.html"
    return Told(failures=failures, world=world_of(trial.history), trouble=trouble, page=str(page))


def world_of(history: History) -> World:
    """How many programs a trial has started, the places in the life of each where a move can be made, the time."""
    owing = _owing(history)
    ended_s = max((event.at_ns for event in history), default=0) / 1e9
    places: dict[int, tuple[str, ...]] = {}
    for number, started in enumerate(owing, start=1):
        passed = [one.milestone for one in history.of_type(MilestoneReached) if one.pid == started.id.pid]
        locks = [one for one in history.of_type(LockDirectoryChanged) if one.holder_pid == started.id.pid]
        passed += [LOCK_DIRECTORY] if locks else []
        places[number] = tuple(place for place in PLACES[1:] if place in passed)
    longest_s = ended_s - min((one.at_ns for one in owing), default=0) / 1e9
    return World(starts=len(owing), places=places, longest_s=max(0.0, longest_s) / max(1, len(owing)))


def _owing(history: History) -> list[ProcessStarted]:
    return [one for one in history.of_type(ProcessStarted) if one.obligation in OBLIGED]


def _failures(trial: StoredTrial, schedule: Schedule) -> Iterator[Failure]:
    assert trial.judgement is not None  # noqa: S101  its only caller has looked
    owing = _owing(trial.history)
    taken_out = {owing[move.start - 1].role for move in schedule if move.takes_out and move.start <= len(owing)}
    for claim in trial.history.of_type(Expectation):
        if claim.held is not False or claim.role in taken_out:
            continue
        judged = next((one for one in trial.judgement.processes if one.role == claim.role), None)
        if judged is not None and judged.verdict in SLOW and not claim.finding:
            continue
        sign = signature_of(judged, (claim.finding,) if claim.finding else (), Result.REPRODUCED)
        if sign:
            yield Failure(sign=sign, words=f"{claim.claim}: {claim.because}"[:240])


def _replayed(wanted: Wanted, scenario: Scenario, number: int, found: Found, folder: Path, tell: Tell) -> Found:
    """The failure again from a file that needs no option of ours."""
    code = folder / f"test_{scenario.test.removeprefix('test_')}_{number}.py"
    code.parent.mkdir(parents=True, exist_ok=True)

    def write(words: str) -> None:
        replace(code, scenario_code(scenario, [str(move) for move in found.schedule], words).encode())

    write(found.failure.words)
    trials = Trials(folder / f"replays-{number}", find=lambda name: find_scenario(name).node)
    node = f"{code}::{scenario.test}" + (f"[{scenario.parameters}]" if scenario.parameters else "")
    told = [told_by(trials.one(node, wanted.version, seed).bundle, found.schedule) for seed in range(wanted.replays)]
    sure = [one for one in told if not one.trouble]
    rate = Rate(k=sum(one.shows(found.failure.sign) for one in sure), n=len(sure))
    write(f"{found.failure.words}\n\nSeen {rate} times on {wanted.version}.")
    tell(f"replayed from {code}: {rate}")
    page = next((one.page for one in told if one.shows(found.failure.sign)), found.page)
    return msgspec.structs.replace(found, code=code, rate=rate, page=page)


def as_markdown(explored: Explored) -> str:
    """The whole result, for a terminal and a file."""
    lines = [
        f"# {explored.scenario} on opencode {explored.version}",
        "",
        f"{explored.trials} trials in {explored.seconds:.0f} s, seed {explored.seed}; ended: {explored.ended}."
        + (f" {explored.inconclusive} counted neither way." if explored.inconclusive else ""),
        f"Without any move it starts {explored.world.starts} programs, one after the other"
        + (", and fails already: " + "; ".join(one.sign for one in explored.by_itself) if explored.by_itself else
           f", and did not fail in {CONTROLS} trials") + ".",
        "",
    ]  # fmt: skip
    if not explored.found:
        lines += ["No schedule that was tried brought a failure that it does not show by itself.", ""]
    for number, one in enumerate(explored.found, start=1):
        lines += [
            f"## {number}. {one.failure.sign}",
            "",
            one.failure.words,
            "",
            *(f"- {move}" for move in one.schedule),
            "",
            f"First seen under '{in_words(one.first)}'; {one.trials} trials made it smaller"
            + ("." if one.whole else ", and the time was up before no step less was left to try."),
        ]
        if one.rate is not None:
            lines += [f"Replayed from its own file: {one.rate.in_words()}.", ""]
        if one.code is not None:
            lines += ["```python", one.code.read_text(encoding="utf-8").rstrip(), "```", ""]
        lines += [f"scenario: {one.code}", f"evidence: {one.page}", ""]
    return "\n".join(lines)

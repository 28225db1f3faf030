"""What the command ``explore`` does: schedules by chance, those that fail made small, replayed, and told as code.

The search is pure but for ``attempt``, which runs one trial under one schedule. A failure is kept by its signature;
what the schedule itself has taken out (killed, suspended for good) owes nothing and fails nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.catalogue import Scenario, find_scenario, scenario_code
from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.history import Expectation, History, LockDirectoryChanged, MilestoneReached, ProcessStarted
from pytest_ocrepro.judge.judgement import Result, Verdict
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.judge.signature import signature_of
from pytest_ocrepro.publish.bundle import TrialBundle
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.storage import replace
from pytest_ocrepro.schedule import LOCK_DIRECTORY, PLACES, Schedule, World, drawn, extremes, smaller
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions.trials import Trials

OBLIGED = ("answer", "exit")
CONTROLS = 2
SLOW = frozenset({Verdict.FAILED_LATE, Verdict.OVERRAN})  # moves make programs slow, and so does a loaded machine
TRIES = 3  # of a smaller schedule before it is given up: enough for a failure that shows in two of three trials
MOST_TRIALS = 400


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One way to fail. ``sign`` is the same in every trial of it."""

    sign: str
    words: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One trial. ``trouble``: why it counts neither way; ``page``: where its evidence is."""

    failures: tuple[Failure, ...] = ()
    world: World = World(starts=0, places={}, longest_s=0.0)
    trouble: str = ""
    page: str = ""

    def shows(self, sign: str) -> bool:
        """It has failed in this way."""
        return any(one.sign == sign for one in self.failures)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One failure with the smallest schedule that was seen to bring it. ``whole``: no smaller one was left to try.

    ``code`` and ``rate`` are of the replay: the scenario as a file of its own, without any option of ours.
    """

    failure: Failure
    schedule: Schedule
    first: Schedule
    trials: int
    whole: bool
    page: str = ""
    code: Path | None = None
    rate: Rate | None = None


class Explored(msgspec.Struct, frozen=True, kw_only=True):
    """``by_itself``: what the scenario shows without any move."""

    scenario: str
    version: str
    seed: int
    world: World
    found: tuple[Found, ...]
    by_itself: tuple[Failure, ...]
    trials: int
    inconclusive: int
    seconds: float
    ended: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked ``ocrepro explore`` for. ``budget_s`` bounds the search, not the replays."""

    scenario: str
    version: str = subject.PINNED
    budget_s: float | None = 600.0
    most_trials: int = MOST_TRIALS
    most_found: int = 5
    replays: int = 5
    seed: int = 0
    reports: Path = Path("reports/explore")
    offline: bool = False


Attempt = Callable[[Schedule, int], Told]
Tell = Callable[[str], None]


class _Over(Exception):  # noqa: N818  the budget is no error
    pass


class Search:
    """Draws, keeps what fails, makes it small. ``clock`` in seconds."""

    def __init__(
        self, wanted: Wanted, attempt: Attempt, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wanted = wanted
        self._attempt = attempt
        self._tell = tell
        self._clock = clock
        self._begun = clock()
        self._trials = self._inconclusive = 0
        self._known: set[str] = set()
        self._waiting: dict[str, tuple[Failure, Schedule, str]] = {}

    def run(self) -> Explored:
        """To the end of the budget, of the trials, or until so many failures are found."""
        world = World(starts=0, places={}, longest_s=0.0)
        by_itself: dict[str, Failure] = {}
        found: list[Found] = []
        try:
            for _ in range(CONTROLS):
                told = self._try(())
                world = told.world if told.world.starts else world
                by_itself |= {one.sign: one for one in told.failures}
            self._known |= set(by_itself)
            if not world.starts:
                raise UsageError(f"{self._wanted.scenario} starts no program: there is nothing to put into an order")
            for found_one in self._found(world):
                found.append(found_one)
                if len(found) == self._wanted.most_found:
                    break
            ended = f"{len(found)} failures found"
        except _Over as over:
            ended = str(over)
        return Explored(
            scenario=self._wanted.scenario,
            version=self._wanted.version,
            seed=self._wanted.seed,
            world=world,
            found=tuple(found),
            by_itself=tuple(by_itself.values()),
            trials=self._trials,
            inconclusive=self._inconclusive,
            seconds=self._clock() - self._begun,
            ended=ended,
        )

    def _found(self, world: World) -> Iterator[Found]:
        dice = random.Random(f"ocrepro explore {self._wanted.seed}")  # noqa: S311  a plan, no secret
        seen: set[Schedule] = {()}
        for schedule in _candidates(world, dice):
            if schedule in seen:
                self._check()
                continue
            seen.add(schedule)
            self._try(schedule)
            while self._waiting:  # what is made small may show others
                sign = next(iter(self._waiting))
                failure, first, page = self._waiting.pop(sign)
                self._known.add(sign)
                self._tell(f"found: {failure.words} under '{_words(first)}'; making it smaller")
                yield self._smallest(failure, first, page)

    def _smallest(self, failure: Failure, schedule: Schedule, page: str) -> Found:
        """By one step at a time, each kept when it shows the same failure in one of a few trials."""
        first, begun, whole = schedule, self._trials, False
        refuted: set[Schedule] = {()}
        try:
            while not whole:
                whole = True
                for candidate in smaller(schedule):
                    if candidate in refuted:
                        continue
                    told = self._shown_by(candidate, failure.sign)
                    if told is not None:
                        schedule, page, whole = candidate, told.page, False
                        break
                    refuted.add(candidate)
        except _Over:
            whole = False
        return Found(
            failure=failure, schedule=schedule, first=first, trials=self._trials - begun, whole=whole, page=page
        )

    def _shown_by(self, schedule: Schedule, sign: str) -> Told | None:
        for _ in range(TRIES):
            told = self._try(schedule)
            if told.shows(sign):
                return told
        return None

    def _try(self, schedule: Schedule) -> Told:
        self._check()
        told = self._attempt(schedule, self._wanted.seed + self._trials)
        self._trials += 1
        self._inconclusive += bool(told.trouble)
        words = "; ".join(one.sign for one in told.failures) or told.trouble or "no failure"
        self._tell(f"{self._trials}: {_words(schedule)}: {words}")
        for one in told.failures if schedule else ():
            if one.sign not in self._known:
                self._waiting.setdefault(one.sign, (one, schedule, told.page))
        return told

    def _check(self) -> None:
        budget_s = self._wanted.budget_s
        if self._trials >= self._wanted.most_trials:
            raise _Over(f"{self._trials} trials are made (--max-trials)")
        if budget_s is not None and self._clock() - self._begun >= budget_s:
            raise _Over(f"the time is up (--time-budget, {budget_s:g} s)")


def _candidates(world: World, dice: random.Random) -> Iterator[Schedule]:
    """In turns an extreme and one by chance; when all extremes were tried, only chance. Never ends."""
    ends = list(extremes(world))
    dice.shuffle(ends)
    for schedule in ends:
        yield schedule
        yield drawn(world, dice)
    while True:
        yield drawn(world, dice)


def explore(wanted: Wanted, *, tell: Tell, progress: subject.Progress | None = None) -> tuple[Explored, Path]:
    """Search, then replay each failure from its own code; the result and its Markdown. Raises OcreproError."""
    scenario = find_scenario(wanted.scenario)
    build = subject.fetch(wanted.version, offline=wanted.offline, progress=progress)
    wanted = msgspec.structs.replace(wanted, scenario=scenario.name, version=build.version)
    folder = wanted.reports / scenario.test.removeprefix("test_")

    def attempt(schedule: Schedule, seed: int) -> Told:
        option = f"--ocrepro-schedule={_words(schedule) if schedule else ''}"
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


# --- the replay and what is told


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
            f"First seen under '{_words(one.first)}'; {one.trials} trials made it smaller"
            + ("." if one.whole else ", and the time was up before no step less was left to try."),
        ]
        if one.rate is not None:
            lines += [f"Replayed from its own file: {one.rate.in_words()}.", ""]
        if one.code is not None:
            lines += ["```python", one.code.read_text(encoding="utf-8").rstrip(), "```", ""]
        lines += [f"scenario: {one.code}", f"evidence: {one.page}", ""]
    return "\n".join(lines)


def _words(schedule: Sequence[object]) -> str:
    return "; ".join(map(str, schedule)) or "no moves"

"""The search for schedules that fail: drawn by chance, kept by signature, made small. Pure but for ``attempt``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.schedule import ABOUT_ALL, Schedule, World, drawn, extremes, smaller
from pytest_ocrepro.stage import subject

CONTROLS = 2
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
    """What a user asked ``ocrepro explore`` for. ``budget_s`` bounds the search, not the replays.

    ``by_chance``: no extremes, which are guesses at what goes wrong most often; chance alone draws.
    """

    scenario: str
    version: str = subject.PINNED
    budget_s: float | None = 600.0
    most_trials: int = MOST_TRIALS
    most_found: int = 5
    replays: int = 5
    seed: int = 0
    reports: Path = Path("reports/explore")
    offline: bool = False
    by_chance: bool = False


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
        for schedule in _candidates(world, dice, by_chance=self._wanted.by_chance):
            if schedule in seen:
                self._check()
                continue
            seen.add(schedule)
            self._try(schedule)
            while self._waiting:  # what is made small may show others
                sign = next(iter(self._waiting))
                failure, first, page = self._waiting.pop(sign)
                self._known.add(sign)
                self._tell(f"found: {failure.words} under '{in_words(first)}'; making it smaller")
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
        self._tell(f"{self._trials}: {in_words(schedule)}: {words}")
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


def _candidates(world: World, dice: random.Random, *, by_chance: bool) -> Iterator[Schedule]:
    """In turns an extreme and one by chance; when all extremes were tried, only chance. Never ends.

    Extremes that are about everybody come first, since they are few; those about one place in no order.
    """
    ends = [] if by_chance else list(extremes(world))
    places = ends[ABOUT_ALL:]
    dice.shuffle(places)
    for schedule in ends[:ABOUT_ALL] + places:
        yield schedule
        yield drawn(world, dice)
    while True:
        yield drawn(world, dice)


def in_words(schedule: Sequence[object]) -> str:
    """The moves as ``--ocrepro-schedule`` reads them; "no moves" for none."""
    return "; ".join(map(str, schedule)) or "no moves"

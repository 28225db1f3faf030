"""A schedule: moves beside the scenario's own that decide who runs when. Pure; ``ocrepro explore`` searches for one.

Under a schedule the starts of a scenario are strictly serial, except where a move says otherwise: the empty schedule
is the control, and what is in a schedule is what the failure needs.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

import msgspec

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.readings import MILESTONES

START, LOCK_DIRECTORY = "start", "lock-directory"
PLACES = (START, LOCK_DIRECTORY, *MILESTONES[1:])
SHORTEST_S, LONGEST_PAUSE_S = 0.005, 2.0  # rr's starving, see rr's Scheduler.cc: pauses of 1 ms to 2 s, log-uniform
FOR_GOOD_SHARE = 0.3
ABOUT_ALL = 2  # so many extremes are about no one place: they come first
_SECONDS = r"(?P<seconds>\d+(?:\.\d+)?) s"
_AT = rf"(?P<start>\d+) (?:at|from) (?P<at>{'|'.join(PLACES)})"


class Kind(StrEnum):
    """What a move does; in the words of its form."""

    OVERLAP = "start"  # start 2 0.05 s after start 1
    SUSPEND = "suspend"  # suspend 1 at config-loading for 0.5 s (for good)
    STARVE = "starve"  # starve 1 from config-loading by 0.05 s: so long out of every five times that
    KILL = "kill"  # kill 1 at config-loading
    REGISTRY = "registry"  # registry answers 2 s late; registry never answers


_FORMS = (
    (Kind.OVERLAP, re.compile(rf"start (?P<start>\d+) {_SECONDS} after start (?P<before>\d+)")),
    (Kind.SUSPEND, re.compile(rf"suspend {_AT} for (?:good|{_SECONDS})")),
    (Kind.STARVE, re.compile(rf"starve {_AT} by {_SECONDS}")),
    (Kind.KILL, re.compile(rf"kill {_AT}")),
    (Kind.REGISTRY, re.compile(rf"registry (?:never answers|answers {_SECONDS} late)")),
)


class Move(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One move. ``start`` counts the scenario's starts of programs from 1; ``seconds`` None: for good."""

    kind: Kind
    start: int = 0
    at: str = ""
    seconds: float | None = None

    def __str__(self) -> str:
        """The form that ``parse`` reads."""
        match self.kind:
            case Kind.OVERLAP:
                return f"start {self.start} {self.seconds or 0:g} s after start {self.start - 1}"
            case Kind.SUSPEND:
                return f"suspend {self.start} at {self.at} for {_time(self.seconds)}"
            case Kind.STARVE:
                return f"starve {self.start} from {self.at} by {self.seconds:g} s"
            case Kind.KILL:
                return f"kill {self.start} at {self.at}"
            case Kind.REGISTRY:
                late = "never answers" if self.seconds is None else f"answers {self.seconds:g} s late"
                return f"registry {late}"

    @property
    def takes_out(self) -> bool:
        """Whoever it is about owes nothing any more."""
        return self.kind is Kind.KILL or (self.kind is Kind.SUSPEND and self.seconds is None)


Schedule = tuple[Move, ...]


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial without any move has shown: how many programs it starts, where each comes by, its longest life."""

    starts: int
    places: Mapping[int, tuple[str, ...]]
    longest_s: float


def parse(forms: Iterable[str]) -> Schedule:
    """A schedule from its moves in words. Raises UsageError."""
    return tuple(_move(form.strip()) for form in forms if form.strip())


def _move(form: str) -> Move:
    for kind, pattern in _FORMS:
        found = pattern.fullmatch(form)
        if found is None:
            continue
        told = found.groupdict()
        start = int(told.get("start") or 0)
        if kind is Kind.OVERLAP and int(told["before"]) != start - 1:
            break
        seconds = told.get("seconds")
        return Move(
            kind=kind, start=start, at=told.get("at") or "", seconds=None if seconds is None else float(seconds)
        )
    raise UsageError(
        f"{form!r} is no move of a schedule; write 'start 2 0.05 s after start 1', 'suspend 1 at PLACE for 0.5 s' "
        "(or 'for good'), 'starve 1 from PLACE by 0.05 s', 'kill 1 at PLACE', 'registry never answers' or 'registry "
        f"answers 2 s late', PLACE one of {', '.join(PLACES)}"
    )


def drawn(world: World, dice: random.Random) -> Schedule:
    """A schedule by chance: overlaps first, since most failures need one, then up to three disturbances."""
    moves = [
        Move(kind=Kind.OVERLAP, start=start, seconds=_pause(dice, world.longest_s))
        for start in range(2, world.starts + 1)
        if dice.random() < 2 / 3
    ]
    moves += [_disturbance(world, dice) for _ in range(dice.choice((0, 1, 1, 2)))]
    return tidy(moves)


def extremes(world: World) -> Iterator[Schedule]:
    """All starts at once, alone and with one thing that goes wrong for good: a kill, a suspension, the registry."""
    at_once = [Move(kind=Kind.OVERLAP, start=start, seconds=0.0) for start in range(2, world.starts + 1)]
    yield tidy(at_once)
    yield tidy([Move(kind=Kind.REGISTRY), *at_once])
    for start in range(1, world.starts + 1):
        for at in (START, *world.places.get(start, ())):
            for kind in (Kind.SUSPEND, Kind.KILL):
                yield tidy([Move(kind=kind, start=start, at=at), *at_once])


def tidy(moves: Iterable[Move]) -> Schedule:
    """In order, and of moves that contradict each other the first."""
    kept: dict[tuple[Kind, int], Move] = {}
    for move in moves:
        kept.setdefault((move.kind, move.start), move)
    return tuple(sorted(kept.values(), key=lambda move: (move.start, move.kind, move.at)))


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Candidates that are simpler by one step: a move less, then a rounder or an earlier one."""
    for move in schedule:
        yield tuple(other for other in schedule if other is not move)
    for move in schedule:
        for plainer in _plainer(move):
            yield tuple(plainer if other is move else other for other in schedule)


def _plainer(move: Move) -> Iterator[Move]:
    if move.kind is Kind.OVERLAP and move.seconds:
        yield msgspec.structs.replace(move, seconds=0.0)
    elif move.kind is Kind.SUSPEND and move.seconds is None:
        yield msgspec.structs.replace(move, seconds=LONGEST_PAUSE_S)
    if move.seconds:
        rounded = _rounded(move.seconds, 1)
        if rounded != move.seconds:
            yield msgspec.structs.replace(move, seconds=rounded)


def _disturbance(world: World, dice: random.Random) -> Move:
    kind = dice.choice((Kind.SUSPEND, Kind.SUSPEND, Kind.STARVE, Kind.KILL, Kind.REGISTRY))
    for_good = dice.random() < FOR_GOOD_SHARE
    if kind is Kind.REGISTRY:
        return Move(kind=kind, seconds=None if for_good else _pause(dice, LONGEST_PAUSE_S))
    start = dice.randint(1, world.starts)
    at = dice.choice((START, *world.places.get(start, ())))
    seconds = None if kind is Kind.KILL or (kind is Kind.SUSPEND and for_good) else _pause(dice, LONGEST_PAUSE_S)
    return Move(kind=kind, start=start, at=at, seconds=seconds)


def _pause(dice: random.Random, longest_s: float) -> float:
    """Log-uniform: as often between 10 and 20 ms as between 1 and 2 s."""
    low, high = math.log(SHORTEST_S), math.log(max(longest_s, 2 * SHORTEST_S))
    return _rounded(math.exp(dice.uniform(low, high)), 2)


def _rounded(seconds: float, digits: int) -> float:
    return float(f"{seconds:.{digits}g}")


def _time(seconds: float | None) -> str:
    return "good" if seconds is None else f"{seconds:g} s"

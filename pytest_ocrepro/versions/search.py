"""A bisection from journal to answer: fold what was tried, decide the next step, run it, write it down.

:func:`next_step` is pure: the same journal gives the same step, which is what resume and replay rest on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from pytest_ocrepro.errors import BuildError, OcreproError, UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.bisection import (
    Boundary,
    Cost,
    Counts,
    Posterior,
    Question,
    boundaries,
    choose,
    confirmation,
    posterior,
)
from pytest_ocrepro.versions.journal import AnyRecord, Fetched, Journal, Plan, Skipped, Tried, trials_of
from pytest_ocrepro.versions.releases import RegistryError

TRIAL_S = 10.0  # until one was measured
DOWNLOAD_S = 30.0
HITS_WANTED = 2
HITS_WANTED_WHEN_RARE = 5
RARE = 0.2
MOST_CALIBRATION = 60
NEVER_SEEN = 29  # trials of the failing end without a hit: a rate above 10 % is excluded at 95 %
MOST_TRIALS = 1500
CLOSED_AFTER = 3  # inconclusive (or hidden) trials of one version, and no other
MOST_TROUBLE = 10  # inconclusive trials in a row, whatever the version: it is the machine, not a version


class Why(StrEnum):
    """Why a search ended."""

    FOUND = "found"
    NOT_CONFIRMED = "not confirmed"
    ALWAYS = "there from the first version on"
    NEVER = "not reproduced at the failing end"
    BUDGET = "the budget is spent"
    NOTHING_LEFT = "no version is left that could be tried"
    TROUBLE = "too many trials were inconclusive"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What to try now; ``ended``: nothing any more, and why."""

    phase: str = ""
    versions: tuple[str, ...] = ()
    ended: Why | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The fold of a journal. ``order``: versions from the side expected clean to the side expected to fail."""

    plan: Plan
    order: tuple[str, ...]
    question: Question
    counts: Counts
    cost: Cost
    confirmed: dict[str, Rate]
    inconclusive: dict[str, int]
    censored: dict[str, int]
    closed: dict[str, str]
    trouble_in_a_row: int
    trials: int
    batch: int

    def found(self) -> Posterior:
        """The posterior; cached."""
        return posterior(self.question, self.counts)

    def answers(self) -> tuple[Boundary, ...]:
        """All answers, likeliest first."""
        return boundaries(self.question, self.found())

    def rate(self, version: str) -> Rate:
        """Search and calibration trials of one version."""
        at = self.order.index(version)
        return Rate(k=self.counts.hits[at], n=self.counts.trials[at])


def fold(records: Sequence[AnyRecord], *, signature: str | None = None, before_batch: int | None = None) -> State:
    """What a journal says, for failures whose signature begins with ``signature`` (None: as the plan has it).

    ``before_batch``: only what was known when that batch was chosen.
    """
    plan = records[0]
    assert isinstance(plan, Plan)  # noqa: S101  the journal's reader has checked it
    wanted = plan.signature if signature is None else signature
    known = list(records) if before_batch is None else _known_before(records, before_batch)
    same = {one.version: one.same_as for one in known if isinstance(one, Fetched) and one.same_as}
    order = tuple(version for version in plan.versions if version not in same)
    order = order[::-1] if plan.find_fix else order
    tried = list(trials_of(known))
    counted = [one for one in tried if one.phase != "confirm"]
    seen = [(same.get(one.version, one.version), _hit(one, wanted)) for one in counted]
    hits, misses, silent = (Counter(name for name, hit in seen if hit is kind) for kind in (True, False, None))
    inconclusive = Counter(one.version for one in tried if one.result == "inconclusive")
    conclusive = hits + misses
    closed = {one.version: one.reason for one in known if isinstance(one, Skipped)}
    closed |= _given_up([version for version in silent if not conclusive[version]], silent, inconclusive)
    return State(
        plan=plan,
        order=order,
        question=Question(
            open_to_trial=tuple(version not in closed for version in order),
            monotone=plan.monotone,
            oracle_is_certain=plan.oracle_is_certain,
        ),
        counts=Counts(
            hits=tuple(hits[version] for version in order),
            trials=tuple(conclusive[version] for version in order),
        ),
        cost=_cost(plan, known, tried, order),
        confirmed=_confirmed(tried, wanted),
        inconclusive=dict(inconclusive),
        censored=dict(silent - inconclusive),
        closed=closed,
        trouble_in_a_row=_in_a_row(tried),
        trials=len(tried),
        batch=max((one.batch for one in tried), default=0),
    )


def next_step(state: State, *, budget_spent: bool = False) -> Step:
    """Calibrate, search, confirm, or end. Pure."""
    answers = state.answers()
    if state.trouble_in_a_row >= MOST_TROUBLE:
        return Step(ended=Why.TROUBLE)
    if budget_spent:
        return Step(ended=Why.BUDGET)
    if not answers:
        return Step(ended=Why.NOTHING_LEFT)
    end = _failing_end(state)
    seen = state.rate(end)
    if seen.k == 0 and seen.n >= NEVER_SEEN:
        return Step(ended=Why.NEVER)
    if _calibrates(seen):
        return Step(phase="calibrate", versions=(end,) * state.plan.workers)
    return _search(state, answers[0])


def replay(records: Sequence[AnyRecord]) -> tuple[int, list[int]]:
    """(batches, numbers of those that the journal before them would not have chosen)."""
    numbers = sorted({one.batch for one in trials_of(records)})
    wrong = []
    for number in numbers:
        step = next_step(fold(records, before_batch=number))
        chosen = Counter(one.version for one in trials_of(records) if one.batch == number)
        if chosen - Counter(step.versions):
            wrong.append(number)
    return len(numbers), wrong


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """A build that can be run now."""

    version: str
    sha256: str


Fetch = Callable[[str], Here]  # raises BuildError; RegistryError where npm does not answer
Run = Callable[[str, Sequence[tuple[str, int]]], list[Tried]]  # (scenario, [(version, seed)]) -> in any order
Tell = Callable[[str], None]


class Search:
    """Runs a bisection over an open journal until it ends or the budget (seconds) is spent."""

    def __init__(
        self, journal: Journal, *, run: Run, fetch: Fetch, tell: Tell, budget_s: float | None = None
    ) -> None:
        self._journal = journal
        self._run = run
        self._fetch = fetch
        self._tell = tell
        self._deadline = None if budget_s is None else time.monotonic() + budget_s
        self._here: dict[str, str] = {one.version: one.sha256 for one in journal.records if isinstance(one, Fetched)}

    def to_the_end(self) -> tuple[State, Why]:
        """The state at the end and why it ended; resumed from the journal. Raises OcreproError."""
        while True:
            state = fold(self._journal.records)
            step = next_step(state, budget_spent=self._spent())
            if step.ended is not None:
                return state, step.ended
            if self._all_here(step.versions):
                self._try(state, step)

    def _spent(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _all_here(self, versions: Sequence[str]) -> bool:
        """False: something was fetched, or cannot be had; decide again, so that a replay sees what we saw."""
        missing = [version for version in dict.fromkeys(versions) if version not in self._here]
        for version in missing:
            self._obtain(version)
        return not missing

    def _obtain(self, version: str) -> None:
        started = time.monotonic()
        try:
            here = self._fetch(version)
        except RegistryError as error:
            raise OcreproError(f"{error}; {self._journal.path} is kept: repeat the command to go on") from None
        except BuildError as error:
            self._tell(f"{version} cannot be tried: {error}")
            self._journal.append(Skipped(version=version, reason=str(error)))
            return
        twin = next((other for other, sha256 in self._here.items() if sha256 == here.sha256), "")
        self._here[version] = here.sha256
        self._journal.append(
            Fetched(
                version=version,
                sha256=here.sha256,
                seconds=time.monotonic() - started,
                same_as=twin if _neighbours(self._journal.records, twin, version) else "",
            )
        )

    def _try(self, state: State, step: Step) -> None:
        plan = state.plan
        first = plan.seed + state.trials
        batch = [(version, first + number) for number, version in enumerate(step.versions)]
        for tried in self._run(plan.scenarios[0], batch):
            placed = msgspec.structs.replace(tried, batch=state.batch + 1, phase=step.phase)
            self._journal.append(placed)
            self._say(placed)

    def _say(self, tried: Tried) -> None:
        state = fold(self._journal.records)
        best = state.answers()[:1]
        told = f"; likeliest answer {_span(state, best[0])} {best[0].probability:.0%}" if best else ""
        self._tell(f"{state.trials:4} {tried.phase:9} {tried.version:10} {tried.result} {tried.seconds:.0f} s{told}")


def check_plan(old: Plan, new: Plan, name: str) -> None:
    """A journal goes on only with the same question. Raises UsageError naming what differs."""
    for field in ("kind", "scenarios", "find_fix", "confidence", "monotone", "oracle_is_certain", "signature"):
        if getattr(old, field) != getattr(new, field):
            raise UsageError(
                f"{name} is the journal of another search ({field} {getattr(old, field)!r}, "
                f"now {getattr(new, field)!r}): name another journal"
            )


# --- below: how


def _known_before(records: Sequence[AnyRecord], batch: int) -> list[AnyRecord]:
    first = next(number for number, one in enumerate(records) if isinstance(one, Tried) and one.batch == batch)
    return list(records[:first])


def _hit(tried: Tried, signature: str) -> bool | None:
    """None: this trial says nothing: inconclusive, or it ended with another failure before ours could show."""
    if tried.result == "inconclusive":
        return None
    if tried.result != "reproduced":
        return False
    return True if tried.signature.startswith(signature) else None


def _given_up(versions: Sequence[str], silent: Counter[str], inconclusive: Counter[str]) -> dict[str, str]:
    """Versions of which several trials told nothing and none told anything."""
    why = {True: "another failure comes first", False: "its trials are inconclusive"}
    return {
        version: f"{why[inconclusive[version] < silent[version]]} ({silent[version]} trials)"
        for version in versions
        if silent[version] >= CLOSED_AFTER
    }


def _cost(plan: Plan, known: Sequence[AnyRecord], tried: Sequence[Tried], order: tuple[str, ...]) -> Cost:
    seconds = [one.seconds for one in tried if one.seconds > 0]
    fetched = [one for one in known if isinstance(one, Fetched)]
    slow = [one.seconds for one in fetched if one.version not in plan.cached]
    here = set(plan.cached) | {one.version for one in fetched}
    return Cost(
        trial_s=sum(seconds) / len(seconds) if seconds else TRIAL_S,
        download_s=sum(slow) / len(slow) if slow else DOWNLOAD_S,
        here=tuple(version in here for version in order),
    )


def _confirmed(tried: Sequence[Tried], signature: str) -> dict[str, Rate]:
    fresh = [(one.version, _hit(one, signature)) for one in tried if one.phase == "confirm"]
    versions = dict.fromkeys(version for version, _ in fresh)
    return {
        version: Rate(
            k=sum(hit is True for name, hit in fresh if name == version),
            n=sum(hit is not None for name, hit in fresh if name == version),
        )
        for version in versions
    }


def _in_a_row(tried: Sequence[Tried]) -> int:
    number = 0
    for one in reversed(tried):
        if one.result != "inconclusive":
            break
        number += 1
    return number


def _failing_end(state: State) -> str:
    return next(version for version in reversed(state.order) if version not in state.closed)


def _calibrates(seen: Rate) -> bool:
    rare = seen.n >= 2 * HITS_WANTED_WHEN_RARE and seen.k < RARE * seen.n
    return seen.k < (HITS_WANTED_WHEN_RARE if rare else HITS_WANTED) and seen.n < MOST_CALIBRATION


def _search(state: State, best: Boundary) -> Step:
    confidence, found = state.plan.confidence, state.found()
    if best.probability >= confidence:
        return _confirm(state, best)
    if found.always >= confidence:
        return Step(ended=Why.ALWAYS)
    if state.trials >= MOST_TRIALS:
        return Step(ended=Why.BUDGET)
    picked = choose(state.question, state.counts, state.cost, how_many=state.plan.workers)
    if not picked:
        return Step(ended=Why.NOTHING_LEFT)
    return Step(phase="search", versions=tuple(state.order[build] for build in picked))


def _confirm(state: State, best: Boundary) -> Step:
    """Fresh trials on both sides, in turns."""
    failing, clean = state.order[best.failing], state.order[best.clean]
    m = fresh_trials(state)
    left = {version: m - state.confirmed.get(version, Rate(k=0, n=0)).n for version in (failing, clean)}
    todo: list[str] = []
    while any(number > 0 for number in left.values()) and len(todo) < state.plan.workers:
        behind = max(left, key=lambda version: left[version])  # the failing one where both are equal
        left[behind] -= 1
        todo.append(behind)
    if todo:
        return Step(phase="confirm", versions=tuple(todo))
    return Step(ended=Why.FOUND if is_confirmed(state, best) else Why.NOT_CONFIRMED)


def fresh_trials(state: State) -> int:
    """How many confirmation trials each side needs, by the pooled rate where the failure is."""
    present = [build for build, share in enumerate(state.found().present) if share > 0.5]  # noqa: PLR2004  likelier than not
    hits = sum(state.counts.hits[build] for build in present)
    trials = sum(state.counts.trials[build] for build in present)
    return confirmation(hits / trials if trials else 1.0)


def is_confirmed(state: State, best: Boundary) -> bool:
    """The fresh batch shows it on the failing side, and not on the clean one."""
    none = Rate(k=0, n=0)
    failing = state.confirmed.get(state.order[best.failing], none)
    clean = state.confirmed.get(state.order[best.clean], none)
    return failing.k > 0 and clean.k * failing.n <= 0.1 * failing.k * clean.n  # a tenth of the rate


def _neighbours(records: Sequence[AnyRecord], one: str, other: str) -> bool:
    """Nothing lies between the two that is not itself one of the twins."""
    plan = records[0]
    if not one or not isinstance(plan, Plan):
        return False
    return abs(plan.versions.index(one) - plan.versions.index(other)) == 1


def _span(state: State, answer: Boundary) -> str:
    return f"{state.order[answer.clean]}|{state.order[answer.failing]}"

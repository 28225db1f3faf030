"""A bisection from journal to answer: fold what was tried, decide the next step, run it, write it down.

:func:`fold` and :func:`next_step` are pure: the same journal gives the same step, which is what resume and replay
rest on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.batches import (
    MOST_TROUBLE,
    Batches,
    Fetch,
    Prefetch,
    Run,
    Tell,
    away,
    pending,
    plan_of,
    trouble_in_a_row,
    twins,
)
from pytest_ocrepro.versions.bisection import (
    HITS_WANTED,
    Boundary,
    Cost,
    Phase,
    answers,
    choose,
    decide,
    fresh_trials,
)
from pytest_ocrepro.versions.journal import AnyRecord, Chosen, Fetched, Journal, Plan, Skipped, Tried, trials_of
from pytest_ocrepro.versions.posterior import Counts, Posterior, Question, posterior

TRIAL_S = 10.0  # until one was measured
DOWNLOAD_S = 30.0
MOST_TRIALS = 1000
GIVEN_UP_AFTER = 3  # trials of one version that told nothing while others told something
ANY = "any"


class Why(StrEnum):
    """Why a search ended."""

    FOUND = "found"
    ALWAYS = "there from the first version on"
    NEVER = "not seen at the failing end"
    BUDGET = "the budget is spent"
    NOTHING_LEFT = "no version is left that could be tried"
    TROUBLE = "too many trials were inconclusive"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What to try now; ``ended``: nothing any more, and why."""

    phase: Phase = Phase.NOTHING_LEFT
    versions: tuple[str, ...] = ()
    ended: Why | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The fold of a journal. ``order``: versions from the side expected clean to the side expected to fail.

    ``counts``: all trials that told something; ``settled``: those without the ``fresh`` ones, which stand at the
    journal's end and confirm the answer. ``foreign``: signatures of reproductions that are not the failure asked for.
    """

    plan: Plan
    order: tuple[str, ...]
    question: Question
    counts: Counts
    settled: Counts
    fresh: dict[str, Rate]
    cost: Cost
    closed: dict[str, str]
    wanted: tuple[str, ...]
    foreign: dict[str, int]
    inconclusive: int
    trouble_in_a_row: int
    trials: int
    pending: Chosen | None

    def found(self) -> Posterior:
        """By all trials."""
        return posterior(self.question, self.counts)

    def answers(self) -> tuple[Boundary, ...]:
        """By all trials, likeliest first."""
        return answers(self.question, self.found())

    def rate(self, version: str) -> Rate:
        """All trials of one version."""
        at = self.order.index(version)
        return Rate(k=self.counts.hits[at], n=self.counts.trials[at])


def fold(records: Sequence[AnyRecord], *, signature: str | None = None) -> State:
    """What a journal says of one kind of failure (None: the one that its plan names)."""
    plan = plan_of(records)
    same = twins(records)
    order = tuple(version for version in plan.versions if version not in same)
    order = order[::-1] if plan.find_fix else order
    tried = [msgspec.structs.replace(one, version=same.get(one.version, one.version)) for one in trials_of(records)]
    wanted = _wanted(plan.signature if signature is None else signature, tried)
    told = [(one, hit_of(one, wanted)) for one in tried]
    settled = [pair for pair in told[: _fresh_from(tried)] if pair[1] is not None]
    closed = away(records) | {one.version: one.reason for one in records if isinstance(one, Skipped)}
    closed |= _given_up(told)
    reproduced = Counter(
        one.signs[0] if one.signs else "" for one, hit in told if one.result == "reproduced" and not hit
    )
    return State(
        plan=plan,
        order=order,
        question=Question(
            open_to_trial=tuple(version not in closed for version in order),
            monotone=plan.monotone,
            oracle_is_certain=plan.oracle_is_certain,
        ),
        counts=_counts(order, [pair for pair in told if pair[1] is not None]),
        settled=_counts(order, settled),
        fresh=_rates(told[_fresh_from(tried) :]),
        cost=_cost(plan, records, told, order, closed),
        closed=closed,
        wanted=wanted,
        foreign=dict(reproduced),
        inconclusive=sum(one.result == "inconclusive" for one in tried),
        trouble_in_a_row=trouble_in_a_row(records),
        trials=len(tried),
        pending=pending(records, closed),
    )


def hit_of(tried: Tried, wanted: Sequence[str]) -> bool | None:
    """None: the trial says nothing: inconclusive, or it ended with another failure before ours could show.

    A finding that is not there was looked for and not found; of two signatures a trial can have but one.
    """
    if tried.result == "inconclusive":
        return None
    if tried.result != "reproduced" or not wanted:
        return False
    if any(word == ANY or sign.startswith(word) for word in wanted for sign in tried.signs or ("",)):
        return True
    return None if any(word.startswith("oc-") for word in wanted) else False


def next_step(state: State, *, budget_spent: bool = False, most_trials: int = MOST_TRIALS) -> Step:
    """Make sure of the failing end, search, confirm, or end. Pure."""
    if state.trouble_in_a_row >= MOST_TROUBLE:
        return Step(ended=Why.TROUBLE)
    confidence, workers = state.plan.confidence, state.plan.workers
    decided = decide(state.question, state.settled, state.cost, confidence=confidence, how_many=workers)
    step = _step(state, decided.phase, decided.builds)
    if decided.phase is Phase.ANSWERED:
        step = _confirm(state)
    if step.ended is None and (budget_spent or state.trials >= most_trials):
        return Step(ended=Why.BUDGET)
    return step


def likely_next(state: State, version: str) -> tuple[str, ...]:
    """What would be tried after a hit and after a miss of this version."""
    at = state.order.index(version)
    after = (state.counts.with_trial(at, hit=hit) for hit in (True, False))
    chosen = [choose(state.question, counts, state.cost) for counts in after]
    return tuple(dict.fromkeys(state.order[build] for builds in chosen for build in builds))


def is_confirmed(state: State) -> bool:
    """A whole fresh batch shows the failure on its side, and with it the answer is still likely enough."""
    before = answers(state.question, posterior(state.question, state.settled))[:1]
    after = state.answers()[:1]
    if not before or _sides(before[0]) != _sides(after[0]) or _still_to_confirm(state, before[0]):
        return False
    failing = before[0].failing
    shown = failing is not None and state.fresh.get(state.order[failing], Rate(k=0, n=0)).k > 0
    return shown and after[0].probability >= state.plan.confidence


def replay(records: Sequence[AnyRecord]) -> tuple[int, list[int]]:
    """(batches, numbers of those that the journal before them would not have chosen)."""
    chosen = [(at, one) for at, one in enumerate(records) if isinstance(one, Chosen)]
    wrong = []
    for at, one in chosen:
        step = next_step(fold(records[:at]), most_trials=len(records) + 1)
        if step.versions != tuple(version for _, version, _ in one.trials) or step.phase != one.phase:
            wrong.append(one.batch)
    return len(chosen), wrong


class Search:
    """Runs a bisection over an open journal until it ends, or the budget (seconds, trials) is spent.

    ``away``: versions that cannot be had this time.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        run: Run,
        fetch: Fetch,
        tell: Tell,
        budget_s: float | None = None,
        most_trials: int = MOST_TRIALS,
        away: Sequence[str] = (),
        prefetch: Prefetch | None = None,
    ) -> None:
        self._journal = journal
        self._tell = tell
        self._batches = Batches(
            journal, run=run, fetch=fetch, tell=tell, away=away, budget_s=budget_s, prefetch=prefetch
        )
        self._looks_ahead = prefetch is not None
        self._most_trials = most_trials

    def to_the_end(self) -> tuple[State, Why]:
        """The state at the end and why it ended. Raises OcreproError; the journal then is good to go on with."""
        while True:
            state = fold(self._journal.records)
            chosen = state.pending
            if chosen is None:
                step = next_step(state, budget_spent=self._batches.spent(), most_trials=self._most_trials)
                if step.ended is not None:
                    return state, step.ended
                scenario = state.plan.scenarios[0]
                chosen = self._batches.choose(step.phase, [(scenario, version) for version in step.versions])
            if chosen is not None:
                likely = likely_next(state, chosen.trials[0][1]) if self._looks_ahead else ()
                self._batches.run(chosen, self._say, likely=likely)

    def _say(self, tried: Tried) -> None:
        state = fold(self._journal.records)
        best = state.answers()[:1]
        told = f"; {_span(state, best[0])} {best[0].probability:.0%}" if best else ""
        self._tell(
            f"{state.trials:4} {tried.phase:9} {tried.version:10} {tried.result:12} {tried.seconds:.0f} s{told}"
        )


# --- below: the fold


def _wanted(signature: str, tried: Sequence[Tried]) -> tuple[str, ...]:
    """Beginnings of the signs that count; without a signature those that the failing end has shown twice.

    One reproduction could be of something else, which a bisection would then be led by; before a second one of the
    same kind the most frequent stands for them.
    """
    if signature:
        return (signature,)
    shown = Counter(
        one.signs[0].partition(" ")[0]
        for one in tried
        if one.phase == Phase.CALIBRATE and one.result == "reproduced" and one.signs
    )
    twice = tuple(sorted(sign for sign, number in shown.items() if number >= HITS_WANTED))
    return twice or tuple(sign for sign, _ in shown.most_common(1)) or (ANY,)


def _fresh_from(tried: Sequence[Tried]) -> int:
    """Where the confirming trials at the end begin."""
    at = len(tried)
    while at and tried[at - 1].phase == Phase.CONFIRM:
        at -= 1
    return at


def _counts(order: Sequence[str], told: Sequence[tuple[Tried, bool | None]]) -> Counts:
    trials = Counter(one.version for one, _ in told)
    hits = Counter(one.version for one, hit in told if hit)
    return Counts(hits=tuple(hits[version] for version in order), trials=tuple(trials[version] for version in order))


def _rates(told: Sequence[tuple[Tried, bool | None]]) -> dict[str, Rate]:
    versions = dict.fromkeys(one.version for one, _ in told)
    outcomes = {
        version: [hit for one, hit in told if one.version == version and hit is not None] for version in versions
    }
    return {version: Rate(k=sum(hits), n=len(hits)) for version, hits in outcomes.items()}


def _given_up(told: Sequence[tuple[Tried, bool | None]]) -> dict[str, str]:
    """Versions of which several trials told nothing and none told anything, while others did."""
    found = {}
    for version in dict.fromkeys(one.version for one, _ in told):
        ours = [(at, one) for at, (one, hit) in enumerate(told) if one.version == version and hit is None]
        told_once = any(one.version == version and hit is not None for one, hit in told)
        if told_once or len(ours) < GIVEN_UP_AFTER:
            continue
        if any(hit is not None for _, hit in told[ours[0][0] :]):
            broken = all(one.result == "inconclusive" for _, one in ours)
            why = f"inconclusive: {ours[-1][1].reason}" if broken else "another failure comes first"
            found[version] = f"{why} ({len(ours)} trials)"
    return found


def _cost(
    plan: Plan,
    records: Sequence[AnyRecord],
    told: Sequence[tuple[Tried, bool | None]],
    order: tuple[str, ...],
    closed: dict[str, str],
) -> Cost:
    seconds = [one.seconds for one, _ in told if one.seconds > 0]
    fetched = [one for one in records if isinstance(one, Fetched)]
    slow = [one.seconds for one in fetched if one.version not in plan.cached]
    here = set(plan.cached) | {one.version for one in fetched}
    no_matter = {one.version for one in records if isinstance(one, Skipped) and one.by_hand} | away(records).keys()
    broken = [order.index(version) for version in closed if version in order and version not in no_matter]
    silent = Counter(one.version for one, hit in told if hit is None)
    return Cost(
        trial_s=sum(seconds) / len(seconds) if seconds else TRIAL_S,
        download_s=sum(slow) / len(slow) if slow else DOWNLOAD_S,
        here=tuple(version in here for version in order),
        chance=tuple(0.5 ** silent[version] * _chance(at, broken) for at, version in enumerate(order)),
    )


def _chance(at: int, broken: Sequence[int]) -> float:
    """What a build is worth beside one that does not run: its neighbours often do not either."""
    nearest = min((abs(at - other) for other in broken if other != at), default=None)
    return 1.0 if nearest is None else 1 - 0.5**nearest


# --- below: the steps


def _step(state: State, phase: Phase, builds: Sequence[int]) -> Step:
    ended = {Phase.NOT_SEEN: Why.NEVER, Phase.NOTHING_LEFT: Why.NOTHING_LEFT}.get(phase)
    return Step(phase=phase, versions=tuple(state.order[build] for build in builds), ended=ended)


def _sides(one: Boundary) -> tuple[int | None, int | None]:
    return one.clean, one.failing


def _still_to_confirm(state: State, best: Boundary) -> list[str]:
    """Versions whose fresh trials are missing, in turns, the failing side first."""
    present = [v for v, share in enumerate(posterior(state.question, state.settled).present) if share > 0.5]  # noqa: PLR2004  likelier than not
    m = fresh_trials(sum(state.settled.hits[v] for v in present), sum(state.settled.trials[v] for v in present))
    sides = [state.order[build] for build in (best.failing, best.clean) if build is not None]
    left = {version: m - state.fresh.get(version, Rate(k=0, n=0)).n for version in sides}
    todo: list[str] = []
    while any(number > 0 for number in left.values()):
        behind = max(left, key=lambda version: left[version])  # the failing one where both are equal
        left[behind] -= 1
        todo.append(behind)
    return todo


def _confirm(state: State) -> Step:
    """Fresh trials on both sides; where they speak against the answer the search goes on with them."""
    best = answers(state.question, posterior(state.question, state.settled))[0]
    if best.failing is None:
        return Step(phase=Phase.NOT_SEEN, ended=Why.NEVER)
    todo = _still_to_confirm(state, best)
    if todo:
        return Step(phase=Phase.CONFIRM, versions=tuple(todo[: state.plan.workers]))
    if is_confirmed(state):
        return Step(phase=Phase.ANSWERED, ended=Why.FOUND if best.clean is not None else Why.ALWAYS)
    builds = choose(state.question, state.counts, state.cost, how_many=state.plan.workers)
    return _step(state, Phase.SEARCH if builds else Phase.NOTHING_LEFT, builds)


def _span(state: State, answer: Boundary) -> str:
    sides = [state.order[build] if build is not None else "none" for build in (answer.clean, answer.failing)]
    return f"clean {sides[0]}, failing {sides[1]}"

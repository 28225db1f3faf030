"""A bisection from journal to answer: fold what was tried, decide the next step, run it, write it down.

:func:`fold` and :func:`next_step` are pure: the same journal gives the same step, which is what resume and replay
rest on.
"""

from __future__ import annotations

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
)
from pytest_ocrepro.versions.bisection import (
    Boundary,
    Phase,
    answers,
    choose,
    decide,
    fresh_trials,
)
from pytest_ocrepro.versions.journal import AnyRecord, Chosen, Journal, Tried
from pytest_ocrepro.versions.posterior import posterior
from pytest_ocrepro.versions.state import State, fold

MOST_TRIALS = 1000
BETWEEN_CONTROLS = 5


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


def next_step(state: State, *, budget_spent: bool = False, most_trials: int = MOST_TRIALS) -> Step:
    """Make sure of the failing end, search, confirm, or end. Pure."""
    if state.trouble_in_a_row >= MOST_TROUBLE:
        return Step(ended=Why.TROUBLE)
    if _control_is_due(state) and not budget_spent and state.trials < most_trials:
        return Step(phase=Phase.CONTROL, versions=(state.last,))
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
                scenario = state.plan.control if step.phase is Phase.CONTROL else state.plan.scenarios[0]
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


# --- below: the steps


def _control_is_due(state: State) -> bool:
    """One trial in six, on the build that was just tried: it meets the machine as the trials around it do."""
    if not state.plan.control or not state.last or state.last in state.closed:
        return False
    return (state.trials - state.control_trials) // BETWEEN_CONTROLS > state.control_trials


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

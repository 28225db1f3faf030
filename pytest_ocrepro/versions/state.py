"""What a journal says of one kind of failure, folded: the same journal gives the same state, on any machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.batches import away, pending, plan_of, trouble_in_a_row, twins
from pytest_ocrepro.versions.bisection import HITS_WANTED, Boundary, Cost, Phase, answers
from pytest_ocrepro.versions.journal import (
    SKIPPED,
    UNTOLD,
    AnyRecord,
    Chosen,
    Fetched,
    Plan,
    Skipped,
    Tried,
    trials_of,
)
from pytest_ocrepro.versions.posterior import Counts, Posterior, Question, posterior

TRIAL_S = 10.0  # until one was measured
DOWNLOAD_S = 30.0
GIVEN_UP_AFTER = 3  # trials of one version that told nothing while others told something
ANY = "any"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The fold of a journal. ``order``: versions from the side expected clean to the side expected to fail.

    ``counts``: all trials that told something; ``settled``: those without the ``fresh`` ones, which stand at the
    journal's end and confirm the answer. ``foreign``: signatures of reproductions that are not the failure asked for.
    ``controls``: trials of the control scenario by version, which say nothing of the failure and must all be clean.
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
    last: str = ""  # the version that was tried last
    controls: dict[str, Rate] = {}
    control_trials: int = 0

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
    every = [msgspec.structs.replace(one, version=same.get(one.version, one.version)) for one in trials_of(records)]
    tried = [one for one in every if one.phase != Phase.CONTROL]
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
        trials=len(every),
        pending=pending(records, closed),
        last=tried[-1].version if tried else "",
        control_trials=len(every) - len(tried),
        controls=_rates([(one, _control(one)) for one in every if one.phase == Phase.CONTROL]),
    )


def hit_of(tried: Tried, wanted: Sequence[str]) -> bool | None:
    """None: the trial says nothing: inconclusive or skipped, or it ended with another failure before ours could show.

    A finding that is not there was looked for and not found; of two signatures a trial can have but one.
    """
    if tried.result in UNTOLD:
        return None
    if tried.result != "reproduced" or not wanted:
        return False
    if any(word == ANY or sign.startswith(word) for word in wanted for sign in tried.signs or ("",)):
        return True
    return None if any(word.startswith("oc-") for word in wanted) else False


# --- below: how


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


def _control(tried: Tried) -> bool | None:
    return None if tried.result in UNTOLD else tried.result == "reproduced"


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
    """Versions of which several trials told nothing and none told anything, while others did.

    One trial that the scenario has skipped is enough: the build lacks what the scenario is about.
    """
    found = {one.version: f"skipped: {one.reason}" for one, _ in told if one.result == SKIPPED}
    for version in dict.fromkeys(one.version for one, _ in told):
        ours = [(at, one) for at, (one, hit) in enumerate(told) if one.version == version and hit is None]
        told_once = any(one.version == version and hit is not None for one, hit in told)
        if version in found or told_once or len(ours) < GIVEN_UP_AFTER:
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

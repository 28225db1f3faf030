"""What a bisection may claim: an answer or a set of them, and evidence that needs no prior."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.rates import Rate, fisher
from pytest_ocrepro.versions.batches import twins
from pytest_ocrepro.versions.bisection import Boundary, Phase, answers, credible, uneven
from pytest_ocrepro.versions.journal import AnyRecord, Fetched, Tried, trials_of
from pytest_ocrepro.versions.posterior import posterior
from pytest_ocrepro.versions.search import Why
from pytest_ocrepro.versions.state import ANY, State, fold

COMPARE = "https://github.com/anomalyco/opencode/compare/{}...{}"
LIKELY = 0.5


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of an answer. ``fresh``: trials that were not used for choosing; ``whole``: all of them."""

    version: str
    fresh: Rate
    whole: Rate


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``suspects``: versions that no trial can tell apart, in release order. ``clean``, ``failing``: "" for none."""

    suspects: tuple[str, ...]
    clean: str
    failing: str
    probability: float


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """One version: its trials, P(the failure is in it), why it could not be tried, versions with the same bytes."""

    version: str
    rate: Rate
    present: float
    closed: str = ""
    same: tuple[str, ...] = ()


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``answers``: the fewest that reach the confidence, likeliest first; versions in release order.

    ``named``: the first answer is a name, not a set; ``p``: of Fisher's test between the two fresh rates.
    ``foreign``: other failures and in how many trials; ``load``: lowest and highest of the machine.
    """

    scenario: str
    find_fix: bool
    why: Why
    confidence: float
    first: str
    last: str
    answers: tuple[Answer, ...]
    sides: tuple[Side, ...]
    p: float | None
    compare: str
    monotone: bool
    not_monotone: float
    transitions: tuple[Answer, ...]
    false_rate: float
    uneven: str
    foreign: tuple[tuple[str, int], ...]
    wanted: tuple[str, ...]
    by_sign: tuple[tuple[str, tuple[Answer, ...], Rate], ...]
    tallies: tuple[Tally, ...]
    trials: int
    inconclusive: int
    downloads: int
    seconds: float
    load: tuple[float, float]
    same_bytes: bool
    edited: tuple[int, ...] = ()
    commits: bool = False
    control: str = ""
    controls: Rate = Rate(k=0, n=0)

    @property
    def named(self) -> bool:
        """Confirmed, and one version alone is left; the control, where there is one, was always clean."""
        return (
            self.why is Why.FOUND
            and not self.controls.k
            and len(self.answers[0].suspects) == 1
            and not self.same_bytes
        )

    @property
    def exit_code(self) -> int:
        """0: an answer that fresh trials confirm; 1: the evidence does not reach one; 3: trials were inconclusive."""
        if self.why is Why.FOUND and self.controls.k:
            return 1
        return {Why.FOUND: 0, Why.ALWAYS: 1, Why.TROUBLE: 3}.get(self.why, 1)


def certify(records: Sequence[AnyRecord], why: Why, *, edited: tuple[int, ...] = ()) -> Certificate:
    """What the journal allows to say, with the reason why the search ended."""
    state = fold(records)
    tried = list(trials_of(records))
    best = _best(state, why)
    sides = tuple(_side(state, build) for build in (best.failing, best.clean) if build is not None) if best else ()
    found = state.found()
    odd = uneven(state.counts, found)
    loads = [one.load for one in tried] or [0.0]
    return Certificate(
        scenario=state.plan.scenarios[0],
        find_fix=state.plan.find_fix,
        why=why,
        confidence=state.plan.confidence,
        first=state.plan.versions[0],
        last=state.plan.versions[-1],
        answers=_answers(state) if why is not Why.NEVER else (),
        sides=sides,
        p=_difference(sides),
        compare=_compare(state, best) if best else "",
        monotone=state.plan.monotone,
        not_monotone=found.not_monotone,
        transitions=tuple(_transitions(state)),
        false_rate=found.false_rate,
        uneven=state.order[odd[0]] if odd else "",
        foreign=tuple(sorted(state.foreign.items())),
        wanted=tuple(word for word in state.wanted if word != ANY),
        by_sign=tuple(_by_sign(records, [one for one in tried if one.phase != Phase.CONTROL])),
        tallies=tuple(_tallies(state, records)),
        trials=len(tried),
        inconclusive=state.inconclusive,
        downloads=sum(isinstance(one, Fetched) and one.version not in state.plan.cached for one in records),
        seconds=sum(one.seconds for one in records if isinstance(one, (Tried, Fetched))),
        load=(min(loads), max(loads)),
        same_bytes=_same_bytes(state, records, best),
        edited=edited,
        commits=state.plan.commits,
        control=state.plan.control,
        controls=Rate(
            k=sum(one.k for one in state.controls.values()), n=sum(one.n for one in state.controls.values())
        ),
    )


# --- below: how


def _best(state: State, why: Why) -> Boundary | None:
    """The confirmed answer, that of the settled trials; what is not confirmed has no sides to be shown."""
    if why not in (Why.FOUND, Why.ALWAYS):
        return None
    return answers(state.question, posterior(state.question, state.settled))[0]


def _answers(state: State) -> tuple[Answer, ...]:
    return tuple(_answer(state, one) for one in credible(state.answers(), state.plan.confidence))


def _in_release_order(state: State, builds: Sequence[int]) -> tuple[str, ...]:
    named = tuple(state.order[build] for build in builds)
    return named[::-1] if state.plan.find_fix else named


def _answer(state: State, one: Boundary) -> Answer:
    """A search for a fix asks for the first clean version, the other one for the first failing one."""
    clean = -1 if one.clean is None else one.clean
    failing = len(state.order) if one.failing is None else one.failing
    first_clean = range(max(clean, 0), failing) if one.clean is not None else range(failing)
    between = first_clean if state.plan.find_fix else range(clean + 1, min(failing + 1, len(state.order)))
    return Answer(
        suspects=_in_release_order(state, tuple(between)),
        clean="" if one.clean is None else state.order[one.clean],
        failing="" if one.failing is None else state.order[one.failing],
        probability=min(1.0, one.probability),
    )


def _side(state: State, build: int) -> Side:
    version = state.order[build]
    return Side(version=version, fresh=state.fresh.get(version, Rate(k=0, n=0)), whole=state.rate(version))


def _difference(sides: Sequence[Side]) -> float | None:
    if len(sides) != 2 or not all(side.fresh.n for side in sides):  # noqa: PLR2004  both sides
        return None
    failing, clean = sides
    return fisher(failing.fresh.k, failing.fresh.n, clean.fresh.k, clean.fresh.n)


def _compare(state: State, best: Boundary) -> str:
    if best.clean is None or best.failing is None:
        return ""
    prefix = "" if state.plan.commits else "v"
    return COMPARE.format(*(prefix + name for name in _in_release_order(state, (best.clean, best.failing))))


def _transitions(state: State) -> Iterator[Answer]:
    """Every place where something likely changed, in release order; only where there are several."""
    found = state.found()
    can = [build for build, is_open in enumerate(state.question.open_to_trial) if is_open]
    places = [(a, b, sum(found.changes[a + 1 : b + 1])) for a, b in itertools.pairwise(can)]
    likely = [place for place in places if place[2] > LIKELY]
    for a, b, probability in (likely[::-1] if state.plan.find_fix else likely) if len(likely) > 1 else ():
        appears = found.present[b] > found.present[a]
        clean, failing = (a, b) if appears else (b, a)
        suspects = _in_release_order(state, tuple(range(a + 1, b + 1)))
        yield Answer(
            suspects=suspects,
            clean=state.order[clean],
            failing=state.order[failing],
            probability=min(1.0, probability),
        )


def _tallies(state: State, records: Sequence[AnyRecord]) -> Iterator[Tally]:
    found, same = state.found(), twins(records)
    for at in range(len(state.order))[:: -1 if state.plan.find_fix else 1]:
        version = state.order[at]
        yield Tally(
            version=version,
            rate=state.rate(version),
            present=found.present[at],
            closed=state.closed.get(version, ""),
            same=tuple(other for other, first in same.items() if first == version),
        )


def _by_sign(records: Sequence[AnyRecord], tried: Sequence[Tried]) -> Iterator[tuple[str, tuple[Answer, ...], Rate]]:
    """The same trials asked for each sign alone; nothing to tell where there is one only."""
    seen = sorted({sign for one in tried for sign in one.signs})
    families = {tuple(sign in one.signs for one in tried) for sign in seen}
    if len(families) < 2:  # noqa: PLR2004  two signs that are always there together are one
        return
    for sign in seen:
        state = fold(records, signature=sign)
        yield sign, _answers(state), Rate(k=sum(state.counts.hits), n=sum(state.counts.trials))


def _same_bytes(state: State, records: Sequence[AnyRecord], best: Boundary | None) -> bool:
    """A change between two builds that are the same file cannot be: the answer is wrong."""
    if best is None or best.clean is None or best.failing is None:
        return False
    here = {one.version: one.sha256 for one in records if isinstance(one, Fetched)}
    pair = [here.get(state.order[build]) for build in (best.clean, best.failing)]
    return pair[0] is not None and pair[0] == pair[1]

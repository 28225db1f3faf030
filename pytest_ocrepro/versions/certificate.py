"""What a bisection may claim: the answer or the set of answers, and evidence that needs no prior. Text and JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.rates import Rate, clopper_pearson, percent
from pytest_ocrepro.versions.bisection import Boundary, boundaries, credible, posterior
from pytest_ocrepro.versions.journal import AnyRecord, Fetched, trials_of
from pytest_ocrepro.versions.search import State, Why, fold

COMPARE = "https://github.com/anomalyco/opencode/compare/v{}...v{}"
BAR = 20
FLAGGED = 0.5  # P(not monotone) from which it is said first
WHO_CONFIRMS = "fresh trials that were not used for choosing"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of an answer: ``k/n`` of the search and of the confirmation; ``low``, ``high``: of the latter."""

    version: str
    search: str
    confirmation: str
    low: float
    high: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. ``suspects``: versions that no trial can tell apart, in release order; with one it is a name."""

    suspects: tuple[str, ...]
    clean: str
    failing: str
    probability: float


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """One version: search trials, P(the failure is in it), why it could not be tried."""

    version: str
    rate: str
    present: float
    closed: str = ""


class BySignature(msgspec.Struct, frozen=True, kw_only=True):
    """The same search for the failures of one signature alone."""

    signature: str
    hits: int
    answers: tuple[Answer, ...]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``why`` is how the search ended; ``answers`` the fewest that reach the confidence."""

    scenario: str
    find_fix: bool
    why: Why
    confidence: float
    answers: tuple[Answer, ...]
    clean: Side | None
    failing: Side | None
    compare: str
    not_monotone: float
    transitions: tuple[Answer, ...]
    false_rate: float
    tallies: tuple[Tally, ...]
    signatures: tuple[BySignature, ...]
    trials: int
    inconclusive: int
    downloads: int
    seconds: float
    edited: tuple[int, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: a boundary, confirmed; 1: the evidence does not reach one; 3: the trials were inconclusive."""
        return {Why.FOUND: 0, Why.TROUBLE: 3}.get(self.why, 1)


def certify(records: Sequence[AnyRecord], why: Why, *, edited: tuple[int, ...] = ()) -> Certificate:
    """From the journal alone."""
    state = fold(records)
    found, answers = state.found(), state.answers()
    tried = list(trials_of(records))
    best = answers[0] if answers and why not in (Why.NEVER, Why.ALWAYS) else None
    shown = credible(answers, state.plan.confidence) if best else ()
    return Certificate(
        scenario=state.plan.scenarios[0],
        find_fix=state.plan.find_fix,
        why=why,
        confidence=state.plan.confidence,
        answers=tuple(_answer(state, one) for one in shown),
        clean=_side(state, best.clean) if best else None,
        failing=_side(state, best.failing) if best else None,
        compare=_compare(state, best) if best else "",
        not_monotone=found.not_monotone,
        transitions=tuple(_transitions(state)),
        false_rate=found.false_rate,
        tallies=tuple(_tallies(state)),
        signatures=tuple(_by_signature(records, {one.signature for one in tried if one.signature})),
        trials=len(tried),
        inconclusive=sum(one.result == "inconclusive" for one in tried),
        downloads=sum(isinstance(one, Fetched) and one.version not in state.plan.cached for one in records),
        seconds=sum(one.seconds for one in tried) + sum(one.seconds for one in records if isinstance(one, Fetched)),
        edited=edited,
    )


def as_text(told: Certificate) -> str:
    """The text for an issue; Markdown that also reads well on a terminal."""
    return "\n".join(_lines(told))


# --- below: the record


def _in_release_order(state: State, builds: Sequence[int]) -> tuple[str, ...]:
    named = tuple(state.order[build] for build in builds)
    return named[::-1] if state.plan.find_fix else named


def _answer(state: State, one: Boundary) -> Answer:
    """A search for a fix asks for the first clean version, the other one for the first failing one."""
    between = range(one.clean, one.failing) if state.plan.find_fix else range(one.clean + 1, one.failing + 1)
    return Answer(
        suspects=_in_release_order(state, tuple(between)),
        clean=state.order[one.clean],
        failing=state.order[one.failing],
        probability=one.probability,
    )


def _side(state: State, build: int) -> Side:
    version = state.order[build]
    fresh = state.confirmed.get(version, Rate(k=0, n=0))
    ends = clopper_pearson(fresh.k, fresh.n)
    return Side(
        version=version,
        search=str(state.rate(version)),
        confirmation=str(fresh),
        low=ends.low,
        high=ends.high,
    )


def _compare(state: State, best: Boundary) -> str:
    return COMPARE.format(*_in_release_order(state, (best.clean, best.failing)))


def _transitions(state: State) -> Iterator[Answer]:
    """Every place where something changed, likelier than not; only worth telling when there are several."""
    found = state.found()
    can = [build for build, is_open in enumerate(state.question.open_to_trial) if is_open]
    places = [(a, b, sum(found.changes[a + 1 : b + 1])) for a, b in itertools.pairwise(can)]
    likely = [place for place in places if place[2] > FLAGGED]
    for a, b, probability in likely if len(likely) > 1 else ():
        appears = found.present[b] > found.present[a]
        yield Answer(
            suspects=_in_release_order(state, tuple(range(a + 1, b + 1))),
            clean=state.order[a if appears else b],
            failing=state.order[b if appears else a],
            probability=min(1.0, probability),
        )


def _tallies(state: State) -> Iterator[Tally]:
    found = state.found()
    rows = [
        Tally(
            version=version,
            rate=str(state.rate(version)),
            present=found.present[at],
            closed=state.closed.get(version, ""),
        )
        for at, version in enumerate(state.order)
    ]
    yield from reversed(rows) if state.plan.find_fix else rows


def _by_signature(records: Sequence[AnyRecord], seen: set[str]) -> Iterator[BySignature]:
    for signature in sorted(seen) if len(seen) > 1 else ():
        state = fold(records, signature=signature)
        answers = credible(boundaries(state.question, posterior(state.question, state.counts)), state.plan.confidence)
        yield BySignature(
            signature=signature,
            hits=sum(state.counts.hits),
            answers=tuple(_answer(state, one) for one in answers),
        )


# --- below: the text


def _lines(told: Certificate) -> Iterator[str]:
    yield f"### {_headline(told)}"
    yield ""
    minutes = told.seconds / 60
    yield f"Scenario `{told.scenario}`; {told.trials} trials, {told.downloads} downloads, {minutes:.1f} minutes."
    if told.not_monotone > FLAGGED:
        yield f"The failure came more than once (not monotone, probability {percent(told.not_monotone)})."
    for one in told.transitions:
        yield f"- between {one.clean} (clean) and {one.failing} (failing): {percent(one.probability)}"
    if told.edited:
        yield f"The journal was edited by hand (lines {', '.join(map(str, told.edited))})."
    if told.inconclusive:
        yield f"{told.inconclusive} trials were inconclusive (ours or the machine's) and count for nothing."
    yield ""
    yield from _sides(told)
    if len(told.answers) > 1:
        yield f"Together these reach {percent(told.confidence)}:"
        yield from (f"- {_named(one)}: {percent(one.probability)}" for one in told.answers)
        yield ""
    yield from _picture(told)
    yield from _signatures(told)


def _headline(told: Certificate) -> str:
    if told.why is Why.NEVER:
        return f"Not reproduced at the failing end: {_end(told)}"
    if told.why is Why.ALWAYS:
        return "There on every version of the range, as far as can be told: begin with an older one"
    if not told.answers:
        return f"No answer: {told.why}"
    best = told.answers[0]
    word = "Fixed" if told.find_fix else "Introduced"
    if told.why is Why.FOUND:
        return f"{word} in {_named(best)} (posterior {percent(best.probability)}, confirmed by {WHO_CONFIRMS})"
    if told.why is Why.NOT_CONFIRMED:
        return f"{word} in {_named(best)}? The search says so, but {WHO_CONFIRMS} do not: no name without them"
    return f"No name yet ({told.why}): {word.lower()} in one of {_set(told)}"


def _set(told: Certificate) -> str:
    named = {version for one in told.answers for version in one.suspects}
    suspects = [row.version for row in told.tallies if row.version in named]
    total = sum(one.probability for one in told.answers)
    few = ", ".join(suspects) if len(suspects) <= 6 else f"{suspects[0]} to {suspects[-1]}"  # noqa: PLR2004  a line
    return f"{few} ({len(suspects)} versions, {percent(min(1.0, total))})"


def _end(told: Certificate) -> str:
    end = told.tallies[0] if told.find_fix else told.tallies[-1]
    k, _, n = end.rate.partition("/")
    return f"{end.version} {Rate(k=int(k), n=int(n)).in_words()}"


def _named(one: Answer) -> str:
    if len(one.suspects) == 1:
        return one.suspects[0]
    return f"one of {', '.join(one.suspects)} (no trial can tell them apart)"


def _sides(told: Certificate) -> Iterator[str]:
    if told.clean is None or told.failing is None:
        return
    yield f"| side | version | search | {WHO_CONFIRMS} |"
    yield "|---|---|---|---|"
    for word, side in (("failing", told.failing), ("clean", told.clean)):
        yield f"| {word} | {side.version} | {_words(side.search)} | {_words(side.confirmation)} |"
    yield ""
    yield f"Changes: {told.compare}"
    yield f"False positives of the oracle, estimated: {percent(told.false_rate)}."
    yield ""


def _words(rate: str) -> str:
    k, _, n = rate.partition("/")
    return Rate(k=int(k), n=int(n)).in_words()


def _picture(told: Certificate) -> Iterator[str]:
    yield "```"
    yield f"{'version':12} {'k/n':>7}  probability that the failure is in it"
    for row in told.tallies:
        bar = "#" * round(row.present * BAR)
        rate = "" if row.rate == "0/0" else row.rate
        yield f"{row.version:12} {rate:>7}  {bar:{BAR}} {row.present:6.1%} {row.closed}".rstrip()
    yield "```"


def _signatures(told: Certificate) -> Iterator[str]:
    if told.signatures:
        yield ""
        yield "By signature, each searched alone in the same trials:"
    for one in told.signatures:
        reach = ", ".join(f"{_named(answer)} {percent(answer.probability)}" for answer in one.answers[:3])
        more = f" and {len(one.answers) - 3} more" if len(one.answers) > 3 else ""  # noqa: PLR2004  the three shown
        yield f"- `{one.signature}`: {one.hits} hits; {reach}{more}"

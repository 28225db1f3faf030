"""A model server that fails, or falls silent, in ways that a run should notice (anomalyco/opencode#37580)."""

import pytest

from pytest_ocrepro import (
    NotReachedError,
    Trial,
    bash,
    broken_off,
    costing,
    error,
    for_ever,
    late,
    never_ending,
    opened,
    stall_after,
    text,
    tool,
    with_comments,
)  # fmt: skip

WORDS = text("one two three")
SILENT = {
    "without headers": late(3600, WORDS),
    "behind the headers": stall_after(0, WORDS),
    "in the middle": stall_after(2, WORDS),
    "after the first words": never_ending(),
    "but for comments": with_comments(0.5, stall_after(2, WORDS)),
    "in a tool call": opened("bash"),
}
FAILS = {"refuses for ever": error(429), "is cut in the middle": broken_off(2, WORDS), "says nothing": text("")}
LIMIT_S = 20.0
MANY = 8
CONTEXT_TOKENS = 100_000  # of the scripted models
PATIENCE_S = 60.0  # for what ends at once or never: the start alone takes long on a busy machine
STALLS = (
    "anomalyco/opencode#37580",
    "anomalyco/opencode#43519",
    "anomalyco/opencode#40205",
    "anomalyco/opencode#27871",
)
BOUNDS = ("anomalyco/opencode#46890", "anomalyco/opencode#29837", "anomalyco/opencode#16366")
MINUTES_S = 390.0
NO_BOUND = "anomalyco/opencode#11865"
CHILD = (NO_BOUND, "anomalyco/opencode#33028", "anomalyco/opencode#37312")
RETRIES = ("anomalyco/opencode#21960", "anomalyco/opencode#25733")
FOR_GOOD = "anomalyco/opencode#42268"
ONCE = "anomalyco/opencode#50062"
FULL = "anomalyco/opencode#27924"
CHILDS_WORK = "the work of the child"
TASK = tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general")


@pytest.mark.ocrepro(
    issue=STALLS,
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "20/20"},
    profile="ci",
    soak=("behind the headers", "after the first words", "but for comments", "in a tool call"),
    title="model falls silent",
)
@pytest.mark.parametrize("when", SILENT)
def test_model_that_falls_silent(ocrepro: Trial, when: str) -> None:
    """A run whose model says nothing more must give up within the 20 s that we watch.

    A bound of minutes cannot satisfy this claim, only that of a model that is silent for minutes, as 1.18.30 and
    1.18.34 do. Refuted by an end within 20 s. What we found: no build tried gives up within the 20 s that we watch;
    upstream's own timeouts lie at minutes.
    """
    ocrepro.provider.script(SILENT[when])
    ocrepro.expect(ocrepro.run("hi", deadline_s=LIMIT_S)).to_finish()


@pytest.mark.ocrepro(
    issue=BOUNDS,
    profile="soak",
    title="model silent for minutes",
    known={"1.14.48": "4/4", "1.15.4": "1/1"},
)
@pytest.mark.parametrize("when", ["without headers", "in the middle"])
def test_model_that_is_silent_for_minutes(ocrepro: Trial, when: str) -> None:
    """A run must give up a silent request within the 6 minutes and a half that we watch, and ask again or end.

    Bounds of 2 and of 5 minutes were merged upstream, dropped, and merged again. Refuted by a second request, or an
    end, within that time. What we found: builds up to 1.18.25 wait on for as long as we watch; 1.18.30 and 1.18.34
    give the request up after 5 minutes, before its headers as in the middle of its words, ask again and answer.
    """
    ocrepro.provider.script(SILENT[when], for_ever(text("done")))
    run = ocrepro.run("hi", deadline_s=MINUTES_S, fail_fast_s=MINUTES_S)
    try:
        ocrepro.wait_until(
            lambda: not run.alive or ocrepro.claims.asked() > 1,
            what="a second request, or the end",
            timeout_s=MINUTES_S,
        )
        given_up = True
    except NotReachedError:
        given_up = False
    ocrepro.claim(
        "the silent request is given up",
        held=given_up,
        because="it was" if given_up else f"not within {MINUTES_S:g} s",
        finding="" if given_up else "unbounded-wait",
        role=run.role,
    )
    if given_up:
        ocrepro.expect(run).to_finish()


@pytest.mark.ocrepro(
    issue=CHILD,
    profile="ci",
    soak=("after a tool",),
    title="model falls silent in a subagent",
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "9/9"},
)
@pytest.mark.parametrize("when", ["at once", "after a tool"])
def test_model_that_falls_silent_in_a_subagent(ocrepro: Trial, when: str) -> None:
    """A run whose subagent gets no more words must give up, or go on, within the 20 s that we watch.

    Refuted by a run that gives up, or goes on without the child, within 20 s. What we found: the parent waits for its
    child, and the child for the model, as long as we watch; the chain is the same as of a run that is silent itself.
    """
    ocrepro.provider.script(TASK, text("done"))
    before = () if when == "at once" else (bash("true"),)
    ocrepro.provider.script(*before, stall_after(2, WORDS), when=CHILDS_WORK)
    run = ocrepro.run("hi", deadline_s=LIMIT_S)
    child_must_have_asked(ocrepro)
    ocrepro.expect(run).to_finish()


def child_must_have_asked(ocrepro: Trial) -> None:
    """Its model. Raises NotReachedError: what a run does without its child tells nothing."""
    ocrepro.wait_until(
        lambda: any(CHILDS_WORK in one.last_text for one in ocrepro.provider.requests()),
        what="a request of the subagent",
        timeout_s=PATIENCE_S,
    )


@pytest.mark.ocrepro(
    issue=(*RETRIES, NO_BOUND),
    profile="soak",
    title="model fails in a subagent",
    known={"1.14.48": "1/3", "1.15.4": "1/3", "1.18.34": "2/3"},
)
@pytest.mark.parametrize("how", FAILS)
def test_model_that_fails_a_subagent(ocrepro: Trial, how: str) -> None:
    """A run whose subagent's model fails again and again must come to an end, with an answer of its own or without.

    Refuted by an end within the 20 s that we watch where the model refuses, and before the eighth request where its
    answers are cut or hold no word. What we found, in one trial each: a child that is refused asks on, and its parent
    waits, on 1.14.48 and 1.18.34; one that is cut off asks on without a pause on 1.18.34, and ends on 1.14.48; one
    that is told nothing ends on both, and the run with it.
    """
    ocrepro.provider.script(TASK, for_ever(text("done")))
    ocrepro.provider.script(for_ever(FAILS[how]), when=CHILDS_WORK)
    pauses = how == "refuses for ever"  # longer and longer ones: eight requests are not to be waited for
    run = ocrepro.run("hi", deadline_s=LIMIT_S if pauses else PATIENCE_S, fail_fast_s=PATIENCE_S)
    child_must_have_asked(ocrepro)
    if pauses or ocrepro.expect(run).not_to_ask_for_ever(MANY, timeout_s=PATIENCE_S):
        ocrepro.expect(run).to_finish()


@pytest.mark.ocrepro(
    issue=RETRIES,
    known={"1.14.48": "4/4", "1.15.4": "4/4", "1.18.34": "13/13"},
    profile="ci",
    soak=("500", "502", "503"),
    title="model refuses for ever",
)
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_model_that_refuses_for_ever(ocrepro: Trial, status: int) -> None:
    """A run that is refused again and again must give up within the 20 s that we watch.

    To say that it tries again is not enough for us, and a bound of minutes cannot be told from none here. Refuted by
    an end within 20 s. What we found: every build tried retries, with growing pauses and without a word on its
    output.
    """
    ocrepro.provider.script(for_ever(error(status)))
    ocrepro.expect(ocrepro.run("hi", deadline_s=LIMIT_S)).to_finish()


@pytest.mark.ocrepro(issue=FOR_GOOD, profile="ci", soak=("401", "403"), title="model refuses for good")
@pytest.mark.parametrize("status", [400, 401, 403])
def test_model_that_refuses_for_good(ocrepro: Trial, status: int) -> None:
    """A status that no retry can mend must end the run at once.

    The report tells of runs that were alive for days behind one. Refuted by a run that ends within a minute. What we
    found: of a 400, a 401 and a 403 every build tried ends.
    """
    ocrepro.provider.script(for_ever(error(status)))
    ocrepro.expect(ocrepro.run("hi", fail_fast_s=PATIENCE_S, deadline_s=PATIENCE_S)).to_finish()


@pytest.mark.ocrepro(
    issue=ONCE,
    profile="ci",
    title="connection reset, then an answer",
    known={"1.14.48": "4/7", "1.15.4": "4/7"},
)
@pytest.mark.parametrize("how", ["eof", "reset"])
def test_connection_that_breaks_once(ocrepro: Trial, how: str) -> None:
    """A run whose connection breaks once and whose retry is answered has done its work, and must say so.

    Refuted by a run that asks again, is answered and exits 0. What we found: a reset is tried again by both
    builds, while those from 1.14.34 to 1.18.20 take a polite end before the first word for an answer, say nothing and
    exit 0.
    """
    ocrepro.provider.script(broken_off(0, WORDS, how=how), for_ever(text("done")))
    ocrepro.expect(ocrepro.run("hi")).to_complete()


@pytest.mark.ocrepro(
    issue=FULL,
    profile="ci",
    title="summary that shrinks nothing",
    known={"1.14.48": "5/5", "1.15.4": "5/5", "1.18.34": "7/7"},
)
def test_summary_that_shrinks_nothing(ocrepro: Trial) -> None:
    """A run whose context stays full whatever is summed up must end, and not sum up for ever.

    Refuted by an end, with an answer or an error, before the eighth request. What we found: every build tried
    sums up again and again, 9 to 18 times until we stop to watch.
    """
    ocrepro.provider.script(for_ever(costing(CONTEXT_TOKENS - 500, text("a summary as long as ever"))))
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
    if ocrepro.expect(run).not_to_ask_for_ever(MANY, timeout_s=PATIENCE_S):
        ocrepro.expect(run).to_finish()


@pytest.mark.ocrepro(issue=(*STALLS, *BOUNDS, *RETRIES, FOR_GOOD, ONCE, FULL), profile="ci", control=True)
def test_model_that_answers(ocrepro: Trial) -> None:
    """Control: the same run, whose model answers at its first request, in words that cost little."""
    ocrepro.provider.script(WORDS)
    ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete()


@pytest.mark.ocrepro(issue=(*RETRIES, *CHILD), profile="ci", control=True)
def test_subagent_that_is_answered(ocrepro: Trial) -> None:
    """Control: the same subagent, whose model answers to the end."""
    ocrepro.provider.script(TASK, text("done"))
    ocrepro.provider.script(bash("true"), WORDS, when=CHILDS_WORK)
    ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete()

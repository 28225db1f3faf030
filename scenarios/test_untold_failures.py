"""A run without an answer that says by its exit code that all is well (anomalyco/opencode#42900)."""

import pytest

from pytest_ocrepro import NotReachedError, Process, Trial, bash, broken_off, finishing, for_ever, text

ISSUES = (
    "anomalyco/opencode#42900",
    "anomalyco/opencode#42677",
    "anomalyco/opencode#43856",
    "anomalyco/opencode#40032",
)
THE_SAME = ("anomalyco/opencode#43007", "multica-ai/multica#5233", "Kilo-Org/kilocode#13832")
NO_MODEL = "anomalyco/opencode#15558"
NO_SESSION = "anomalyco/opencode#27559"
REFUSED = "anomalyco/opencode#36413"
NO_ANSWER = {
    "cut in the middle": broken_off(2, text("one two three")),
    "cut before the first word": broken_off(1, text("one two three")),
    "nothing said": text(""),
    "out of tokens, nothing said": finishing("length", text("")),
    "an unknown finish, nothing said": finishing("none-of-the-api", text("")),
}
LIMIT_S = 20.0
PATIENCE_S = 60.0  # for what ends at once or never: the start alone takes long on a busy machine
MANY = 6


def tells(ocrepro: Trial, run: Process) -> None:
    """Its exit code must not say that all is well."""
    judged = ocrepro.watch(run)
    said = " ".join(run.output.split())[:100]
    told = None if run.exit_code is None else run.exit_code != 0
    ocrepro.claim(
        f"{run.role} tells by its exit code that it has no answer",
        held=told,
        because=f"exit {run.exit_code} after {judged.seconds:.1f} s; it printed: {said}",
        finding="untold-failure" if told is False else "",
        role=run.role,
    )


@pytest.mark.ocrepro(
    issue=ISSUES,
    covers=THE_SAME,
    profile="ci",
    soak=("cut before the first word", "out of tokens, nothing said", "an unknown finish, nothing said"),
    title="answer that is none",
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "13/13"},
)
@pytest.mark.parametrize("how", NO_ANSWER)
def test_answer_that_is_none(ocrepro: Trial, how: str) -> None:
    """A stream that ends without an answer is a failure, and a script that calls ``run`` must be able to see it.

    Refuted by an exit code other than 0 before the sixth request. What we found: 1.14.48 exits 0 whatever was
    missing; 1.18.34 exits 0 where a finish came without a word, and where the stream broke or its finish is unknown
    it asks again at once, without a pause, for as long as we watch (18 to 29 requests in half a minute).
    """
    ocrepro.provider.script(for_ever(NO_ANSWER[how]))
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
    if ocrepro.expect(run).not_to_ask_for_ever(MANY, timeout_s=PATIENCE_S):
        ocrepro.expect(run).to_finish()
        tells(ocrepro, run)


@pytest.mark.ocrepro(
    issue=NO_MODEL,
    profile="ci",
    title="model that does not exist",
    known={"1.14.48": "6/6"},
)
def test_model_that_does_not_exist(ocrepro: Trial) -> None:
    """A run whose model does not exist has failed.

    Refuted by an exit code other than 0. What we found: builds up to 1.14.48 say so and exit 0; from 1.15.0 on they
    exit 1.
    """
    run = ocrepro.run("hi", model="bogus/nope")
    ocrepro.expect(run).to_finish()
    tells(ocrepro, run)


@pytest.mark.ocrepro(issue=NO_SESSION, profile="ci", title="session that does not exist")
def test_session_that_does_not_exist(ocrepro: Trial) -> None:
    """A run that is to go on with a session that does not exist has failed.

    Refuted by an exit code other than 0. What we found: builds up to 1.14.34 exit 0; from 1.14.48 on they exit 1.
    """
    run = ocrepro.run("hi", args=("--session", "ses_0000000000000000000000000"))
    ocrepro.expect(run).to_finish()
    tells(ocrepro, run)


@pytest.mark.ocrepro(
    issue=REFUSED,
    profile="ci",
    title="refused tool, and nothing said",
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "8/8"},
)
def test_refused_tool_and_nothing_said(ocrepro: Trial) -> None:
    """A run whose tool was refused, and whose model then says nothing, has failed.

    Refuted by an exit code other than 0. What we found: every build tried exits 0 with nothing but the refusal
    printed.
    """
    ocrepro.configure(permission={"bash": "deny"})
    ocrepro.provider.script(bash("true"), for_ever(text("")))
    run = ocrepro.run("hi", deadline_s=LIMIT_S)
    ocrepro.expect(run).to_finish()
    tells(ocrepro, run)


@pytest.mark.ocrepro(issue=REFUSED, profile="ci", control=True)
def test_refused_tool_and_words(ocrepro: Trial) -> None:
    """Control: the same tool is refused, and the model says something behind it."""
    ocrepro.configure(permission={"bash": "deny"})
    ocrepro.provider.script(bash("true"), for_ever(text("done")))
    must_print(ocrepro, ocrepro.run("hi", deadline_s=PATIENCE_S, args=("--format", "json")))


@pytest.mark.ocrepro(issue=NO_SESSION, profile="ci", control=True)
def test_session_that_does_exist(ocrepro: Trial) -> None:
    """Control: a run that is to go on with a session that another one has made."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.run("hi", role="before").wait_for_end(PATIENCE_S)
    sessions = ocrepro.database("behind the first run").sessions
    if not sessions:
        raise NotReachedError("the first run has stored no session; see its output")
    args = ("--session", sessions[0], "--format", "json")
    must_print(ocrepro, ocrepro.run("hi", deadline_s=PATIENCE_S, args=args))


def must_print(ocrepro: Trial, run: Process) -> None:
    """Its answer, behind which it exits 0."""
    ocrepro.expect(run).to_complete()
    ocrepro.claim("the answer is printed", held="done" in run.output, because=" ".join(run.output.split())[:100])


@pytest.mark.ocrepro(issue=(*ISSUES, NO_MODEL), profile="ci", control=True)
def test_answer_that_is_one(ocrepro: Trial) -> None:
    """Control: a run that is answered exits 0 and prints the answer."""
    ocrepro.provider.script(for_ever(text("done")))
    must_print(ocrepro, ocrepro.run("hi", deadline_s=PATIENCE_S, args=("--format", "json")))

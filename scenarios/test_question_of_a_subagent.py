"""A question of a headless run's subagent, which nobody is there to answer (anomalyco/opencode#44556)."""

import pytest

from pytest_ocrepro import Trial, for_ever, question, text, tool

ISSUE = "anomalyco/opencode#44556"
PATIENCE_S = 60.0  # for what ends at once or never: the start alone takes long on a busy machine
CHILDS_WORK = "the work of the child"
TASK = tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general")


def child_must_have_asked(ocrepro: Trial) -> None:
    """Its model. Raises NotReachedError: where no child was started nobody has a question."""
    ocrepro.wait_until(
        lambda: any(CHILDS_WORK in one.last_text for one in ocrepro.provider.requests()),
        what="a request of the subagent",
        timeout_s=PATIENCE_S,
    )


@pytest.mark.ocrepro(issue=ISSUE, profile="ci", title="subagent asks a question in a headless run")
def test_question_of_a_subagent(ocrepro: Trial) -> None:
    """A headless run has nobody to ask, and its subagents have nobody either: the run must come to an end.

    The report tells of a session of the server, which the rule of a run that denies questions does not reach; the
    session of a child is another such one. Refuted by a run that ends behind the question of its child. What we
    found: on 1.14.48 and 1.18.34 it does; nobody is asked, the child's model gets its result, and the run goes on.
    """
    ocrepro.provider.script(TASK, for_ever(text("done")))
    ocrepro.provider.script(question(), for_ever(text("the child is done")), when=CHILDS_WORK)
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S, OPENCODE_ENABLE_QUESTION_TOOL="1")
    child_must_have_asked(ocrepro)
    ocrepro.expect(run).to_finish()


@pytest.mark.ocrepro(issue=ISSUE, profile="ci", control=True)
def test_question_of_the_run_itself(ocrepro: Trial) -> None:
    """Control: the same question, asked by the run's own session."""
    ocrepro.provider.script(question(), for_ever(text("done")))
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S, OPENCODE_ENABLE_QUESTION_TOOL="1")
    ocrepro.expect(run).to_finish()

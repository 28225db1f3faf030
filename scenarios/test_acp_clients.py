"""An editor that speaks the Agent Client Protocol, and what it is asked for (anomalyco/opencode#12136)."""

from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Trial, bash, for_ever, text, tool

ISSUES = ("anomalyco/opencode#12136", "anomalyco/opencode#48326")
CHILDS_WORK = "the work of the child"
TASK = tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general")
PATIENCE_S = 90.0
LIMIT_S = 20.0


def asked_of_the_model(ocrepro: Trial) -> int:
    """How often it was asked for words, and not for a title."""
    return sum(not request.title for request in ocrepro.provider.requests())


def turn_of_a_client(ocrepro: Trial, *, requests: int) -> None:
    """One prompt of a client that permits whatever it is asked for; its turn must end.

    ``requests``: of the model, the one included that is answered with the tool.
    """
    agent = ocrepro.acp()
    turn = agent.prompt(agent.new_session(str(ocrepro.project.root)), "begin")
    ocrepro.wait_until(
        lambda: asked_of_the_model(ocrepro) >= requests, what="the call of the tool", timeout_s=PATIENCE_S
    )
    with suppress(NotReachedError):
        ocrepro.wait_until(
            lambda: agent.permissions() or agent.answered(turn),
            what="a permission that the client is asked for, or the end of the turn",
            timeout_s=LIMIT_S,
        )
    for asked in agent.permissions():
        agent.allow(asked)
    with suppress(NotReachedError):
        ocrepro.wait_until(lambda: agent.answered(turn), what="the end of the turn", timeout_s=LIMIT_S)
    ended, count = agent.answered(turn), len(agent.permissions())
    ocrepro.claim(
        "the client's turn ends",
        held=ended,
        because=f"{'it has' if ended else f'not within {2 * LIMIT_S:g} s'}; asked for {count} permission(s)",
        finding="" if ended else "lost-permission",
    )


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="ci",
    title="subagent needs a permission of an editor",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "2/2"},
)
def test_permission_of_a_subagent_over_acp(ocrepro: Trial) -> None:
    """A client must be asked for what a subagent needs, or the subagent be refused; the turn must not wait for good.

    Refuted by a turn that ends, since the client permits each thing that it is asked for. What we found: on
    1.14.48 and 1.18.34 the client is asked for nothing and the turn waits, while it is asked for what the session's
    own agent needs.
    """
    ocrepro.configure(model="mock/m1", permission={"bash": "ask"})
    ocrepro.provider.script(TASK, for_ever(text("done")))
    ocrepro.provider.script(bash("true"), for_ever(text("the child is done")), when=CHILDS_WORK)
    turn_of_a_client(ocrepro, requests=2)


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", control=True)
def test_permission_of_the_session_over_acp(ocrepro: Trial) -> None:
    """Control: the same tool of the session's own agent."""
    ocrepro.configure(model="mock/m1", permission={"bash": "ask"})
    ocrepro.provider.script(bash("true"), for_ever(text("done")))
    turn_of_a_client(ocrepro, requests=1)

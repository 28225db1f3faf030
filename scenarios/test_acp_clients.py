"""An editor that speaks the Agent Client Protocol, and what it is asked for (anomalyco/opencode#12136)."""

from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Trial, bash, for_ever, text, tool

ISSUES = ("anomalyco/opencode#12136", "anomalyco/opencode#48326")
CHILDS_WORK = "the work of the child"
TASK = tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general")
PATIENCE_S = 90.0
LIMIT_S = 20.0
BEGIN = "begin the work"
LEFT = "left-by-the-tool"  # a file: whoever permits the tool has it


def was_asked(ocrepro: Trial, words: str) -> bool:
    """The model, with these words and not for a title."""
    return any(words in request.last_text for request in ocrepro.provider.requests() if not request.title)


def turn_of_a_client(ocrepro: Trial, *, asker: str) -> int:
    """One prompt of a client that permits whatever it is asked for; its turn must end, and the tool be run if so.

    ``asker``: the prompt that the model answers with the tool. How often the client was asked is returned.
    """
    agent = ocrepro.acp()
    turn = agent.prompt(agent.new_session(str(ocrepro.project.root)), BEGIN)
    ocrepro.wait_until(lambda: was_asked(ocrepro, asker), what="the call of the tool", timeout_s=PATIENCE_S)
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
    ended, refusal, count = agent.answered(turn), agent.refusal(turn), len(agent.permissions())
    how = f"not within {2 * LIMIT_S:g} s" if not ended else f"with an error: {refusal}" if refusal else "it has"
    ocrepro.claim(
        "the client's turn ends",
        held=ended and not refusal,
        because=f"{how}; asked for {count} permission(s)",
        finding="failed-turn" if refusal else "" if ended else "lost-permission",
    )
    ran = (ocrepro.project.root / LEFT).exists()
    if ran and not count:
        raise NotReachedError("the tool was run and nobody was asked: this build does not heed the permission")
    if ended and count:
        ocrepro.claim(
            "what the client permits is run",
            held=ran,
            because="the tool's file is there" if ran else f"{count} permission(s) were given, and no file is there",
            finding="" if ran else "refused-tool",
        )
    return count


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="ci",
    title="subagent needs a permission of an editor",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "1/1"},
)
def test_permission_of_a_subagent_over_acp(ocrepro: Trial) -> None:
    """A client must be asked for what a subagent needs, or the subagent be refused; the turn must not wait for good.

    Refuted by a turn that ends without an error, since the client permits each thing that it is asked for; the tool
    is then run if the client was asked, and not if it was not. What we found: on 1.14.48 and 1.18.34 the client is
    asked for nothing and the turn waits, while it is asked for what the session's own agent needs.
    """
    ocrepro.configure(model="mock/m1", permission={"bash": "ask"})
    ocrepro.provider.script(TASK, for_ever(text("done")))
    ocrepro.provider.script(bash(f"touch {LEFT}"), for_ever(text("the child is done")), when=CHILDS_WORK)
    turn_of_a_client(ocrepro, asker=CHILDS_WORK)


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", control=True)
def test_permission_of_the_session_over_acp(ocrepro: Trial) -> None:
    """Control: the same tool of the session's own agent, of which the client is asked."""
    ocrepro.configure(model="mock/m1", permission={"bash": "ask"})
    ocrepro.provider.script(bash(f"touch {LEFT}"), for_ever(text("done")))
    count = turn_of_a_client(ocrepro, asker=BEGIN)
    ocrepro.claim(
        "the client is asked",
        held=count > 0,
        because=f"for {count} permission(s)",
        finding="" if count else "unasked-tool",
    )

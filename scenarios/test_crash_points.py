"""kill -9 of the server at one point of a turn after the other, and a restart (anomalyco/opencode#19023)."""

import re

import pytest

from pytest_ocrepro import NotReachedError, Server, Trial, bash, never_ending, prompt_body, text, together, tool

ISSUES = ("anomalyco/opencode#19023", "anomalyco/opencode#10616")
WRAPPERS = (
    "openchamber/openchamber#2577",
    "openchamber/openchamber#2943",
    "openchamber/openchamber#2421",
)
COMMAND = re.compile(r"\d+ sleep 300")  # not the shell that has it in its words
CHILDS_WORK = "the work of the child"
PATIENCE_S = 60.0


def tools_run(ocrepro: Trial, count: int) -> None:
    """Wait until so many commands of the bash tool run."""
    ocrepro.wait_until(
        lambda: sum(COMMAND.match(line) is not None for line in ocrepro.alive(tools_only=True)) >= count,
        what=f"{count} commands running",
        timeout_s=PATIENCE_S,
    )


def reach(ocrepro: Trial, server: Server, point: str) -> str:
    """A session that has come to this point of its turn; its id."""
    session = server.new_session()
    if point == "in the words":
        ocrepro.provider.script(never_ending(), text("went on"))
    elif point == "in four commands":
        ocrepro.provider.script(together(*[bash(f"sleep 300.{number}") for number in range(4)]), text("went on"))
    elif point == "in a subagent":
        ocrepro.provider.script(
            tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general"), text("went on")
        )
        ocrepro.provider.script(bash("sleep 300"), text("child"), when=CHILDS_WORK)
    else:
        ocrepro.provider.script(bash("true"), text("went on"))
    server.prompt(session, "begin")
    if point == "in the words":
        ocrepro.provider.wait_for_request()
    elif point == "at a permission":
        ocrepro.wait_until(lambda: server.call("GET", "/permission", quiet=True).json, what="a permission asked")
    else:
        tools_run(ocrepro, 4 if point == "in four commands" else 1)
    return session


def check(ocrepro: Trial, server: Server, session: str) -> None:
    """What must be true after the restart, behind a prompt: a session may be mended when it is first used."""
    ocrepro.database("after the restart")
    before = len(ocrepro.provider.requests())
    path = f"/session/{session}/message"
    more = server.call("POST", path, prompt_body("go on"), purpose="a new prompt", timeout_s=PATIENCE_S)
    ocrepro.expect(more).to_be_answered()
    ocrepro.expect(ocrepro.database("behind the prompt")).to_have_no_orphans()
    asked = ocrepro.provider.requests()[before:]
    open_calls = [name for request in asked for name in request.unanswered]
    ocrepro.claim(
        "the model is told a result of each of its calls",
        held=not open_calls if asked else None,
        because=f"without one: {', '.join(open_calls)}" if open_calls else f"{len(asked)} request(s), all whole",
        finding="call-without-result" if open_calls else "",
    )


@pytest.mark.ocrepro(
    issue=ISSUES,
    covers=WRAPPERS,
    profile="ci",
    soak=("in four commands", "in a subagent", "at a permission"),
    title="server killed at a point of its turn",
    known={"1.14.48": "4/4", "1.15.4": "4/4", "1.18.34": "6/6"},
)
@pytest.mark.parametrize("point", ["in the words", "in four commands", "in a subagent", "at a permission"])
def test_server_killed_at_a_point(ocrepro: Trial, point: str) -> None:
    """After a restart nothing stays unfinished, a prompt is answered, and the model's transcript is whole.

    Refuted by parts and messages that have ended by the time the prompt is answered. What we found: nothing is
    mended at any of the points, while a new prompt is answered all the same and each call in the model's transcript
    has a result, so what stays wrong is what is stored and shown.
    """
    if point == "at a permission":
        ocrepro.configure(permission={"bash": "ask"})
    server = ocrepro.serve()
    session = reach(ocrepro, server, point)
    server.process.kill()
    check(ocrepro, ocrepro.serve(role="server-again"), session)


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", control=True)
def test_server_killed_after_its_turn(ocrepro: Trial) -> None:
    """Control: the same kill and restart once the turn is over."""
    ocrepro.provider.script(together(*[bash(f"true {number}") for number in range(4)]), text("done"), text("went on"))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "begin")
    ocrepro.provider.wait_for_request(2, timeout_s=PATIENCE_S)
    if not server.wait_until_idle(session, PATIENCE_S):
        raise NotReachedError("the turn did not end: the server would be killed in the middle of it")
    server.process.kill()
    check(ocrepro, ocrepro.serve(role="server-again"), session)

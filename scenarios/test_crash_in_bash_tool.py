"""kill -9 of the server in the middle of a bash tool (anomalyco/opencode#19023)."""

import pytest

from pytest_ocrepro import Server, Trial, bash, prompt_body, text

ISSUE = "anomalyco/opencode#19023"
PATIENCE_S = 60.0


def tool_runs(ocrepro: Trial, server: Server, command: str) -> str:
    """A session whose bash tool is running; its id."""
    session = server.new_session()
    server.prompt(session, "run it")
    ocrepro.wait_until(
        lambda: any(command in line for line in ocrepro.alive(tools_only=True)),
        what=f"{command!r} running",
        timeout_s=PATIENCE_S,
    )
    return session


def answers(ocrepro: Trial, server: Server, session: str, purpose: str) -> bool | None:
    """One turn, to its end."""
    path = f"/session/{session}/message"
    answer = server.call("POST", path, prompt_body("go on"), purpose=purpose, timeout_s=PATIENCE_S)
    return ocrepro.expect(answer).to_be_answered()


def check(ocrepro: Trial, server: Server, session: str) -> None:
    """What must be true of a session after a restart, behind a prompt: it may be mended when it is first used."""
    ocrepro.database("after the restart")
    answers(ocrepro, server, session, "a new prompt on the session")
    ocrepro.expect(ocrepro.database("behind the prompt")).to_have_no_orphans(session)
    left = ocrepro.alive(tools_only=True)
    ocrepro.claim(
        "nothing that the tool started is alive",
        held=not left,
        because="; ".join(left) or "nothing is",
        finding="surviving-process" if left else "",
    )


@pytest.mark.ocrepro(issue=ISSUE, known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"})
def test_server_killed_while_bash_runs(ocrepro: Trial) -> None:
    """After a restart no part stays running, the message is completed, no process is left, and a prompt works.

    Refuted by parts and messages that have ended, and a command that is gone, by the time a prompt on the session is
    answered. What we found: nothing is mended and the command runs on, on every build tried.
    """
    ocrepro.provider.script(bash("sleep 300"), text("went on"))
    server = ocrepro.serve()
    session = tool_runs(ocrepro, server, "sleep 300")
    server.process.kill()
    again = ocrepro.serve(role="server-again")
    check(ocrepro, again, session)


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_server_restarted_after_bash_has_ended(ocrepro: Trial) -> None:
    """Control: the same turn, ended, and then the same kill and restart."""
    ocrepro.provider.script(bash("true"), text("done"), text("went on"))
    server = ocrepro.serve()
    session = server.new_session()
    if not answers(ocrepro, server, session, "the first prompt"):
        return
    server.process.kill()
    again = ocrepro.serve(role="server-again")
    check(ocrepro, again, session)

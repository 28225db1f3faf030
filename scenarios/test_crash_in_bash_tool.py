"""kill -9 of the server in the middle of a bash tool (anomalyco/opencode#19023)."""

import pytest

from pytest_ocrepro import Server, Trial, bash, prompt_body, text

ISSUE = "anomalyco/opencode#19023"


def tool_runs(ocrepro: Trial, server: Server, command: str) -> str:
    """A session whose bash tool is running; its id."""
    session = server.new_session()
    server.prompt(session, "run it")
    ocrepro.wait_until(
        lambda: any(command in line for line in ocrepro.alive(tools_only=True)), what=f"{command!r} running"
    )
    return session


def check(ocrepro: Trial, server: Server, session: str) -> None:
    """What must be true of a session after a restart."""
    ocrepro.expect(ocrepro.database("after the restart")).to_have_no_orphans(session)
    left = ocrepro.alive(tools_only=True)
    ocrepro.claim(
        "nothing that the tool started is alive",
        held=not left,
        because="; ".join(left) or "nothing is",
        finding="surviving-process" if left else "",
    )
    answer = server.call(
        "POST",
        f"/session/{session}/message",
        prompt_body("go on"),
        purpose="a new prompt on the session",
        timeout_s=20,
    )
    ocrepro.expect(answer).to_be_accepted()


@pytest.mark.ocrepro(issue=ISSUE, known={"1.14.48": "20/20", "1.15.4": "20/20", "1.18.34": "20/20"})
def test_server_killed_while_bash_runs(ocrepro: Trial) -> None:
    """After a restart no part stays running, the message is completed, no process is left, and a prompt works."""
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
    server.call("POST", f"/session/{session}/message", prompt_body("run it"), purpose="prompt", timeout_s=20)
    server.process.kill()
    again = ocrepro.serve(role="server-again")
    check(ocrepro, again, session)

"""A bash tool whose command has ended and left a process behind (anomalyco/opencode#47350)."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Trial, bash, for_ever, prompt_body, text, tool

ISSUES = (
    "anomalyco/opencode#47350",
    "anomalyco/opencode#48414",
    "anomalyco/opencode#20902",
    "anomalyco/opencode#35241",
)
LIMIT_S, PATIENCE_S = 20.0, 60.0
SHELLS = 5
LEFT_BEHIND = {
    "in the background": "sleep 120 &",
    "nohup": "nohup sleep 120 &",
    "setsid": "setsid sleep 120 &",
    "under timeout": "timeout 1 sh -c 'setsid sleep 120 & wait'",  # which ends its whole group
}
CHILDS_WORK = "the work of the child"
TASK = tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general")
STUBBORN = "trap '' TERM; while :; do sleep 1; done"
LET_GO = {
    "redirected": "sleep 120 >/dev/null 2>&1 </dev/null &",
    "setsid redirected": "setsid sleep 120 >/dev/null 2>&1 </dev/null &",
}


def left_alone(ocrepro: Trial) -> bool:
    """The process is there, and no shell that has it in its words."""
    of_it = [one.partition(" ")[2] for one in ocrepro.alive(tools_only=True) if "sleep 120" in one]
    return bool(of_it) and all(argv == "sleep 120" for argv in of_it)


def run_it(ocrepro: Trial) -> bool | None:
    """The tool's shell ends at once; the model must be told, and the run must end."""
    run = ocrepro.run("hi", deadline_s=PATIENCE_S)
    seen: list[bool] = []

    def reached() -> bool:
        seen[:] = [left_alone(ocrepro)]
        return seen[0] or not run.alive

    ocrepro.wait_until(reached, what="a process without its shell", timeout_s=PATIENCE_S)
    completed = ocrepro.expect(run).to_complete()
    if completed and not seen[0]:
        ocrepro.claim("its command has left a process", held=None, because="nobody saw it without its shell")
    return completed


@pytest.mark.ocrepro(
    issue=ISSUES,
    covers="anomalyco/opencode#28654",
    known={"1.14.48": "4/4", "1.15.4": "4/4", "1.18.34": "4/4"},
    profile="ci",
    soak=("in the background", "nohup", "under timeout"),
    title="bash tool leaves a process with its output",
)
@pytest.mark.parametrize("how", LEFT_BEHIND)
def test_output_that_is_kept_open(ocrepro: Trial, how: str) -> None:
    """The tool must end with its command, whoever still holds its output.

    Three explanations stand against each other in the threads: a missed exit event, an output that never ends, and
    the session that the tool's shell leads. What we found: what decides is the output. The same process in a session
    of its own hangs the tool as long as it has the output open, and none does whose output goes elsewhere. Builds up
    to 1.3.2 end the tool with its command all the same. Refuted by a run that completes, with the process seen alive
    behind its shell.
    """
    ocrepro.provider.script(bash(LEFT_BEHIND[how]), text("done"))
    run_it(ocrepro)


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#47546",
    profile="ci",
    soak=("redirected", "setsid redirected"),
    title="subagent's bash tool leaves a process in a session of its own",
    known={"1.18.34": "2/5"},
)
@pytest.mark.parametrize("how", [*LET_GO, "setsid"])
def test_process_that_a_subagent_leaves(ocrepro: Trial, how: str) -> None:
    """A subagent must end with its command, whatever lives on.

    Refuted by a run that completes behind a subagent that asked its model, with the process seen alive behind its
    shell. What we found: it is as without a subagent: only a process that keeps the output open hangs it.
    """
    ocrepro.provider.script(TASK, text("done"))
    ocrepro.provider.script(bash({**LEFT_BEHIND, **LET_GO}[how]), text("the child is done"), when=CHILDS_WORK)
    if run_it(ocrepro):
        asked = any(CHILDS_WORK in one.last_text for one in ocrepro.provider.requests() if not one.title)
        because = "it did" if asked else "no request had its work"
        ocrepro.claim("the subagent asked its model", held=asked or None, because=because)


def abort(ocrepro: Trial, line: str, ready: Callable[[], bool]) -> None:
    """A turn whose command runs is aborted; the session must be free, and nothing may be left of the command."""
    ocrepro.provider.script(bash(line), for_ever(text("went on")))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "begin")
    ocrepro.wait_until(ready, what="the command", timeout_s=PATIENCE_S)
    ocrepro.expect(server.call("POST", f"/session/{session}/abort", purpose="abort")).to_be_accepted()
    idle = server.wait_until_idle(session, LIMIT_S)
    ocrepro.claim("the session is idle", held=idle, because="idle" if idle else f"busy {LIMIT_S:g} s later")
    path = f"/session/{session}/message"
    more = server.call("POST", path, prompt_body("go on"), purpose="a new prompt", timeout_s=PATIENCE_S)
    ocrepro.expect(more).to_be_answered()
    with suppress(NotReachedError):
        ocrepro.wait_until(lambda: not sleepers(ocrepro), what="the end of the command", timeout_s=LIMIT_S)
    left = sleepers(ocrepro)
    ocrepro.claim(
        "the command is gone",
        held=not left,
        because="; ".join(left) or "nothing of it is alive",
        finding="surviving-process" if left else "",
    )


def sleepers(ocrepro: Trial) -> list[str]:
    """What is alive of a command."""
    return [one for one in ocrepro.alive(tools_only=True) if "sleep" in one]


@pytest.mark.ocrepro(
    issue=("anomalyco/opencode#16721", "anomalyco/opencode#43277"),
    profile="ci",
    title="abort of a command",
)
@pytest.mark.parametrize("command", ["that ignores TERM", "that has left a process"])
def test_abort_of_a_command(ocrepro: Trial, command: str) -> None:
    """Behind an abort the session must be idle, take a new prompt, and the command must be gone.

    Refuted by a session that is idle and answers, and nobody who is alive 20 s later. What we found: the session is
    free at once, and a command that ignores TERM is gone within the 20 s, on every build tried. From 1.14.34 on it
    is still there right behind the abort, which an earlier oracle of ours took for good.
    """
    if command == "that ignores TERM":
        abort(ocrepro, STUBBORN, lambda: bool(sleepers(ocrepro)))
    else:
        abort(ocrepro, LEFT_BEHIND["in the background"], lambda: left_alone(ocrepro))


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", soak=("setsid redirected",), control=True)
@pytest.mark.parametrize("how", LET_GO)
def test_output_that_is_let_go(ocrepro: Trial, how: str) -> None:
    """Control: the same processes, whose output goes elsewhere."""
    ocrepro.provider.script(bash(LET_GO[how]), text("done"))
    run_it(ocrepro)


@pytest.mark.ocrepro(
    issue=("anomalyco/opencode#47546", "anomalyco/opencode#16721", "anomalyco/opencode#29506"),
    profile="ci",
    control=True,
)
def test_abort_of_a_plain_command(ocrepro: Trial) -> None:
    """Control: an abort of a command that ends when it is told to."""
    abort(ocrepro, "exec sleep 120", lambda: bool(sleepers(ocrepro)))


@pytest.mark.ocrepro(issue="anomalyco/opencode#29506", profile="ci", title="shells that have ended")
def test_shells_that_have_ended(ocrepro: Trial) -> None:
    """A server must collect the shells of its tools, one after the other.

    Each leaves a file. Refuted by files of all, and no child that is dead and there 20 s behind the last one. What we
    found: on the builds tried all are collected.
    """
    ocrepro.provider.script(*[bash(f"touch ran.{number}") for number in range(SHELLS)], text("done"))
    server = ocrepro.serve()
    path = f"/session/{server.new_session()}/message"
    answer = server.call("POST", path, prompt_body("go"), purpose="prompt", timeout_s=PATIENCE_S)
    if not ocrepro.expect(answer).to_be_answered():
        return
    ran = len(list(ocrepro.project.root.glob("ran.*")))
    if ran < SHELLS:
        raise NotReachedError(
            f"only {ran} of {SHELLS} shells have left their file; see what the model was told of them"
        )
    with suppress(NotReachedError):
        ocrepro.wait_until(lambda: not server.dead_children(), what="the end of the dead", timeout_s=LIMIT_S)
    dead = server.dead_children()
    ocrepro.claim(
        "no dead shell is left",
        held=None if dead is None else not dead,
        because="the server is gone" if dead is None else "; ".join(dead) or f"all {SHELLS} ran and were collected",
        finding="dead-child" if dead else "",
    )

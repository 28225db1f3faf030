"""Permissions and questions that nobody is there to answer (anomalyco/opencode#41991)."""

from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Server, Trial, bash, for_ever, question, text, together, tool

ISSUES = (
    "anomalyco/opencode#41991",
    "anomalyco/opencode#36762",
    "anomalyco/opencode#43888",
)
PATIENCE_S = 60.0  # for what ends at once or never: the start alone takes long on a busy machine
SAME_CALLS = 4
LIMIT_S = 20.0
CHILDS_WORK = "the work of the child"
ASKED_ELSEWHERE = "ask in a session of its own"
LEFT = "left-by-the-tool"  # a file: whoever permits the tool has it
TASK = tool("task", description="work", prompt=CHILDS_WORK, subagent_type="general")
OUTSIDE = {"edit": "write", "a directory outside": "read"}


def has_auto(ocrepro: Trial) -> bool:
    """Whether the run of this build knows the option."""
    help_text = ocrepro.spawn(["opencode", "run", "--help"], role="help")
    help_text.wait_for_end(60.0)
    return "--auto" in help_text.output


def must_have_run(ocrepro: Trial, *, wanted: bool) -> None:
    """The tool has left its file, or has not."""
    there = (ocrepro.project.root / LEFT).exists()
    ocrepro.claim(
        f"the tool {'is' if wanted else 'is not'} run",
        held=there is wanted,
        because="its file is there" if there else "it has left no file",
        finding="" if there is wanted else "refused-tool" if wanted else "unasked-tool",
    )


def somebody_was_asked(ocrepro: Trial) -> None:
    """Else the run has ended for another reason, or its tool needed nobody."""
    if not any(not request.title for request in ocrepro.provider.requests()):
        raise NotReachedError("the model was not asked: the run has ended before its tool")
    if (ocrepro.project.root / LEFT).exists():
        raise NotReachedError("the tool was run and nobody was asked: this build does not heed the permission")


def child_was_asked(ocrepro: Trial) -> None:
    """Else nobody needed the permission."""
    if not any(CHILDS_WORK in request.last_text for request in ocrepro.provider.requests()):
        raise NotReachedError("the subagent has asked no model: it was not started, or it needed nothing")


@pytest.mark.ocrepro(
    issue=ISSUES,
    known={"1.14.48": "6/6", "1.15.4": "6/6"},
    title="subagent needs a permission in a headless run",
)
def test_permission_of_a_subagent(ocrepro: Trial) -> None:
    """A subagent's tool that must be permitted is refused or permitted; the run must not wait for a user.

    Refuted by a run that ends, whose subagent has asked its model. What we found: builds up to 1.18.15 wait for an
    answer that no headless run can give; from 1.18.20 on they go on.
    """
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(TASK, text("done"))
    ocrepro.provider.script(bash("true"), text("the child is done"), when=CHILDS_WORK)
    ocrepro.expect(ocrepro.run("hi")).to_finish()
    child_was_asked(ocrepro)


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#41730",
    covers="anomalyco/opencode#43888",
    profile="ci",
    soak=("a directory outside",),
    title="subagent needs another permission in a headless run",
    known={"1.14.48": "6/6", "1.15.4": "6/6"},
)  # fmt: skip
@pytest.mark.parametrize("what", OUTSIDE)
def test_other_permission_of_a_subagent(ocrepro: Trial, what: str) -> None:
    """The same of an edit, and of a file outside of the project.

    Refuted by a run that ends, whose subagent has asked its model. What we found: 1.14.48 waits for both, as for
    bash; 1.18.34 waits for neither. Of an edit that changed between 1.18.15 and 1.18.20, too.
    """
    ocrepro.configure(permission={"edit": "ask", "external_directory": "ask"})
    inside = {"filePath": str(ocrepro.project.root / "new.txt"), "content": "a line\n"}
    given = inside if what == "edit" else {"filePath": "/etc/hostname"}
    ocrepro.provider.script(TASK, text("done"))
    ocrepro.provider.script(tool(OUTSIDE[what], **given), text("the child is done"), when=CHILDS_WORK)
    ocrepro.expect(ocrepro.run("hi")).to_finish()
    child_was_asked(ocrepro)


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#36868", profile="ci", title="subagent needs a permission in a run with --auto"
)
def test_permission_of_a_subagent_with_auto(ocrepro: Trial) -> None:
    """A run that permits everything permits it to its subagents too.

    Refuted by a run that ends, with a file that the subagent's tool has left. What we found: the ``--auto`` of
    1.17.19 to 1.18.15 does not reach a subagent, which waits; from 1.18.20 on it does.
    """
    if not has_auto(ocrepro):
        pytest.skip("this build's run has no --auto")
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(TASK, text("done"))
    ocrepro.provider.script(bash(f"touch {LEFT}"), text("the child is done"), when=CHILDS_WORK)
    if ocrepro.expect(ocrepro.run("hi", args=("--auto",))).to_complete():
        child_was_asked(ocrepro)
        must_have_run(ocrepro, wanted=True)


@pytest.mark.ocrepro(issue="anomalyco/opencode#36868", profile="ci", control=True)
def test_permission_of_a_subagent_without_auto(ocrepro: Trial) -> None:
    """Control: the same run without the option leaves no file, so it is the option that permits."""
    if not has_auto(ocrepro):
        pytest.skip("this build's run has no --auto")
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(TASK, text("done"))
    ocrepro.provider.script(bash(f"touch {LEFT}"), text("the child is done"), when=CHILDS_WORK)
    ocrepro.run("hi").wait_for_end(PATIENCE_S)  # a build that waits here tells nothing of its --auto
    child_was_asked(ocrepro)
    must_have_run(ocrepro, wanted=False)


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#44556",
    profile="ci",
    title="run on a session of the server meets a question",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
)
def test_question_in_a_session_of_the_server(ocrepro: Trial) -> None:
    """A headless run that goes on with a session made over HTTP has nobody to ask, as in a session of its own.

    Refuted by a run that comes back, of a build whose server does ask such a question. What we found: every build
    tried waits for an answer to the question; the rule that denies it is part of the sessions that a run makes
    itself, and of no other. A subagent asks none: 1.14.48 and 1.18.34 offer it no question tool.
    """
    ocrepro.provider.script(question(), for_ever(text("done")))
    ocrepro.provider.script(question(), for_ever(text("done")), when=ASKED_ELSEWHERE)
    server = ocrepro.serve()
    session = server.new_session()
    run = ocrepro.run("hi", args=("--session", session), OPENCODE_ENABLE_QUESTION_TOOL="1")
    if ocrepro.expect(run).to_finish():
        somebody_was_asked(ocrepro)
        other = server.new_session()
        server.prompt(other, ASKED_ELSEWHERE)
        server.wait_for_question(other)  # else this build asks none, and the run had nothing to wait for


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#16367",
    covers="anomalyco/opencode#14473",
    profile="ci",
    title="attached run meets a permission",
    known={"1.14.48": "1/1"},
)  # fmt: skip
def test_permission_of_an_attached_run(ocrepro: Trial) -> None:
    """A run that is attached to a server must come back when a permission is asked.

    Refuted by a run that has asked its model and ends, with nothing left by the tool that nobody permitted. What we
    found: an attached run of 1.14.48 hangs with nothing that says why, while one of 1.18.34 rejects the call, says
    so, and exits 0.
    """
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(bash(f"touch {LEFT}"), for_ever(text("done")))
    server = ocrepro.serve()
    address = f"http://127.0.0.1:{server.port}"
    if ocrepro.expect(ocrepro.run("hi", args=("--attach", address), fail_fast_s=PATIENCE_S)).to_finish():
        somebody_was_asked(ocrepro)


def same_calls(ocrepro: Trial, commands: list[str]) -> None:
    """One answer with these commands to a server whose permissions allow each of them; the turn must end."""
    ocrepro.provider.script(together(*map(bash, commands)), for_ever(text("done")))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "begin")
    ocrepro.provider.wait_for_request(timeout_s=PATIENCE_S)
    ocrepro.wait_until(
        lambda: server.call("GET", "/permission", quiet=True).json or not server.busy(session),
        what="a permission asked, or the end of the turn",
        timeout_s=PATIENCE_S,
    )
    asked = server.call("GET", "/permission", purpose="permissions").json
    if not isinstance(asked, list):
        raise NotReachedError(f"the list of permissions was not told: {asked!r}")
    if not asked:  # a turn that ends without the calls' results has called nothing
        ocrepro.provider.wait_for_request(2)
    ocrepro.claim(
        "no permission is asked for what is allowed",
        held=not asked,
        because=f"asked for {asked[0]['permission']}" if asked else "the turn has ended",
        finding="needless-question" if asked else "",
    )


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#16367",
    profile="ci",
    title="same allowed command four times at once",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
)
def test_same_command_again(ocrepro: Trial) -> None:
    """A command that the configuration allows must not wait for a permission, however often it is asked for.

    The report tells of an attached run that hangs in such a question. Refuted by a turn that ends. What we found: at
    the third call that is the same as the two before it opencode asks by default ("doom_loop"), and a session of a
    server waits for the answer without an end: parts stay "running" whose processes have ended.
    """
    same_calls(ocrepro, ["true"] * SAME_CALLS)


@pytest.mark.ocrepro(issue=("anomalyco/opencode#16367", "pingdotgg/t3code#2778"), profile="ci", control=True)
def test_other_command_each_time(ocrepro: Trial) -> None:
    """Control: as many commands, no two of them the same."""
    same_calls(ocrepro, [f"true {number}" for number in range(SAME_CALLS)])


def permission_of(ocrepro: Trial, server: Server, session: str) -> str:
    """The id of the permission that is asked for; "" where a turn waits and the list is empty."""

    def listed() -> list[dict[str, str]]:
        asked = server.call("GET", "/permission", quiet=True).json
        return asked if isinstance(asked, list) else []

    with suppress(NotReachedError):
        ocrepro.wait_until(
            lambda: listed() or not server.busy(session), what="a permission, or the end", timeout_s=LIMIT_S
        )
    found = listed()
    if not found and not server.busy(session):
        raise NotReachedError("the turn has ended and asked nobody: this build does not heed the permission")
    ocrepro.claim(
        "the permission is in the list",
        held=bool(found),
        because="it is" if found else f"the list is empty {LIMIT_S:g} s behind the call, and the session is busy",
        finding="" if found else "lost-permission",
    )
    return found[0]["id"] if found else ""


@pytest.mark.ocrepro(
    issue="pingdotgg/t3code#2778", covers="RunMaestro/Maestro#158", profile="ci", soak=("the session's",),
    title="wrapper is asked for a permission",
)  # fmt: skip
@pytest.mark.parametrize("whose", ["the session's", "a subagent's"])
def test_permission_that_a_wrapper_is_asked_for(ocrepro: Trial, whose: str) -> None:
    """A wrapper must find every permission in the list of the API, and its reply must lead on.

    Refuted by a permission in the list, and a turn that ends behind the reply with what the tool leaves. What we
    found: each build tried lists both, the session's and the subagent's, and goes on.
    """
    ocrepro.configure(permission={"bash": "ask"})
    if whose == "a subagent's":
        ocrepro.provider.script(TASK, text("done"))
        ocrepro.provider.script(bash(f"touch {LEFT}"), text("the child is done"), when=CHILDS_WORK)
    else:
        ocrepro.provider.script(bash(f"touch {LEFT}"), text("done"))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "begin")
    ocrepro.provider.wait_for_request(2 if whose == "a subagent's" else 1, timeout_s=PATIENCE_S)
    asked = permission_of(ocrepro, server, session)
    if not asked:
        return
    reply = server.call("POST", f"/permission/{asked}/reply", {"reply": "once"}, purpose="the reply")
    ocrepro.expect(reply).to_be_accepted()
    ended = server.wait_until_idle(session, LIMIT_S)
    ocrepro.claim(
        "the turn goes on",
        held=ended,
        because="idle" if ended else f"still busy {LIMIT_S:g} s later",
        finding="" if ended else "stuck-busy",
    )
    if ended:
        must_have_run(ocrepro, wanted=True)


@pytest.mark.ocrepro(issue=(*ISSUES, "anomalyco/opencode#41730"), control=True)
def test_permission_of_the_run_itself(ocrepro: Trial) -> None:
    """Control: the same tool of the run's own agent is refused at once, on every build tried."""
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(bash("true"), text("done"))
    ocrepro.expect(ocrepro.run("hi")).to_finish()


@pytest.mark.ocrepro(
    issue=("anomalyco/opencode#44556", "anomalyco/opencode#16367"),
    profile="ci",
    control=True,
)
def test_attached_run_that_needs_nothing(ocrepro: Trial) -> None:
    """Control: an attached run whose tool is allowed. Its server asks the model: its own words tell little."""
    ocrepro.provider.script(bash(f"touch {LEFT}"), for_ever(text("done")))
    server = ocrepro.serve()
    address = f"http://127.0.0.1:{server.port}"
    if ocrepro.expect(ocrepro.run("hi", args=("--attach", address), fail_fast_s=PATIENCE_S)).to_finish():
        must_have_run(ocrepro, wanted=True)

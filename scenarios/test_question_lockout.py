"""A session that waits for a question that nobody can answer (anomalyco/opencode#27907)."""

from typing import Any

import pytest

from pytest_ocrepro import Server, Trial, prompt_body, question, text

ISSUE = "anomalyco/opencode#27907"
MODEL = prompt_body("")["model"]
FREED_WITHIN_S = 2.0
GUARDED = ("delete the message", "revert", "unrevert", "shell")
TRIED = {  # the guarded calls in the words of /doc
    "DELETE /session/{sessionID}/message/{messageID}",
    "POST /session/{sessionID}/revert",
    "POST /session/{sessionID}/unrevert",
    "POST /session/{sessionID}/shell",
}
WAYS_OUT = ("reject the question", "answer the question", "abort", "delete the session")
Call = tuple[str, str, object]


class Stuck:
    """A session whose question is pending, with the ids that the calls need."""

    def __init__(self, ocrepro: Trial, server: Server, topic: str) -> None:
        self.ocrepro, self.server = ocrepro, server
        ocrepro.provider.script(question(), text("went on"), when=f"ask about {topic}")
        ocrepro.provider.script(text("went on"), when=f"more about {topic}")
        self.more = prompt_body(f"more about {topic}")
        self.id = server.new_session()
        server.prompt(self.id, f"ask about {topic}")
        self.question = server.wait_for_question(self.id)
        server.wait_for_tool_part(self.id)
        messages = server.messages(self.id)
        self.first: str = messages[0]["info"]["id"]
        self.last: str = messages[-1]["info"]["id"]

    def guarded(self) -> dict[str, Call]:
        """The calls that a busy session refuses: name -> method, path, body."""
        base = f"/session/{self.id}"
        return {
            "delete the message": ("DELETE", f"{base}/message/{self.last}", None),
            "revert": ("POST", f"{base}/revert", {"messageID": self.first}),
            "unrevert": ("POST", f"{base}/unrevert", {}),
            "shell": ("POST", f"{base}/shell", {"agent": "build", "command": "true", "model": MODEL}),
        }

    def ways_out(self) -> dict[str, Call]:
        """The calls that might free the session."""
        base = f"/session/{self.id}"
        return {
            "reject the question": ("POST", f"/question/{self.question}/reject", None),
            "answer the question": ("POST", f"/question/{self.question}/reply", {"answers": [["left"]]}),
            "abort": ("POST", f"{base}/abort", None),
            "delete the session": ("DELETE", base, None),
        }

    def is_asked_again(self) -> bool:
        """The server lists a question of the session, and it is the one to answer from now on."""
        listed = self.server.call("GET", "/question", purpose="the questions").json
        mine = [one["id"] for one in listed if one["sessionID"] == self.id] if isinstance(listed, list) else []
        self.question = mine[0] if mine else self.question
        return bool(mine)

    def try_guarded(self, name: str) -> None:
        """One guarded call; a healthy server accepts it."""
        method, path, body = self.guarded()[name]
        self.ocrepro.expect(self.server.call(method, path, body, purpose=name)).to_be_accepted()

    def try_way_out(self, name: str) -> None:
        """One way out; it must be accepted and the session idle soon afterwards."""
        method, path, body = self.ways_out()[name]
        answer = self.server.call(method, path, body, purpose=name)
        freed = self.server.wait_until_idle(self.id, FREED_WITHIN_S)
        self.ocrepro.claim(
            f"{name} frees the session",
            held=answer.accepted and freed,
            because=f"{answer.status} {answer.body[:80]}; {'idle' if freed else f'busy {FREED_WITHIN_S:g} s later'}",
            finding="" if answer.accepted and freed else "no-way-out",
        )

    def try_new_prompt(self) -> None:
        """A new prompt must be answered; a queue behind the question is no answer."""
        path = f"/session/{self.id}/message"
        answer = self.server.call("POST", path, self.more, purpose="a new prompt", timeout_s=5)
        self.ocrepro.expect(answer).to_be_accepted()


def documented_as_guarded(server: Server) -> list[str] | None:
    """What this build's own ``/doc`` lists with a busy answer: ``METHOD path``; None where it does not tell."""
    document: Any = server.call("GET", "/doc", purpose="the API's description", quiet=True).json
    if not isinstance(document, dict) or not document.get("paths"):
        return None
    return [
        f"{method.upper()} {path}"
        for path, operations in document.get("paths", {}).items()
        for method, operation in operations.items()
        if "SessionBusyError" in str(operation.get("responses", {}))
    ]


KNOWN = {"1.14.48": "20/20", "1.15.4": "20/20", "1.18.34": "20/20"}


@pytest.mark.ocrepro(
    issue=ISSUE,
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
    title="question pending: what is refused, and what frees the session",
)
def test_question_pending(ocrepro: Trial) -> None:
    """While a question is pending no documented call may be refused for good, and every way out must lead out.

    Each call is tried on a session of its own: the escape-hatch table of this build. To delete the question's part is
    no way out: nobody is told that it ends a turn. Refuted by calls that are all accepted, each way out with an idle
    session behind it. What we found: on 1.14.48, 1.15.4 and 1.18.34 calls are refused and a new prompt has no answer.
    """
    server = ocrepro.serve()
    documented = documented_as_guarded(server)
    untried = set(documented or ()) - TRIED
    ocrepro.claim(
        "every call that this build's /doc lists with a busy answer is tried",
        held=None if untried or documented is None else True,
        because=", ".join(sorted(untried))
        or ("/doc tells nothing" if documented is None else "those four, or none listed"),
    )
    for name in GUARDED:
        Stuck(ocrepro, server, name).try_guarded(name)
    for name in WAYS_OUT:
        Stuck(ocrepro, server, name).try_way_out(name)
    Stuck(ocrepro, server, "a new prompt").try_new_prompt()


@pytest.mark.ocrepro(
    issue=ISSUE,
    covers="anomalyco/opencode#15172",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
    title="question pending, then kill -9 and restart",
)
def test_question_pending_through_a_crash(ocrepro: Trial) -> None:
    """After kill -9 and a restart the question must be asked again, or its part must have ended.

    Refuted by a question that is listed and whose answer leads on, or by nothing unfinished right behind the restart;
    and then by an abort, a prompt and a deletion that are accepted. What we found: on 1.14.48, 1.15.4 and 1.18.34 the
    question is forgotten and its part and its message stay unfinished.
    """
    server = ocrepro.serve()
    stuck = Stuck(ocrepro, server, "a crash")
    server.process.kill()
    stuck.server = ocrepro.serve(role="server-again")
    if stuck.is_asked_again():
        stuck.try_way_out("answer the question")
    else:
        ocrepro.expect(ocrepro.database("after the restart")).to_have_no_orphans(stuck.id)
    stuck.try_way_out("abort")
    stuck.try_new_prompt()
    ocrepro.expect(ocrepro.database("after every way out")).to_have_no_orphans(stuck.id)
    stuck.try_guarded("delete the message")


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_same_calls_on_an_idle_session(ocrepro: Trial) -> None:
    """Control: the same guarded calls are accepted once the question is answered."""
    server = ocrepro.serve()
    for name in GUARDED:
        stuck = Stuck(ocrepro, server, name)
        stuck.try_way_out("answer the question")
        stuck.try_guarded(name)

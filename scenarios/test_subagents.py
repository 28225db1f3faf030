"""Many subagents at once, and one that is started over HTTP (anomalyco/opencode#37548)."""

import re

import pytest

from pytest_ocrepro import Trial, for_ever, prompt_body, text, together, tool

CHILDS_WORK = "the work of the child"
TASKS = [
    tool("task", description=f"work {number}", prompt=f"{CHILDS_WORK} {number}", subagent_type="general")
    for number in range(20)
]


def all_were_asked(ocrepro: Trial, children: int, *, printed: str) -> None:
    """Each child has asked its model for work of its own, and the parent has gone on behind them."""
    asked = [request.last_text for request in ocrepro.provider.requests() if not request.title]
    of_children = len({number for text in asked for number in re.findall(rf"{CHILDS_WORK} (\d+)", text)})
    ocrepro.claim(
        "every subagent ran, and its parent went on",
        held=of_children >= children and "all are back" in printed,
        because=f"{of_children} of {children} asked the model; the last words: {' '.join(printed.split())[-80:]}",
        finding="" if of_children >= children and "all are back" in printed else "lost-subagent",
    )


@pytest.mark.ocrepro(
    issue=("anomalyco/opencode#37548", "anomalyco/opencode#18378"), profile="soak", title="many subagents at once"
)
@pytest.mark.parametrize("children", [8, 20])
def test_many_subagents_at_once(ocrepro: Trial, children: int) -> None:
    """A run must wait for all of its subagents, and give its last answer behind them.

    Each is given work of its own: the third call that equals two before it is asked about as a "doom_loop", and a
    headless run rejects that. Refuted by a run that comes back with its last answer, all children having asked.
    What we found: on 1.18.34 eight children did, each with work of its own.
    """
    ocrepro.provider.script(together(*TASKS[:children]), text("all are back"))
    ocrepro.provider.script(for_ever(text("a child is done")), when=CHILDS_WORK)
    run = ocrepro.run("hi", deadline_s=90.0)
    ocrepro.expect(run).to_complete()
    all_were_asked(ocrepro, children, printed=run.output)


@pytest.mark.ocrepro(issue="anomalyco/opencode#6573", profile="ci", title="subagent over HTTP")
def test_subagent_over_http(ocrepro: Trial) -> None:
    """A prompt over HTTP that starts a subagent must come back with the parent's answer.

    Refuted by an answer to the call that holds the parent's last words, behind a request of the child. What we found:
    each build tried gives it.
    """
    ocrepro.provider.script(TASKS[0], text("all are back"))
    ocrepro.provider.script(for_ever(text("a child is done")), when=CHILDS_WORK)
    server = ocrepro.serve()
    path = f"/session/{server.new_session()}/message"
    answer = server.call("POST", path, prompt_body("begin"), purpose="prompt", timeout_s=30)
    ocrepro.expect(answer).to_be_accepted()
    all_were_asked(ocrepro, 1, printed=answer.body)


@pytest.mark.ocrepro(issue=("anomalyco/opencode#37548", "anomalyco/opencode#6573"), profile="ci", control=True)
def test_one_subagent(ocrepro: Trial) -> None:
    """Control: one of them."""
    ocrepro.provider.script(TASKS[0], text("all are back"))
    ocrepro.provider.script(for_ever(text("a child is done")), when=CHILDS_WORK)
    run = ocrepro.run("hi", deadline_s=90.0)
    ocrepro.expect(run).to_complete()
    all_were_asked(ocrepro, 1, printed=run.output)

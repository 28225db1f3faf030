"""A permission that nobody is there to give: a headless run, and its subagent (anomalyco/opencode#41991)."""

import pytest

from pytest_ocrepro import Trial, bash, text, tool

ISSUES = (
    "anomalyco/opencode#41991",
    "anomalyco/opencode#36868",
    "anomalyco/opencode#43888",
    "anomalyco/opencode#36762",
)


@pytest.mark.ocrepro(
    issue=ISSUES, known={"1.14.48": "5/5", "1.15.4": "5/5"}, title="subagent needs a permission in a headless run"
)
def test_permission_of_a_subagent(ocrepro: Trial) -> None:
    """A subagent's tool that must be permitted is refused or permitted; the run must not wait for a user.

    What we found: 1.14.48 and 1.15.4 wait for an answer that no headless run can give; 1.18.34 goes on.
    """
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(
        tool("task", description="work", prompt="the work of the child", subagent_type="general"), text("done")
    )
    ocrepro.provider.script(bash("true"), text("the child is done"), when="the work of the child")
    ocrepro.expect(ocrepro.run("hi")).to_finish()


@pytest.mark.ocrepro(issue=ISSUES, control=True)
def test_permission_of_the_run_itself(ocrepro: Trial) -> None:
    """Control: the same tool of the run's own agent is refused at once, on every build tried."""
    ocrepro.configure(permission={"bash": "ask"})
    ocrepro.provider.script(bash("true"), text("done"))
    ocrepro.expect(ocrepro.run("hi")).to_finish()

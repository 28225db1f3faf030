"""A bash tool whose command has ended and left a process behind (anomalyco/opencode#47350)."""

import pytest

from pytest_ocrepro import Trial, bash, text

ISSUES = (
    "anomalyco/opencode#47350",
    "anomalyco/opencode#48414",
    "anomalyco/opencode#20902",
    "anomalyco/opencode#35241",
)
LIMIT_S = 20.0
KNOWN = {"1.14.48": "3/3", "1.18.34": "3/3"}  # of each way
LEFT_BEHIND = {
    "in the background": "sleep 120 &",
    "nohup": "nohup sleep 120 &",
    "setsid": "setsid sleep 120 &",
}
LET_GO = {
    "redirected": "sleep 120 >/dev/null 2>&1 </dev/null &",
    "setsid redirected": "setsid sleep 120 >/dev/null 2>&1 </dev/null &",
}


def run_it(ocrepro: Trial, command: str) -> None:
    """The tool's shell ends at once; the model must be told, and the run must end."""
    ocrepro.provider.script(bash(command), text("done"))
    ocrepro.expect(ocrepro.run("hi", deadline_s=LIMIT_S)).to_complete()


@pytest.mark.ocrepro(issue=ISSUES, known=KNOWN, profile="ci", title="bash tool leaves a process with its output")
@pytest.mark.parametrize("how", LEFT_BEHIND)
def test_output_that_is_kept_open(ocrepro: Trial, how: str) -> None:
    """The tool must end with its command, whoever still holds its output.

    Three explanations stand against each other in the threads: a missed exit event, an output that never ends, and
    the session that the tool's shell leads. What we found: what decides is the output. The same process in a session
    of its own hangs the tool as long as it has the output open, and none does whose output goes elsewhere.
    """
    run_it(ocrepro, LEFT_BEHIND[how])


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", control=True)
@pytest.mark.parametrize("how", LET_GO)
def test_output_that_is_let_go(ocrepro: Trial, how: str) -> None:
    """Control: the same processes, whose output goes elsewhere."""
    run_it(ocrepro, LET_GO[how])

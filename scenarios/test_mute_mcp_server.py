"""An MCP server that starts and never speaks (anomalyco/opencode#48743)."""

import sys

import pytest

from pytest_ocrepro import NotReachedError, Trial, text

ISSUES = ("anomalyco/opencode#48743", "anomalyco/opencode#46813")
LIMIT_S = 20.0
MUTE = "import pathlib, sys\npathlib.Path(__file__).with_suffix('.started').touch()\nsys.stdin.read()\n"


def answer_with_it(ocrepro: Trial, *, enabled: bool) -> None:
    """A run whose configuration has the server; how long it takes."""
    program = ocrepro.project.write("mute.py", MUTE)
    ocrepro.configure(mcp={"mute": {"type": "local", "command": [sys.executable, str(program)], "enabled": enabled}})
    ocrepro.provider.script(text("done"))
    run = ocrepro.run("hi", deadline_s=90.0)
    if not ocrepro.expect(run).to_complete():
        return
    if enabled and not program.with_suffix(".started").exists():
        raise NotReachedError("no opencode has started the server; see what the run says of its MCP server")
    seconds = ocrepro.watch(run).seconds
    ocrepro.claim(
        f"it answers within {LIMIT_S:g} s",
        held=seconds <= LIMIT_S,
        because=f"it took {seconds:.1f} s",
        finding="" if seconds <= LIMIT_S else "slow-start",
        role=run.role,
    )


@pytest.mark.ocrepro(
    issue=ISSUES,
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "2/2"},
    profile="ci",
    title="MCP server that never speaks",
)
def test_mute_mcp_server(ocrepro: Trial) -> None:
    """A tool server that says nothing must not keep a run from asking its model.

    Refuted by a run that started the server, and answers within 20 s. What we found: the run waits for the server
    before its first request, for 30 s, and then goes on without it: one of the starts that park for a while and
    recover.
    """
    answer_with_it(ocrepro, enabled=True)


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", control=True)
def test_mcp_server_that_is_off(ocrepro: Trial) -> None:
    """Control: the same server, switched off in the configuration."""
    answer_with_it(ocrepro, enabled=False)

"""A run whose standard input never ends (anomalyco/opencode#38723)."""

import pytest

from pytest_ocrepro import OpenPipe, Trial, text

ISSUES = ("anomalyco/opencode#38723", "anomalyco/opencode#42064", "anomalyco/opencode#44557")


KNOWN = {"1.14.48": "5/5", "1.15.4": "5/5", "1.18.34": "5/5"}


@pytest.mark.ocrepro(
    issue=ISSUES,
    covers="bobum/open-dispatch#9",
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "8/8"},
    title="standard input that never ends",
)
def test_stdin_that_never_ends(ocrepro: Trial) -> None:
    """A run whose prompt stands on its command line must not wait for the end of its standard input.

    What we found: every build tried reads standard input to its end before it asks the model, whenever that is no
    terminal. A parent that keeps the pipe open (a service manager, a chat bridge, a test runner) therefore hangs the
    run in its start, with no message and a log that ends behind the services. Refuted by an answer while the pipe is
    open.
    """
    ocrepro.provider.script(text("done"))
    ocrepro.expect(ocrepro.run("hi", stdin=OpenPipe())).to_complete()


@pytest.mark.ocrepro(issue=ISSUES, control=True)
def test_stdin_that_is_empty(ocrepro: Trial) -> None:
    """Control: the same run with nothing to read."""
    ocrepro.provider.script(text("done"))
    ocrepro.expect(ocrepro.run("hi")).to_complete()

"""A model server that fails, or falls silent, in ways that a run should notice (anomalyco/opencode#37580)."""

import pytest

from pytest_ocrepro import Trial, error, for_ever, never_ending, stall_after, text

SILENT = {
    "before the headers": stall_after(0, text("one two three")),
    "in the middle": stall_after(2, text("one two three")),
    "after the first words": never_ending(),
}
LIMIT_S = 20.0
KNOWN = {"1.14.48": "3/3", "1.18.34": "3/3"}  # of each way
STALLS = ("anomalyco/opencode#37580", "anomalyco/opencode#40205")
RETRIES = ("anomalyco/opencode#21960", "anomalyco/opencode#25733")


@pytest.mark.ocrepro(issue=STALLS, known=KNOWN, profile="ci", title="model falls silent")
@pytest.mark.parametrize("when", SILENT)
def test_model_that_falls_silent(ocrepro: Trial, when: str) -> None:
    """A run whose model says nothing more must give up or go on within a bound of its own.

    What we found: no build tried gives up within the 20 s that we watch; upstream's own timeouts lie at minutes.
    """
    ocrepro.provider.script(SILENT[when])
    ocrepro.expect(ocrepro.run("hi", deadline_s=LIMIT_S)).to_finish()


@pytest.mark.ocrepro(issue=RETRIES, known=KNOWN, profile="ci", title="model refuses for ever")
@pytest.mark.parametrize("status", [429, 500])
def test_model_that_refuses_for_ever(ocrepro: Trial, status: int) -> None:
    """A run that is refused again and again must give up within 20 s, or say what it waits for.

    What we found: every build tried retries, with growing pauses and without a word on its output.
    """
    ocrepro.provider.script(for_ever(error(status)))
    ocrepro.expect(ocrepro.run("hi", deadline_s=LIMIT_S)).to_finish()


@pytest.mark.ocrepro(issue=(*STALLS, *RETRIES), profile="ci", control=True)
def test_model_that_refuses_for_good(ocrepro: Trial) -> None:
    """Control: a status that no retry can mend is told at once."""
    ocrepro.provider.script(for_ever(error(402)))
    ocrepro.expect(ocrepro.run("hi")).to_finish()

"""Runs that overlap in time on one data directory (anomalyco/opencode#29395, the claim as it was made)."""

import pytest

from pytest_ocrepro import Trial, never_ending

ISSUE = "anomalyco/opencode#29395"


@pytest.mark.ocrepro(issue=ISSUE)
def test_bogus_runs_beside_one_that_is_alive(ocrepro: Trial) -> None:
    """A run that starts while another is alive must answer or fail fast.

    The report says that it parks on a futex before it reaches model resolution. Here the first run is kept alive by
    a turn that never ends, so that the later ones overlap with it for certain. Refuted by later runs that fail fast,
    trial after trial. What we found: they do, in 20 of 20 trials on each of three builds; what hangs an overlapping
    start is in test_overlap_during_plugin_install.
    """
    ocrepro.provider.script(never_ending())
    ocrepro.run("hi")
    ocrepro.provider.wait_for_request()
    second = ocrepro.run("hi", model="bogus/nope-1")
    third = ocrepro.run("hi", model="bogus/nope-2")
    ocrepro.expect(second).to_finish()
    ocrepro.expect(third).to_finish()


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_single_bogus_run(ocrepro: Trial) -> None:
    """Control: one run with a model that does not exist gives control back at once."""
    ocrepro.expect(ocrepro.run("hi", model="bogus/nope-1")).to_finish()


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_two_serial_bogus_runs(ocrepro: Trial) -> None:
    """Control: strictly serial runs on one data directory both give control back."""
    first = ocrepro.run("hi", model="bogus/nope-1")
    ocrepro.expect(first).to_finish()
    second = ocrepro.run("hi", model="bogus/nope-2")
    ocrepro.expect(second).to_finish()

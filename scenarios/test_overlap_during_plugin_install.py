"""Overlapping runs while the first waits for its plugin install (anomalyco/opencode#29395, what hangs indeed)."""

import pytest

from pytest_ocrepro import Trial

ISSUE = "anomalyco/opencode#29395"


@pytest.mark.ocrepro(issue=ISSUE, known={"1.14.48": "20/20", "1.15.4": "20/20", "1.18.34": "23/23"})
def test_run_started_while_another_installs_its_plugin(ocrepro: Trial) -> None:
    """The later run must answer or fail fast; it must not wait in silence.

    A plugin file in the project makes opencode install ``@opencode-ai/plugin`` behind a lock directory. The registry
    does not answer, so the first run keeps the lock, and the second polls for it without a word: no TCP connection,
    all threads in futex and epoll, the log ends where the report says. Builds up to 1.3.2 take no such lock: skipped.
    Refuted by a later run that ends while the first one keeps the lock.

    What we found: of the six stories that threads tell of this log it is the wait for npm that hangs an overlapping
    start, by way of its lock directory. Overlap alone does not, nor does a ``.git``; an endless standard input hangs
    a run without any overlap, a held database ends one with an error, and the lock of somebody who was killed is
    waited for until it is 60 s old.
    """
    ocrepro.registry.stall()
    ocrepro.project.add_plugin()
    first = ocrepro.run("hi", model="bogus/nope-1")
    ocrepro.wait_for(ocrepro.at_lock_directory(first))
    second = ocrepro.run("hi", model="bogus/nope-2")
    ocrepro.expect(second).to_finish()


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_same_overlap_with_a_registry_that_answers(ocrepro: Trial) -> None:
    """Control: the same overlap and the same plugin file, but the registry says 404 at once."""
    ocrepro.project.add_plugin()
    first = ocrepro.run("hi", model="bogus/nope-1")
    ocrepro.wait_for(ocrepro.at_lock_directory(first))
    second = ocrepro.run("hi", model="bogus/nope-2")
    ocrepro.expect(first).to_finish()
    ocrepro.expect(second).to_finish()

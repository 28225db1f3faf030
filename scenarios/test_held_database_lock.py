"""A run that meets a write lock on its database (KE7/helix pull request 35, made deterministic)."""

import pytest

from pytest_ocrepro import NotReachedError, Trial, for_ever, text

ISSUE = "KE7/helix#35"
PATIENCE_S = 60.0
NAMES = ("opencode.db", "database")


def warm_up(ocrepro: Trial) -> None:
    """Make the database, so that no migration is in the way."""
    ocrepro.provider.script(for_ever(text("done")))
    if code := ocrepro.run("hi", role="warm-up").wait_for_end(PATIENCE_S):
        raise NotReachedError(f"the run that makes the database ended with {code}")


@pytest.mark.ocrepro(issue=ISSUE, known={"1.18.34": "23/23"})
def test_writer_in_a_transaction(ocrepro: Trial) -> None:
    """A run must live through, or at least say in plain words, that another process writes (BEGIN IMMEDIATE).

    The lock is held until the run has ended. Refuted by a run that ends with an error that names the database, or
    that does its work. What we found: 1.18.34 ends with an error that does not name it; 1.14.48 and 1.15.4 name it.
    """
    warm_up(ocrepro)
    with ocrepro.hold_database("IMMEDIATE"):
        run = ocrepro.run("hi")
        ocrepro.expect(run).to_finish()
        ocrepro.expect(run).to_name_what_it_waits_for(*NAMES)


@pytest.mark.ocrepro(issue=ISSUE, known={"1.14.48": "20/20", "1.15.4": "20/20"})
def test_exclusive_lock(ocrepro: Trial) -> None:
    """The same for EXCLUSIVE, which a connection takes while it switches the journal mode.

    Refuted as above. What we found: it is the other way round: 1.14.48 and 1.15.4 do not name the database, and
    1.18.34 does.
    """
    warm_up(ocrepro)
    with ocrepro.hold_database("EXCLUSIVE"):
        run = ocrepro.run("hi")
        ocrepro.expect(run).to_finish()
        ocrepro.expect(run).to_name_what_it_waits_for(*NAMES)


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_lock_let_go_before_the_run(ocrepro: Trial) -> None:
    """Control: the same lock, let go before the run starts."""
    warm_up(ocrepro)
    with ocrepro.hold_database("IMMEDIATE"):
        pass
    ocrepro.expect(ocrepro.run("hi")).to_complete()

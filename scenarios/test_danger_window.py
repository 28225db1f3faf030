"""Two pairs of starts on one empty data directory, the second pair later and later (KE7/helix pull request 35)."""

import pytest

from pytest_ocrepro import Process, Trial, for_ever, text

ISSUE = "KE7/helix#35"
MOST_S = 1.6
PATIENCE_S = 120.0  # four starts at once take long on a busy machine; what fails says so


@pytest.mark.ocrepro(
    issue=ISSUE,
    profile="soak",
    timing=True,
    title="second pair of starts, swept",
    known={"1.15.4": "1/1"},
)
def test_second_pair_on_an_empty_data_directory(ocrepro: Trial) -> None:
    """Each run must be answered, however long after the first pair the second starts.

    At once the four are the cold-start stampede; two starts alone were not seen to fail in 18 trials from 0 to 3.2 s
    on 1.18.34. Refuted by four runs that are answered, at each offset. What we found: it is seen on 1.15.4 and
    on builds from 1.17.0 on.
    """
    ocrepro.provider.script(for_ever(text("done")))
    first, beside = start(ocrepro), start(ocrepro)
    ocrepro.sweep(first, MOST_S)
    must_all_end_well(ocrepro, first, beside, start(ocrepro), start(ocrepro))


def start(ocrepro: Trial) -> Process:
    """A run that has time."""
    return ocrepro.run("hi", deadline_s=PATIENCE_S)


def must_all_end_well(ocrepro: Trial, *runs: Process) -> None:
    """With their answers; that one dies of its database is told as that."""
    for run in runs:
        if ocrepro.expect(run).not_to_die_of_the_database():
            ocrepro.expect(run).to_complete()


@pytest.mark.ocrepro(issue=ISSUE, profile="soak", control=True)
def test_second_pair_behind_the_end_of_the_first(ocrepro: Trial) -> None:
    """Control: the same two pairs on one empty data directory, of which no run has another one beside it."""
    ocrepro.provider.script(for_ever(text("done")))
    for _ in range(4):
        must_all_end_well(ocrepro, start(ocrepro))

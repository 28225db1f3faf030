"""Two starts on one empty data directory, the second later and later (KE7/helix pull request 35)."""

import pytest

from pytest_ocrepro import Trial, for_ever, text

ISSUE = "KE7/helix#35"
MOST_S = 3.2  # by then the first run has migrated its database on every build that we have seen


@pytest.mark.ocrepro(issue=ISSUE, profile="ci", title="second start on an empty data directory, swept")
def test_second_start_on_an_empty_data_directory(ocrepro: Trial) -> None:
    """Neither run may die of the database, however long after the first the second starts."""
    ocrepro.provider.script(for_ever(text("done")))
    first = ocrepro.run("hi")
    ocrepro.sweep(first, MOST_S)
    second = ocrepro.run("hi")
    for run in (first, second):
        ocrepro.expect(run).not_to_die_of_the_database()

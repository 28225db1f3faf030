"""Several runs at the same instant on one empty data directory (KE7/helix pull request 35)."""

import pytest

from pytest_ocrepro import Trial, for_ever, text

ISSUE = "KE7/helix#35"
RUNS = 4


@pytest.mark.ocrepro(issue=ISSUE, known={"1.14.48": "1/20", "1.15.4": "6/20", "1.18.34": "14/20"})
def test_runs_at_once_on_an_empty_data_directory(ocrepro: Trial) -> None:
    """No run may die of the database.

    helix starts one ``opencode run`` a proposal; all of them create, migrate and switch one SQLite file to WAL.
    """
    ocrepro.provider.script(for_ever(text("done")))
    runs = [ocrepro.run("hi") for _ in range(RUNS)]
    for run in runs:
        ocrepro.expect(run).not_to_die_of_the_database()


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_runs_at_once_with_a_data_directory_each(ocrepro: Trial) -> None:
    """Control: helix' way out, one XDG_DATA_HOME each with auth.json copied into it."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.sandbox.data.mkdir(parents=True)
    (ocrepro.sandbox.data / "auth.json").write_text("{}")
    homes = [ocrepro.sandbox.own_home("data", f"worker-{n}", copy=("auth.json",)) for n in range(RUNS)]
    runs = [ocrepro.run("hi", XDG_DATA_HOME=str(home)) for home in homes]
    for run in runs:
        ocrepro.expect(run).not_to_die_of_the_database()
        ocrepro.expect(run).to_complete()

"""Several runs at the same instant on one data directory (KE7/helix pull request 35)."""

import pytest

from pytest_ocrepro import Trial, for_ever, text

ISSUE = "KE7/helix#35"
LOCKED = ("anomalyco/opencode#33320", "anomalyco/opencode#33319", "marcusquinn/aidevops#21041")
RUNS = 4
OLD = "1.2.27"  # the newest of its line that is served
INVENTORY = (("models",), ("agent", "list"), ("debug", "skill"))


@pytest.mark.ocrepro(issue=ISSUE, covers=LOCKED, known={"1.14.48": "1/20", "1.15.4": "6/20", "1.18.34": "14/20"})
def test_runs_at_once_on_an_empty_data_directory(ocrepro: Trial) -> None:
    """No run may die of the database.

    helix starts one ``opencode run`` a proposal; all of them create, migrate and switch one SQLite file to WAL.
    Refuted by four runs that end well. What we found: they run the same migration side by side, and on 1.18.34 nearly
    all that die do so of a "CREATE TABLE" that another one has done already; the others of "database is locked".
    """
    ocrepro.provider.script(for_ever(text("done")))
    runs = [ocrepro.run("hi") for _ in range(RUNS)]
    for run in runs:
        ocrepro.expect(run).not_to_die_of_the_database()


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#44558",
    profile="ci",
    title="runs at once on a database of an old build",
    known={"1.18.34": "2/2"},
)
def test_runs_at_once_on_a_database_of_an_old_build(ocrepro: Trial) -> None:
    """Runs that migrate a database at the same instant must not die of it, and must lose none of its sessions.

    The database is made by a real old build. Refuted by four runs that end well on it. What we found: one run
    migrates, and others die of an "ALTER TABLE" that it has done already, since a migration is serialized within one
    process only; no session was lost in our trials.
    """
    old = ocrepro.other_build(OLD)
    ocrepro.provider.script(for_ever(text("done")))
    for _ in range(2):
        ocrepro.spawn([old, "run", "-m", "mock/m1", "hi"], role="old").wait_for_end(60.0)
    before = set(ocrepro.database("of the old build").sessions)
    runs = [ocrepro.run("hi") for _ in range(RUNS)]
    for run in runs:
        ocrepro.expect(run).not_to_die_of_the_database()
    lost = before - set(ocrepro.database("after the runs").sessions)
    ocrepro.claim(
        "no session is lost",
        held=not lost if before else None,
        because=f"{len(lost)} of {len(before)} are gone",
        finding="lost-session" if lost else "",
    )


@pytest.mark.ocrepro(
    issue="pingdotgg/t3code#10427",
    profile="ci",
    title="inventory commands at once",
    known={"1.18.34": "2/2"},
)
def test_inventory_commands_at_once(ocrepro: Trial) -> None:
    """Commands that only list something, started together on an empty data directory, must all list it.

    Refuted by three of them that end without an error of the database.
    """
    for command in [ocrepro.spawn(["opencode", *words], role=words[0]) for words in INVENTORY]:
        ocrepro.expect(command).not_to_die_of_the_database()
        ocrepro.expect(command).to_complete()


@pytest.mark.ocrepro(issue=(ISSUE, *LOCKED), control=True)
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


@pytest.mark.ocrepro(issue=(ISSUE, *LOCKED), profile="ci", control=True)
def test_runs_at_once_on_a_warm_database(ocrepro: Trial) -> None:
    """Control: the same runs on a database that is there already."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.run("hi", role="warm-up").wait_for_end(60.0)
    for run in [ocrepro.run("hi") for _ in range(RUNS)]:
        ocrepro.expect(run).not_to_die_of_the_database()


@pytest.mark.ocrepro(issue="pingdotgg/t3code#10427", profile="ci", control=True)
def test_inventory_commands_one_by_one(ocrepro: Trial) -> None:
    """Control: the same commands, each after the other's end."""
    for words in INVENTORY:
        command = ocrepro.spawn(["opencode", *words], role=words[0])
        ocrepro.expect(command).not_to_die_of_the_database()
        ocrepro.expect(command).to_complete()

"""Several runs at the same instant on one data directory (KE7/helix pull request 35)."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from pytest_ocrepro import NotReachedError, Process, Trial, for_ever, text

ISSUE = "KE7/helix#35"
MIGRATION = "anomalyco/opencode#44558"
INVENTORIES = "pingdotgg/t3code#10427"
LOCKED = ("anomalyco/opencode#33320", "anomalyco/opencode#33319", "marcusquinn/aidevops#21041")
RUNS = 4
OLD = "1.2.27"  # the newest of its line that is served
INVENTORY = (("models",), ("agent", "list"), ("debug", "skill"))
STORED = {name: f"SELECT id FROM {name}" for name in ("session", "message", "part")}  # noqa: S608  names of our own
PATIENCE_S = 120.0  # four starts at once take long on a busy machine; what fails says so


def must_end_well(ocrepro: Trial, run: Process) -> None:
    """With its answer; that it dies of its database is told as that."""
    if ocrepro.expect(run).not_to_die_of_the_database():
        ocrepro.expect(run).to_complete()


def start_four(ocrepro: Trial) -> None:
    """Four runs at once; each must end well."""
    for run in [ocrepro.run("hi", deadline_s=PATIENCE_S) for _ in range(RUNS)]:
        must_end_well(ocrepro, run)


def stored(ocrepro: Trial) -> dict[str, set[str]]:
    """The ids in each table, from a copy. Nobody may have the database open."""
    folder = ocrepro.sandbox.root / "stored"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    database = ocrepro.sandbox.database
    for file in database.parent.glob(f"{database.name}*"):
        shutil.copy(file, folder)
    with closing(sqlite3.connect(folder / database.name)) as copy:
        return {table: {row[0] for row in copy.execute(query)} for table, query in STORED.items()}


def must_be_kept(ocrepro: Trial, before: dict[str, set[str]]) -> None:
    """Each session, message and part, by its id; what cannot be read, or is still written to, tells nothing."""
    all_ended = not any("opencode" in one for one in ocrepro.alive())
    try:
        after = stored(ocrepro) if all_ended else {}
    except sqlite3.Error as error:
        after, why = {}, str(error)
    else:
        why = "" if all_ended else "an opencode is alive"
    lost = {table: len(before[table] - after.get(table, set())) for table in STORED}
    known = bool(after) and all(before.values())
    ocrepro.claim(
        "no session, message or part is lost",
        held=not any(lost.values()) if known else None,
        because=why or "; ".join(f"{lost[table]} of {len(before[table])} {table}s are gone" for table in STORED),
        finding="lost-data" if known and any(lost.values()) else "",
    )


@pytest.mark.ocrepro(issue=ISSUE, covers=LOCKED, known={"1.14.48": "1/1", "1.18.34": "3/3"})
def test_runs_at_once_on_an_empty_data_directory(ocrepro: Trial) -> None:
    """Each run must be answered, and none may die of the database.

    helix starts one ``opencode run`` a proposal; all of them create, migrate and switch one SQLite file to WAL.
    Refuted by four runs that are answered. What we found: they run the same migration side by side, and on 1.18.34
    nearly all that die do so of a "CREATE TABLE" that another one has done already; the others of "database is
    locked".
    """
    ocrepro.provider.script(for_ever(text("done")))
    start_four(ocrepro)


@pytest.mark.ocrepro(
    issue=MIGRATION,
    profile="ci",
    title="runs at once on a database of an old build",
    known={"1.14.48": "1/1", "1.18.34": "3/3"},
)
def test_runs_at_once_on_a_database_of_an_old_build(ocrepro: Trial) -> None:
    """Runs that migrate a database at the same instant must be answered, and must lose nothing that is in it.

    The database is made by a real old build. Refuted by four runs that are answered on it, and by its sessions,
    messages and parts that are all there behind them. What we found: one run migrates, and others die of an
    "ALTER TABLE" that it has done already, since a migration is serialized within one process only; no session was
    lost in our trials.
    """
    made_by_an_old_build(ocrepro)
    before = stored(ocrepro)
    start_four(ocrepro)
    must_be_kept(ocrepro, before)


def made_by_an_old_build(ocrepro: Trial) -> None:
    """A database with two sessions."""
    old = ocrepro.other_build(OLD)
    ocrepro.provider.script(for_ever(text("done")))
    for _ in range(2):
        ocrepro.spawn([old, "run", "-m", "mock/m1", "hi"], role="old").wait_for_end(PATIENCE_S)
    if not ocrepro.database("of the old build").sessions:
        raise NotReachedError(f"{OLD} has stored no session; see what it printed")


@pytest.mark.ocrepro(issue=MIGRATION, profile="ci", control=True)
def test_one_run_on_a_database_of_an_old_build(ocrepro: Trial) -> None:
    """Control: one run migrates the same database, with nobody beside it."""
    made_by_an_old_build(ocrepro)
    before = stored(ocrepro)
    must_end_well(ocrepro, ocrepro.run("hi", deadline_s=PATIENCE_S))
    must_be_kept(ocrepro, before)


@pytest.mark.ocrepro(
    issue=INVENTORIES,
    profile="ci",
    title="inventory commands at once",
    known={"1.18.34": "2/3"},
)
def test_inventory_commands_at_once(ocrepro: Trial) -> None:
    """Commands that only list something, started together on an empty data directory, must all list it.

    Refuted by three of them that end well and list what they list when they are alone afterwards. What we found: some
    builds from 1.17.0 on die of the database now and then, as the runs do; no older one did, in one trial each.
    """
    start = [ocrepro.spawn(["opencode", *words], role=words[0], deadline_s=PATIENCE_S) for words in INVENTORY]
    for command in start:
        must_end_well(ocrepro, command)
    must_list(ocrepro, dict(zip(INVENTORY, start, strict=True)))


def must_list(ocrepro: Trial, commands: dict[tuple[str, ...], Process]) -> None:
    """Each line that the same command prints now that it is alone; what says nothing then cannot be compared."""
    for words, command in commands.items():
        alone = ocrepro.spawn(["opencode", *words], role=f"{words[0]}-alone", deadline_s=PATIENCE_S)
        alone.wait_for_end(PATIENCE_S)
        lines, printed = lines_of(alone), lines_of(command)
        left_out = [line for line in lines if line not in printed]
        ocrepro.claim(
            f"{command.role} lists all",
            held=not left_out if lines and alone.exit_code == 0 else None,
            because=f"{len(left_out)} of {len(lines)} lines that it prints alone are not among its {len(printed)}",
            finding="short-list" if lines and left_out else "",
            role=command.role,
        )


def lines_of(command: Process) -> list[str]:
    """What it printed, without empty lines."""
    return [line.strip() for line in command.output.splitlines() if line.strip()]


@pytest.mark.ocrepro(issue=(ISSUE, *LOCKED), control=True)
def test_runs_at_once_with_a_data_directory_each(ocrepro: Trial) -> None:
    """Control: helix' way out, one XDG_DATA_HOME each with auth.json copied into it."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.sandbox.data.mkdir(parents=True)
    (ocrepro.sandbox.data / "auth.json").write_text("{}")
    homes = [ocrepro.sandbox.own_home("data", f"worker-{n}", copy=("auth.json",)) for n in range(RUNS)]
    for run in [ocrepro.run("hi", deadline_s=PATIENCE_S, XDG_DATA_HOME=str(home)) for home in homes]:
        must_end_well(ocrepro, run)


@pytest.mark.ocrepro(issue=(ISSUE, *LOCKED), profile="soak", control=True)
def test_runs_at_once_on_a_warm_database(ocrepro: Trial) -> None:
    """Control: the same runs on a database that is there already."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.run("hi", role="warm-up").wait_for_end(PATIENCE_S)
    start_four(ocrepro)


@pytest.mark.ocrepro(issue=INVENTORIES, profile="ci", control=True)
def test_inventory_commands_one_by_one(ocrepro: Trial) -> None:
    """Control: the same commands, each after the other's end."""
    start: dict[tuple[str, ...], Process] = {}
    for words in INVENTORY:
        start[words] = ocrepro.spawn(["opencode", *words], role=words[0], deadline_s=PATIENCE_S)
        must_end_well(ocrepro, start[words])
    must_list(ocrepro, start)

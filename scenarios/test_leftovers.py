"""What a run leaves behind, or finds, in places that others use too (anomalyco/opencode#21427)."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from pytest_ocrepro import NotReachedError, Process, Trial, bash, for_ever, prompt_body, text

RUNS = 3
PAGE_BYTES = 4096
FEW, MANY = 40, 400
STEEPER = 3.0
PATIENCE_S = 60.0


def run_several_times(ocrepro: Trial, *, emptied: bool) -> None:
    """Runs one after the other, the last one with another model; what lies in the temporary directory behind each."""
    ocrepro.provider.script(bash("true"), for_ever(text("done")))
    ocrepro.provider.script(for_ever(text("the other one is done")), model="m2")
    place, sizes = ocrepro.sandbox.root / "tmp", []
    for number in range(RUNS):
        if emptied:
            shutil.rmtree(place)
            place.mkdir()
        model = "mock/m2" if number == RUNS - 1 else "mock/m1"
        if not ocrepro.expect(ocrepro.run("hi", model=model, deadline_s=PATIENCE_S)).to_complete():
            return
        sizes.append(sum(path.stat().st_size for path in place.rglob("*") if path.is_file()))
    grown = sizes[-1] > sizes[0] + 1_000_000
    ocrepro.claim(
        "the temporary directory does not grow with each run",
        held=not grown,
        because=", ".join(f"{size / 1e6:.1f} MB" for size in sizes),
        finding="grown-directory" if grown else "",
    )


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#21427",
    profile="soak",
    title="temporary directory behind several runs",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "2/2"},
)
def test_temporary_directory_behind_several_runs(ocrepro: Trial) -> None:
    """What a run unpacks into the temporary directory must go with it, or be used by the next.

    Refuted by a temporary directory that is as large behind the third run as behind the first. What we found: each
    run leaves one more library, of 5.6 MB on 1.18.34 and 4.7 MB on 1.14.48.
    """
    run_several_times(ocrepro, emptied=False)


def must_be_damaged(ocrepro: Trial) -> None:
    """SQLite itself says so."""
    try:
        with closing(sqlite3.connect(ocrepro.sandbox.database)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError:
        return
    if found == "ok":
        raise NotReachedError("the pages that were overwritten hold nothing: the database is whole")


def run_again(ocrepro: Trial, *, damaged: bool) -> Process:
    """A run on a database that an earlier one has left, with pages overwritten or as it is; it must end."""
    ocrepro.provider.script(for_ever(text("done")))
    if code := ocrepro.run("hi", role="warm-up").wait_for_end(PATIENCE_S):
        raise NotReachedError(f"the run that makes the database ended with {code}")
    with closing(sqlite3.connect(ocrepro.sandbox.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if damaged:
        with ocrepro.sandbox.database.open("r+b") as file:
            file.seek(PAGE_BYTES)
            file.write(b"\xa5" * (8 * PAGE_BYTES))
        must_be_damaged(ocrepro)
    run = ocrepro.run("hi")
    ocrepro.expect(run).to_finish()
    return run


@pytest.mark.ocrepro(issue="anomalyco/opencode#37821", profile="ci", title="database with damaged pages")
def test_database_with_damaged_pages(ocrepro: Trial) -> None:
    """A run on a damaged database must end with a word about it, or do without.

    Refuted by a run that ends with an error that names the database, or that answers. What we found: 1.14.48 ends
    with such an error; 1.18.34 goes on and answers.
    """
    ocrepro.expect(run_again(ocrepro, damaged=True)).to_name_what_it_waits_for("opencode.db", "database")


@pytest.mark.ocrepro(issue=("anomalyco/opencode#37821", "anomalyco/opencode#14970"), profile="ci", control=True)
def test_database_that_is_whole(ocrepro: Trial) -> None:
    """Control: the same two runs, and nobody has touched the database between them."""
    ocrepro.expect(run_again(ocrepro, damaged=False)).to_complete()


def event_bytes(ocrepro: Trial, words: int) -> float | None:
    """Bytes in the table of events for each word of an answer; None if there was no answer."""
    ocrepro.provider.script(text(" ".join(f"w{number}" for number in range(words))))
    if not ocrepro.expect(ocrepro.run("hi")).to_complete():
        return None
    with closing(sqlite3.connect(f"file:{ocrepro.sandbox.database}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "event" not in tables:
            pytest.skip("this build stores no events")
        (total,) = connection.execute("SELECT coalesce(sum(length(data)), 0) FROM event").fetchone()
    if not total:
        pytest.skip("this build stores no events of an answer")
    return float(total) / words


@pytest.mark.ocrepro(issue="anomalyco/opencode#33356", profile="ci", title="stored events of a long answer")
def test_stored_events_of_a_long_answer(ocrepro: Trial) -> None:
    """What is stored of an answer must grow with its length, and not with its square.

    Refuted by no more than three times as many bytes for each of 400 words as for each of 40. What we found: 1.18.34
    keeps to that; 1.14.48 and 1.15.4 store no such events.
    """
    few = event_bytes(ocrepro, FEW)
    if few is None:
        return
    with closing(sqlite3.connect(ocrepro.sandbox.database)) as connection:
        connection.execute("DELETE FROM event")
        connection.commit()
    many = event_bytes(ocrepro, MANY)
    if many is None:
        return
    steep = many > STEEPER * few
    ocrepro.claim(
        "the bytes stored for each word do not grow with the answer",
        held=not steep,
        because=f"{few:.0f} a word of {FEW}, {many:.0f} a word of {MANY}",
        finding="grown-database" if steep else "",
    )


def second_model_is_asked(ocrepro: Trial) -> None:
    """By the inner opencode, or by the run in its place."""
    asked = [request.model for request in ocrepro.provider.requests() if not request.title]
    ocrepro.claim("the inner one asks its model", held="m2" in asked, because=f"models asked: {', '.join(asked)}")


@pytest.mark.ocrepro(
    issue="nexu-io/open-design#3807", profile="ci", title="opencode beneath the bash tool of another one"
)
def test_opencode_beneath_another_one(ocrepro: Trial) -> None:
    """An opencode that is started by another one's tool must answer, whatever it inherits.

    Refuted by an inner one that asks its model, and an outer one that ends behind it. What we found: on the builds
    tried it does.
    """
    ocrepro.provider.script(bash("opencode run -m mock/m2 inner </dev/null"), text("done"))
    ocrepro.provider.script(for_ever(text("the inner one is done")), model="m2")
    run = ocrepro.run("hi", deadline_s=90.0)
    ocrepro.expect(run).to_complete()
    second_model_is_asked(ocrepro)


@pytest.mark.ocrepro(issue="anomalyco/opencode#14970", profile="soak", title="newer build beside an older server")
def test_newer_build_beside_an_older_server(ocrepro: Trial) -> None:
    """A server of an older build must go on when a newer one has used the same database.

    Refuted by a prompt that the older one answers with words behind the newer one's run.
    """
    ocrepro.provider.script(for_ever(text("done")))
    old = ocrepro.other_build("1.2.27")
    older = ocrepro.serve(role="older", executable=old)
    session = older.new_session()
    if not ocrepro.expect(ocrepro.run("hi", deadline_s=90.0)).to_complete():
        return
    path = f"/session/{session}/message"
    more = older.call("POST", path, prompt_body("go on"), purpose="a prompt", timeout_s=PATIENCE_S)
    ocrepro.expect(more).to_be_answered()


@pytest.mark.ocrepro(
    issue=("anomalyco/opencode#21427", "nexu-io/open-design#3807", "anomalyco/opencode#33356"),
    profile="soak",
    control=True,
)
def test_one_run_in_a_fresh_place(ocrepro: Trial) -> None:
    """Control: the same runs, each of which finds an empty temporary directory, and none beneath another one."""
    run_several_times(ocrepro, emptied=True)
    second_model_is_asked(ocrepro)

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro.history import History
from pytest_ocrepro.observe.database import read_database
from pytest_ocrepro.observe.procfs import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

# the columns that matter, as 1.14.48, 1.15.4 and 1.18.34 make them
SCHEMA = """
CREATE TABLE session (id text PRIMARY KEY, title text NOT NULL);
CREATE TABLE message (id text PRIMARY KEY, session_id text NOT NULL, time_created integer NOT NULL,
    time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE part (id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
"""
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
connection.execute('SELECT count(*) FROM session').fetchall()
connection.execute('BEGIN IMMEDIATE')
connection.execute("INSERT INTO session VALUES ('ses_uncommitted', 't')")
print('ready', flush=True)
for line in sys.stdin:
    connection.execute('COMMIT'); print('committed', flush=True)
"""


def message(connection: sqlite3.Connection, name: str, data: object, session: str = "ses_1") -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    connection.execute("INSERT INTO message VALUES (?, ?, 1, 1, ?)", (name, session, text))


def part(connection: sqlite3.Connection, name: str, data: object, parent: str = "msg_1") -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    connection.execute("INSERT INTO part VALUES (?, ?, 'ses_1', 1, 1, ?)", (name, parent, text))


def tool(status: str, **state: object) -> dict[str, object]:
    return {"type": "tool", "tool": "bash", "callID": "c1", "state": {"status": status, **state}}


@contextmanager
def opencode_database(path: Path, *, mode: str = "WAL") -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.executescript(SCHEMA)
        connection.execute("INSERT INTO session VALUES ('ses_1', 't')")
        yield connection


def test_when_a_session_was_last_written(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with opencode_database(path) as connection:
        for name, session, at in (("p1", "ses_1", 5000), ("p2", "ses_2", 9000), ("p3", "ses_1", 7500)):
            connection.execute("INSERT INTO part VALUES (?, 'm', ?, 1, ?, '{}')", (name, session, at))
        assert read_database(path, tmp_path / "scratch").touched == (("ses_2", 9.0), ("ses_1", 7.5))
        connection.execute("ALTER TABLE part DROP COLUMN time_updated")
        reading = read_database(path, tmp_path / "scratch")
        assert (reading.readable, reading.parts, reading.touched) == (True, 3, ())


def test_what_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with opencode_database(path) as connection:
        message(connection, "msg_0", {"role": "user", "time": {"created": 1}})
        message(connection, "msg_1", {"role": "assistant", "time": {"created": 1}})
        message(connection, "msg_2", {"role": "assistant", "time": {"created": 1, "completed": 2}})
        failed = {"name": "APIError", "data": {"message": "no answer"}}
        message(connection, "msg_3", {"role": "assistant", "time": {"created": 1}, "error": failed})
        message(connection, "msg_4", "no json")
        part(connection, "prt_0", {"type": "text", "text": "hi"})
        part(connection, "prt_1", tool("running", input={"command": "sleep 300"}, time={"start": 5}))
        part(connection, "prt_2", tool("pending", input={}))
        part(connection, "prt_3", tool("completed", time={"start": 5, "end": 6}))
        part(connection, "prt_4", tool("error"))
        part(connection, "prt_5", "{")
        reading = read_database(path, tmp_path / "scratch")
    assert (reading.readable, reading.error, reading.integrity, reading.journal_mode) == (True, "", "ok", "wal")
    assert (reading.sessions, reading.messages, reading.parts) == (("ses_1",), 5, 6)
    assert [(one.message, one.error) for one in reading.unfinished_messages] == [
        ("msg_1", ""),
        ("msg_3", "no answer"),
    ]
    assert [(one.part, one.tool, one.status, one.started, one.detail) for one in reading.unfinished_parts] == [
        ("prt_1", "bash", "running", True, "sleep 300"),
        ("prt_2", "bash", "pending", False, "{}"),
    ]
    assert reading.wal_bytes > 0


def test_a_long_text_of_a_row_is_cut_behind_the_gate(tmp_path: Path) -> None:
    secret = "0123456789abcdefghij"
    history = History(gate=lambda text: text.replace(secret, "*"))
    path = tmp_path / "opencode.db"
    with opencode_database(path) as connection:
        for number, before in enumerate((285, 295, 25_000)):
            told = "x" * before + secret + "y" * 50_000
            message(
                connection, f"msg_{number}", {"role": "assistant", "time": {}, "error": {"data": {"message": told}}}
            )
            part(connection, f"prt_{number}", tool("running", input={"command": told}))
        reading = read_database(path, tmp_path / "scratch", history.excerpt)
    shown = [one.error for one in reading.unfinished_messages] + [one.detail for one in reading.unfinished_parts]
    assert [len(one) for one in shown] == [300] * 6
    assert not [one for one in shown if "0123" in one or "ghij" in one]


def test_the_original_is_left_as_it_is(tmp_path: Path) -> None:
    """Bytes, times and locks: a reader that opened the original would recover the -wal or drop a lock."""
    path = tmp_path / "data" / "opencode.db"
    path.parent.mkdir()
    with opencode_database(path):
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "ready"
        before, locks = state_of(path.parent), locks_of(holder.pid)
        assert len(locks) >= 3, "the holder must hold something, or this test shows nothing"
        reading = read_database(path, tmp_path / "scratch")
        assert (state_of(path.parent), locks_of(holder.pid)) == (before, locks)
        assert reading.sessions == ("ses_1",), "what is not committed is not there"
        holder.stdin.write("commit\n")
        holder.stdin.flush()
        assert holder.stdout.readline().strip() == "committed"
        assert read_database(path, tmp_path / "scratch").sessions == ("ses_uncommitted", "ses_1")
    finally:
        holder.kill()
        holder.communicate()
    crashed = state_of(path.parent)
    assert "opencode.db-wal" in crashed
    assert read_database(path, tmp_path / "scratch").sessions == ("ses_uncommitted", "ses_1")
    assert state_of(path.parent) == crashed, "a crash's -wal must survive the look"
    assert not list((tmp_path / "scratch").iterdir())


def state_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def locks_of(pid: int) -> set[tuple[str, int, int, int | None]]:
    return {(line.access, line.inode, line.start, line.end) for line in Reader().locks() if line.pid == pid}


def test_a_missing_and_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    missing = read_database(path, tmp_path / "scratch")
    assert (missing.readable, missing.error, missing.path) == (False, "no such file", str(path))
    path.touch()
    empty = read_database(path, tmp_path / "scratch")
    assert (empty.readable, empty.error) == (False, "no database, a file of 0 bytes")


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4080, b"x"])
def test_what_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "opencode.db"
    path.write_bytes(content)
    reading = read_database(path, tmp_path / "scratch")
    assert not reading.readable
    assert reading.error
    assert reading.size_bytes == len(content)


def test_a_folder_in_the_database_s_place(tmp_path: Path) -> None:
    (tmp_path / "opencode.db").mkdir()
    reading = read_database(tmp_path / "opencode.db", tmp_path / "scratch")
    assert not reading.readable
    assert reading.error.startswith("cannot be copied: ")


def test_a_damaged_page_is_told_by_the_check(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with opencode_database(path, mode="DELETE") as connection:
        for number in range(500):
            part(connection, f"prt_{number:04}", {"type": "text", "text": "x" * 200})
    content = bytearray(path.read_bytes())
    content[5 * 4096 : 9 * 4096] = b"\xaa" * (4 * 4096)
    path.write_bytes(content)
    reading = read_database(path, tmp_path / "scratch")
    assert (reading.integrity, reading.readable) != ("ok", True)
    assert reading.journal_mode == "delete"


def test_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE unrelated (x)")
    absent = read_database(path, tmp_path / "scratch")
    assert (absent.readable, absent.error) == (True, "tables absent: session, message, part")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE message (other text); CREATE TABLE session (id)")
    other = read_database(path, tmp_path / "scratch")
    assert (other.readable, other.error) == (False, "no such column: session_id")


def test_a_hot_journal_is_rolled_back_in_the_copy_only(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with opencode_database(path, mode="DELETE"):
        pass
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN EXCLUSIVE');"
        "[c.execute('INSERT INTO session VALUES (?, ?)', (f'ses_x{n}', 'y' * 900)) for n in range(200)];"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    before = state_of(tmp_path)
    assert "opencode.db-journal" in before
    reading = read_database(path, tmp_path / "scratch")
    assert (reading.sessions, reading.integrity) == (("ses_1",), "ok")
    assert {name: kept for name, kept in state_of_files(tmp_path).items() if name in before} == before


def state_of_files(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.iterdir()
        if path.is_file()
    }


def test_a_copy_that_was_overtaken_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    copies: list[str] = []
    with opencode_database(path) as connection:

        def overtaken(source: Path, target: Path) -> None:
            shutil.copyfile(source, target)
            copies.append(source.name)
            if len(copies) == 2:
                connection.execute("INSERT INTO session VALUES ('ses_2', 't')")

        reading = read_database(path, tmp_path / "scratch", copy=overtaken)
        assert (reading.sessions, reading.error) == (("ses_2", "ses_1"), "")
        assert copies.count(path.name) == 2


def test_a_writer_that_never_rests_is_told(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with opencode_database(path) as connection:

        def overtaken(source: Path, target: Path) -> None:
            shutil.copyfile(source, target)
            connection.execute("INSERT INTO session VALUES (?, 't')", (os.urandom(8).hex(),))

        reading = read_database(path, tmp_path / "scratch", copy=overtaken)
    assert "changed under every one of 5 copies" in reading.error


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 8191))
def test_no_bytes_make_it_raise(garbage: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "opencode.db"
        with opencode_database(path, mode="DELETE"):
            pass
        content = bytearray(path.read_bytes())
        content[at : at + len(garbage)] = garbage
        path.write_bytes(content)
        reading = read_database(path, Path(name) / "scratch")
        assert reading.readable or reading.error

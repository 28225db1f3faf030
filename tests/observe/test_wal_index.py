from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.observe.wal_index import HEADER_BYTES, parse_wal_index
from pytest_ocrepro.readings import WalIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

UNUSED = 0xFFFFFFFF


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("CREATE TABLE t(x)")
        yield connection


def index_of(folder: Path) -> WalIndex:
    """Read as bytes, and held against what SQLite says of the same file."""
    found = parse_wal_index((folder / "x.db-shm").read_bytes()[:HEADER_BYTES], "x.db")
    assert found is not None
    return found


def test_frames_pages_and_backfill_agree_with_sqlite(database: sqlite3.Connection, tmp_path: Path) -> None:
    for number in range(20):
        database.execute("INSERT INTO t VALUES (?)", (number,))
    page_bytes = database.execute("PRAGMA page_size").fetchone()[0]
    index = index_of(tmp_path)
    assert index.frames == ((tmp_path / "x.db-wal").stat().st_size - 32) // (page_bytes + 24)
    assert index.pages == database.execute("PRAGMA page_count").fetchone()[0]
    assert (index.backfilled, index.torn, index.path) == (0, False, "x.db")
    _, frames, moved = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    after = index_of(tmp_path)
    assert (after.frames, after.backfilled, after.backfill_attempted) == (frames, moved, moved)
    assert moved == index.frames


def test_a_reader_has_a_read_mark_that_a_checkpoint_does_not_pass(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        pinned = index_of(tmp_path).frames
        for number in range(20):
            database.execute("INSERT INTO t VALUES (?)", (number,))
        _, frames, moved = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        index = index_of(tmp_path)
    assert (index.frames, index.backfilled, moved) == (frames, pinned, pinned)
    assert pinned in index.read_marks[1:]
    assert pinned < frames


def header(*, second: bytes | None = None, version: int = 3007000, initialised: int = 1) -> bytes:
    first = struct.pack("=IIIBBHII24x", version, 0, 7, initialised, 0, 4096, 102, 33)
    checkpoint = struct.pack("=I5I8xII", 52, 0, 52, UNUSED, 90, UNUSED, 60, 0)
    return first + (first if second is None else second) + checkpoint


def test_unused_marks_and_attempts() -> None:
    assert parse_wal_index(header(), "/s/opencode.db") == WalIndex(
        path="/s/opencode.db",
        frames=102,
        pages=33,
        backfilled=52,
        backfill_attempted=60,
        read_marks=(0, 52, None, 90, None),
        torn=False,
    )


def test_a_header_that_is_being_written_is_told() -> None:
    torn = parse_wal_index(header(second=b"\0" * 48), "x.db")
    assert torn is not None
    assert torn.torn
    assert torn.frames == 102


@pytest.mark.parametrize(
    "data", [b"", header()[:-1], b"\0" * 136, header(version=3007001), header(initialised=0), b"\xff" * 200]
)
def test_what_is_no_wal_index(data: bytes) -> None:
    assert parse_wal_index(data, "x.db") is None


@given(st.binary(max_size=300), st.integers(0, 135))
def test_no_bytes_make_it_raise(rubbish: bytes, at: int) -> None:
    parse_wal_index(rubbish, "x.db")
    data = bytearray(header())
    data[at : at + len(rubbish)] = rubbish
    parse_wal_index(bytes(data), "x.db")

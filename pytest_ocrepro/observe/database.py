"""What opencode's database says, read from a byte copy: the original is never opened by SQLite.

Opening the original after a crash would recover and delete its -wal (measured), and closing it would drop locks.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import structs

from pytest_ocrepro.history import LONGEST_SECRET, Excerpt, cut
from pytest_ocrepro.readings import DatabaseReading, UnfinishedMessage, UnfinishedPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Copy = Callable[[Path, Path], object]

_TRIES: Final = 5
_BESIDE: Final = ("-wal", "-shm", "-journal")
_TABLES: Final = ("session", "message", "part")
_ROWS: Final = 1000  # of each kind; more would drown the evidence
_DETAIL: Final = 300  # characters
_READ: Final = _DETAIL + 4 * LONGEST_SECRET  # of a detail; more than an excerpt looks at
_HEADER_BYTES: Final = 100  # https://www.sqlite.org/fileformat.html, 1.3; byte 18 is the write version, 2 for WAL
_UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)  # sqlite3 decodes its own messages, which quote the file
_JOURNAL_MODES: Final = {1: "delete", 2: "wal"}

# The columns are the same in 1.14.48, 1.15.4 and 1.18.34. CASE keeps json_extract away from rubbish.
_UNFINISHED_MESSAGES: Final = """
SELECT session_id, id, coalesce(json_extract(data, '$.error.data.message'), json_extract(data, '$.error.name'), ''),
    json_extract(data, '$.time.created')
FROM message WHERE CASE WHEN json_valid(data) THEN
    json_extract(data, '$.role') = 'assistant' AND json_extract(data, '$.time.completed') IS NULL
END ORDER BY id LIMIT ?
"""
_UNFINISHED_PARTS: Final = """
SELECT session_id, message_id, id, json_extract(data, '$.tool'), json_extract(data, '$.state.status'),
    json_extract(data, '$.state.time.start') IS NOT NULL,
    coalesce(json_extract(data, '$.state.input.command'), json_extract(data, '$.state.input'), '')
FROM part WHERE CASE WHEN json_valid(data) THEN
    json_extract(data, '$.type') = 'tool' AND json_extract(data, '$.state.status') NOT IN ('completed', 'error')
END ORDER BY id LIMIT ?
"""
_TOUCHED: Final = "SELECT session_id, max(time_updated) FROM part GROUP BY session_id ORDER BY 2 DESC LIMIT ?"
_SESSIONS: Final = 20


def read_database(
    db_path: Path, scratch: Path, excerpt: Excerpt = cut, *, copy: Copy = shutil.copyfile
) -> DatabaseReading:
    """Copy db, -wal, -shm (and -journal) into ``scratch``, read the copy, remove it again.

    ``copy`` opens and closes the originals: a process that has locks of its own on them must let another do it (see
    deputy).

    The copy is made anew, up to five times, when the files changed meanwhile or the copy fails its check.
    Whatever cannot be read is told in ``error``; nothing is raised for the state of the files. ``excerpt`` cuts long
    texts of rows: the trial's own, so that no cut goes through a secret (History.excerpt).
    """
    reading = _nothing(db_path, "")
    scratch.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        with tempfile.TemporaryDirectory(dir=scratch, prefix="copy-", ignore_cleanup_errors=True) as folder:
            steady, reading = _try_once(db_path, Path(folder), copy)
        if steady and reading.integrity in ("", "ok"):
            break
    else:
        if not steady:
            changed = f"changed under every one of {_TRIES} copies; suspend its writers and read again"
            reading = structs.replace(reading, error="; ".join(filter(None, (reading.error, changed))))
    return _shortened(reading, excerpt)


def _shortened(reading: DatabaseReading, excerpt: Excerpt) -> DatabaseReading:
    messages, parts = reading.unfinished_messages, reading.unfinished_parts
    return structs.replace(
        reading,
        unfinished_messages=tuple(structs.replace(one, error=excerpt(one.error, _DETAIL)) for one in messages),
        unfinished_parts=tuple(structs.replace(one, detail=excerpt(one.detail, _DETAIL)) for one in parts),
    )


def _try_once(db_path: Path, folder: Path, copy: Copy) -> tuple[bool, DatabaseReading]:
    """(nothing changed while we copied, what the copy says)."""
    try:
        before = _stamp(db_path)
        for suffix in (
            "-wal",
            "",
            "-shm",
            "-journal",
        ):  # a checkpoint moves frames from -wal to db, never back
            _copy(db_path, folder, suffix, copy)
        return before == _stamp(db_path), _read_copy(db_path, folder / db_path.name)
    except FileNotFoundError:
        return True, _nothing(db_path, "no such file")
    except OSError as error:
        return True, _nothing(db_path, f"cannot be copied: {error.strerror or error}")


def _copy(db_path: Path, folder: Path, suffix: str, copy: Copy) -> None:
    source = Path(f"{db_path}{suffix}")
    try:
        copy(source, folder / source.name)
    except FileNotFoundError:
        if not suffix:
            raise


def _stamp(db_path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_file_stamp(Path(f"{db_path}{suffix}")) for suffix in ("", "-wal", "-journal"))


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _nothing(db_path: Path, error: str) -> DatabaseReading:
    return DatabaseReading(path=str(db_path), size_bytes=0, wal_bytes=0, readable=False, error=error)


def _read_copy(db_path: Path, copy: Path) -> DatabaseReading:
    with copy.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    wal = Path(f"{copy}-wal")
    reading = DatabaseReading(
        path=str(db_path),
        size_bytes=copy.stat().st_size,
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        readable=False,
        journal_mode=_JOURNAL_MODES.get(header[18], "") if len(header) == _HEADER_BYTES else "",
    )
    if len(header) < _HEADER_BYTES:  # SQLite would take it for a new database
        return structs.replace(reading, error=f"no database, a file of {len(header)} bytes")
    # a hot journal has to be rolled back before anything can be read, so only then the copy is opened for writing
    mode = "rw" if Path(f"{copy}-journal").exists() else "ro"
    try:
        with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
            connection.text_factory = _lenient
            return _ask(connection, reading)
    except _UNREADABLE as error:
        return structs.replace(reading, error=str(error))


def _lenient(data: bytes) -> str:
    return data.decode(errors="replace")


def _ask(connection: sqlite3.Connection, reading: DatabaseReading) -> DatabaseReading:
    integrity = "; ".join(str(row[0]) for row in connection.execute("PRAGMA quick_check(5)"))
    names = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    absent = [name for name in _TABLES if name not in names]
    reading = structs.replace(
        reading,
        readable=True,
        integrity=integrity,
        error=f"tables absent: {', '.join(absent)}" if absent else "",
    )
    try:
        return structs.replace(
            reading,
            sessions=tuple(_texts(connection, "session", names)),
            messages=_count(connection, "message", names),
            parts=_count(connection, "part", names),
            unfinished_messages=tuple(_messages(connection)) if "message" in names else (),
            unfinished_parts=tuple(_parts(connection)) if "part" in names else (),
            touched=tuple(_touched(connection)) if "part" in names else (),
        )
    except _UNREADABLE as error:  # another schema, or a page that quick_check complains of
        return structs.replace(reading, readable=False, error=str(error))


def _texts(connection: sqlite3.Connection, table: str, names: set[str]) -> Iterator[str]:
    if table in names:
        query = f"SELECT id FROM {table} ORDER BY id DESC LIMIT ?"  # noqa: S608 one of _TABLES
        yield from (str(row[0]) for row in connection.execute(query, (_ROWS,)))


def _count(connection: sqlite3.Connection, table: str, names: set[str]) -> int:
    if table not in names:
        return 0
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 one of _TABLES


def _touched(connection: sqlite3.Connection) -> Iterator[tuple[str, float]]:
    """Each token of an answer updates its part, so this is how long ago a turn was seen to move."""
    columns = {str(row[1]) for row in connection.execute("PRAGMA table_info(part)")}
    if "time_updated" not in columns:  # milliseconds, on every build measured
        return
    for session, milliseconds in connection.execute(_TOUCHED, (_SESSIONS,)):
        if isinstance(milliseconds, int | float):
            yield str(session), milliseconds / 1000


def _messages(connection: sqlite3.Connection) -> Iterator[UnfinishedMessage]:
    for session, message, error, created in connection.execute(_UNFINISHED_MESSAGES, (_ROWS,)):
        yield UnfinishedMessage(
            session=str(session),
            message=str(message),
            error=str(error)[:_READ],
            created=created / 1000 if isinstance(created, int | float) else None,
        )


def _parts(connection: sqlite3.Connection) -> Iterator[UnfinishedPart]:
    for session, message, part, tool, status, started, detail in connection.execute(_UNFINISHED_PARTS, (_ROWS,)):
        yield UnfinishedPart(
            session=str(session),
            message=str(message),
            part=str(part),
            tool=str(tool or ""),
            status=str(status),
            started=bool(started),
            detail=str(detail)[:_READ],
        )

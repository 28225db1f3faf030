"""The header of SQLite's -shm file (the WAL index), from its bytes; SQLite itself is never asked.

https://www.sqlite.org/walformat.html, 2.1 and 2.2: two copies of a 48-byte header, then the checkpoint's own record.
Integers are in the byte order of the machine that has the database open, which is this one.
"""

from __future__ import annotations

import struct
from typing import Final

from pytest_ocrepro.readings import WalIndex

HEADER_BYTES: Final = 136

_VERSION: Final = 3007000
_COPY: Final = struct.Struct(
    "=IIIBBHII24x"
)  # version, unused, change, is init, checksum order, page size, frames, pages
_CHECKPOINT: Final = struct.Struct("=I5I8xI")  # backfilled, read marks, lock bytes, backfill attempted
_UNUSED: Final = 0xFFFFFFFF  # READMARK_NOT_USED of wal.c


def parse_wal_index(data: bytes, path: str) -> WalIndex | None:
    """The header of the -shm of the database ``path``; None: too short, not initialised, or of another version.

    ``torn``: the two copies differ, because it was being written; the numbers are those of the first. Read it again.
    """
    if len(data) < HEADER_BYTES:
        return None
    version, _, _, initialised, _, _, frames, pages = _COPY.unpack_from(data)
    if version != _VERSION or not initialised:
        return None
    backfilled, *marks, attempted = _CHECKPOINT.unpack_from(data, 2 * _COPY.size)
    return WalIndex(
        path=path,
        frames=frames,
        pages=pages,
        backfilled=backfilled,
        backfill_attempted=attempted,
        read_marks=tuple(None if mark == _UNUSED else mark for mark in marks),
        torn=data[: _COPY.size] != data[_COPY.size : 2 * _COPY.size],
    )

"""An npm tarball: is it what was announced, and its members out of it, or a refusal in one line."""

from __future__ import annotations

import base64
import binascii
import errno
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from pytest_ocrepro.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

Progress = Callable[[int, int, str], None]  # done_bytes, total_bytes (0: unknown), what

UNPACKED_LIMIT_BYTES = 1 << 30
MEMBERS_LIMIT: Final = 1000
EXECUTABLE: Final = "package/bin/opencode"
_CHUNK_BYTES: Final = 1 << 20


def unpack(tarball: Path, into: Path, progress: Progress | None = None) -> str:
    """Unpack an npm tarball of one build below ``into``; returns the sha256 of its executable.

    Only regular files and directories under ``package/``, 1 GiB and 1000 members at most; BuildError for
    everything else, OSError when the disk says no. What is left in ``into`` then is for the caller to remove.
    """
    tell = progress or no_progress
    digest = ""
    try:
        with tarball.open("rb") as raw, gzip.open(raw) as plain:
            total = tarball.stat().st_size
            with tarfile.open(fileobj=_bounded(plain), mode="r|") as archive:
                for target, source in _members(archive, tarball.name, into):
                    written = _write(target, source, lambda: tell(raw.tell(), total, "unpacking"))
                    digest = written if target == into / EXECUTABLE else digest
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError, RecursionError) as error:
        raise BuildError(f"the package {tarball.name} is damaged ({error}): fetch it again") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refused(tarball.name, f"two members want {Path(error.filename).name}") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise  # the disk's own trouble
        raise _refused(tarball.name, "a member's name is longer than that of a file may be") from error
    if not digest:
        raise _refused(tarball.name, f"it has no {EXECUTABLE}")
    return digest


def check_integrity(tarball: Path, integrity: str) -> None:
    """``integrity``: ``sha512-<base64>``, as npm tells it. Raises BuildError where the file is another."""
    with tarball.open("rb") as opened:
        actual = hashlib.file_digest(opened, "sha512")
    try:
        told = base64.b64decode(integrity.removeprefix("sha512-"), validate=True)
    except binascii.Error:
        told = b""
    if actual.digest() != told:
        raise BuildError(
            f"{tarball.name} is not what the registry announced (sha512 {actual.hexdigest()[:16]}..., "
            f"announced {told.hex()[:16] or integrity}...): cut or altered on its way, fetch it again"
        )


def no_progress(done_bytes: int, total_bytes: int, what: str) -> None:
    """For who does not want to be told."""


class _Bounded:
    """A stream that ends in BuildError past the limit, wherever the bytes are: headers count too."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left_bytes = UNPACKED_LIMIT_BYTES + MEMBERS_LIMIT * tarfile.BLOCKSIZE * 4

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise _refused("a package", "it unpacks to more than 1 GiB")
        return data


def _bounded(stream: gzip.GzipFile) -> IO[bytes]:
    return cast("IO[bytes]", _Bounded(stream))  # read() is all that tarfile's stream mode calls


def _members(archive: tarfile.TarFile, name: str, into: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    total_bytes = 0
    for number, member in enumerate(archive):
        total_bytes += member.size
        why = _why_not(member)
        if number >= MEMBERS_LIMIT:
            why = f"it has more than {MEMBERS_LIMIT} members"
        if total_bytes > UNPACKED_LIMIT_BYTES:
            why = "it unpacks to more than 1 GiB"
        if why:
            raise _refused(name, why)
        target = into / member.name.rstrip("/")
        (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
        source = None if member.isdir() else archive.extractfile(member)
        if source is not None:
            yield target, source


def _why_not(member: tarfile.TarInfo) -> str:
    shown = ascii(member.name[:80])
    if not (member.isreg() or member.isdir()) or member.issparse() or member.size < 0:
        return f"{shown} is a link, a device or another special file"
    parts = member.name.rstrip("/").split("/")
    if parts[0] != "package" or {"", ".", ".."} & set(parts):
        return f"{shown} is a path outside package/"
    return ""


def _refused(name: str, why: str) -> BuildError:
    return BuildError(f"{name} is refused: {why}; check where your npm registry gets it from")


def _write(target: Path, source: IO[bytes], tell: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as out:
        while chunk := source.read(_CHUNK_BYTES):
            out.write(chunk)
            digest.update(chunk)
            tell()
        out.flush()
        os.fsync(out.fileno())  # the rename that follows must not outlive the content
    return digest.hexdigest()

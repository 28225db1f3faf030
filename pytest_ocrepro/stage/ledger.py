"""Which supervisors live on this machine: for whoever finds what a dead one has left, and where.

The directory may be shared by machines and containers, in which a pid means somebody else. Only who sees the PID
namespace (pid_namespaces(7)) that a line is from can tell whether its supervisor is dead; the others leave it alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from pathlib import Path

import msgspec

from pytest_ocrepro.observe.readers import ProcessReader, reader_here
from pytest_ocrepro.observe.regular import read_small
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.ladder import DEAD
from pytest_ocrepro.stage.orders import MARKER, encode
from pytest_ocrepro.versions.releases import make_private

KEPT_S = 30 * 24 * 3600.0  # a line of somewhere else: longer than any session
LINE_BYTES = 16_384
FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of linux/proc_ns.h: who is in it sees all others


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One supervisor, where its pid means it, and where its sandboxes are.

    ``host``: the machine's name; ``namespace``: of pids, "" where there is none; ``temporary``: a directory.
    """

    supervisor: ProcessId
    host: str
    namespace: str
    temporary: str


class Ledger:
    """Which supervisors live on this machine, so that the next start finds what a dead one left behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def enter(self, mark: str, supervisor: ProcessId) -> None:
        """Write the line of a supervisor that has begun."""
        with contextlib.suppress(OSError):  # a lost line costs only the sweep of the next start
            make_private(self._directory)
            draft = self._directory / f"{mark}.draft"
            draft.write_bytes(encode(_line_of(supervisor)))
            draft.rename(self._directory / f"{mark}.json")

    def strike(self, mark: str) -> None:
        """Its work is done."""
        with contextlib.suppress(OSError):
            (self._directory / f"{mark}.json").unlink()

    def leftovers(self, reader: ProcessReader) -> dict[str, list[ProcessId]]:
        """Marks of supervisors that are gone -> processes that still carry them; strike a mark when it is swept."""
        found: dict[str, list[ProcessId]] = {}
        for path in sorted(self._directory.glob("*.json")):
            line = _read(path)
            if line is not None and _is_dead(line, path, reader):
                found[path.stem] = reader.marked(MARKER, f"{path.stem}.*")
        return found

    def place_of(self, mark: str) -> Path | None:
        """The temporary directory in which its sandboxes are; None: not told."""
        line = _read(self._directory / f"{mark}.json")
        return None if line is None else Path(line.temporary)


def _line_of(supervisor: ProcessId) -> Line:
    return Line(
        supervisor=supervisor,
        host=platform.node(),
        namespace=reader_here().namespace(os.getpid(), "pid") or "",
        temporary=str(Path(os.environ.get("TMPDIR") or tempfile.gettempdir()).absolute()),
    )


def _read(path: Path) -> Line | None:
    content = read_small(path, LINE_BYTES)
    try:
        return None if content is None else msgspec.json.decode(content, type=Line)
    except msgspec.DecodeError:
        return None


def _is_dead(line: Line, path: Path, reader: ProcessReader) -> bool:
    here = _line_of(line.supervisor)
    boot_id = reader.boot_id()
    if line.supervisor.boot_id == boot_id and (boot_id or line.host == here.host):  # the same kernel
        if line.namespace == here.namespace:
            return not reader.alive(line.supervisor)
        if here.namespace == FIRST_NAMESPACE and not _may_live(line.namespace, reader):
            return True
    elif (line.host, line.namespace) == (here.host, here.namespace):  # before the machine was started anew
        return True
    return _age_s(path) > KEPT_S


def _may_live(namespace: str, reader: ProcessReader) -> bool:
    """Whether somebody is in it, or in one that cannot be told; who has one pid alone (NSpid) is in the first one."""
    for stat in reader.table().values():
        found = reader.namespace(stat.pid, "pid")
        untold = found is None and stat.state not in DEAD and len(reader.inner_pids(stat.pid)) != 1
        if found == namespace or untold:
            return True
    return False


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0

"""Which supervisors live on this machine: for whoever finds what a dead one has left.

The directory may be shared by machines and containers, in which a pid means somebody else. Only a line of this host
and this PID namespace (pid_namespaces(7)) tells who is dead; the others are left to those who wrote them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path

import msgspec

from pytest_ocrepro.observe.readers import ProcessReader, reader_here
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.orders import MARKER, encode

KEPT_S = 30 * 24 * 3600.0  # a line of somewhere else: longer than any session


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One supervisor, and where its pid means it: the host's name and the PID namespace, "" where there is none."""

    supervisor: ProcessId
    host: str
    namespace: str


class Ledger:
    """Which supervisors live on this machine, so that the next start finds what a dead one left behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def enter(self, mark: str, supervisor: ProcessId) -> None:
        """Write the line of a supervisor that has begun."""
        with contextlib.suppress(OSError):  # a lost line costs only the sweep of the next start
            self._directory.mkdir(parents=True, exist_ok=True)
            draft = self._directory / f"{mark}.draft"
            draft.write_bytes(encode(Line(supervisor=supervisor, **_here())))
            draft.rename(self._directory / f"{mark}.json")

    def strike(self, mark: str) -> None:
        """Its work is done."""
        with contextlib.suppress(OSError):
            (self._directory / f"{mark}.json").unlink()

    def leftovers(self, reader: ProcessReader) -> dict[str, list[ProcessId]]:
        """Marks of supervisors that are gone -> processes that still carry them; strike a mark when it is swept."""
        found: dict[str, list[ProcessId]] = {}
        for path in sorted(self._directory.glob("*.json")):
            try:
                line = msgspec.json.decode(path.read_bytes(), type=Line)
                foreign = {"host": line.host, "namespace": line.namespace} != _here()
                if foreign and time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
            except (OSError, msgspec.DecodeError):
                continue
            alive = line.supervisor.boot_id == reader.boot_id() and reader.alive(line.supervisor)
            if not foreign and not alive:
                found[path.stem] = reader.marked(MARKER, f"{path.stem}.*")
        return found


def _here() -> dict[str, str]:
    return {"host": platform.node(), "namespace": reader_here().namespace(os.getpid(), "pid") or ""}

"""Which supervisors live on this machine: for whoever finds what a dead one has left."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.orders import MARKER, encode


class Ledger:
    """Which supervisors live on this machine, so that the next start finds what a dead one left behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def enter(self, mark: str, supervisor: ProcessId) -> None:
        """Write the line of a supervisor that has begun."""
        with contextlib.suppress(OSError):  # a lost line costs only the sweep of the next start
            self._directory.mkdir(parents=True, exist_ok=True)
            draft = self._directory / f"{mark}.draft"
            draft.write_bytes(encode(supervisor))
            draft.rename(self._directory / f"{mark}.json")

    def strike(self, mark: str) -> None:
        """Its work is done."""
        with contextlib.suppress(OSError):
            (self._directory / f"{mark}.json").unlink()

    def leftovers(self, reader: ProcessReader) -> dict[str, list[ProcessId]]:
        """Marks of supervisors that are gone -> processes that still carry them; strike a mark when it is swept."""
        found: dict[str, list[ProcessId]] = {}
        for line in sorted(self._directory.glob("*.json")):
            try:
                supervisor = msgspec.json.decode(line.read_bytes(), type=ProcessId)
            except (OSError, msgspec.DecodeError):
                continue
            if supervisor.boot_id == reader.boot_id() and reader.alive(supervisor):
                continue
            found[line.stem] = reader.marked(MARKER, f"{line.stem}.*")
        return found

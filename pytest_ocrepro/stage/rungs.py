"""By what everything that we start is ended on this machine: chosen once a session, told in header and report.

A control group comes first, because it changes nothing in the subject's world; then a PID namespace, in which a
subject has other pids than those that we see; then the supervisor alone. :data:`CHOICE` names one for a comparison.
"""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from typing import Final

import msgspec

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.stage.cgroup import Group, Groups
from pytest_ocrepro.stage.namespace import way_in

CHOICE: Final = "OCREPRO_ENDED_BY"  # the environment variable
PROBE_S: Final = 5.0


class Rung(StrEnum):
    """In the order in which they are tried."""

    CGROUP = "cgroup"
    NAMESPACE = "namespace"
    SUPERVISOR = "supervisor"


WORDS: Final = {
    Rung.CGROUP: "cgroup.kill and a supervisor",
    Rung.NAMESPACE: "a PID namespace and a supervisor",
    Rung.SUPERVISOR: "a supervisor",
}
ALONE: Final = (
    "a supervisor without sub-reaper and pidfds: who leaves session, parents and marker behind is not found"
)


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """A rung and what it needs: the place of the control groups, or the way into a namespace."""

    rung: Rung
    groups: Groups | None = None
    way: str = ""


def choose(mark: str, reader: ProcessReader) -> Chosen:
    """The best rung for a session; its control group is made. Raises StageError for one that is not to be had."""
    wanted = _wanted()
    if wanted in (None, Rung.CGROUP) and (groups := Groups.for_session(mark, reader, can_enter)) is not None:
        return Chosen(rung=Rung.CGROUP, groups=groups)
    if wanted in (None, Rung.NAMESPACE) and (way := way_in()):
        return Chosen(rung=Rung.NAMESPACE, way=way)
    if wanted in (None, Rung.SUPERVISOR):
        return Chosen(rung=Rung.SUPERVISOR)
    raise StageError(f"{CHOICE} is {wanted.value!r}, which this machine does not allow us; unset it")


def in_words(reader: ProcessReader) -> str:
    """With what everything that we start is ended on this machine. Raises StageError as :func:`choose` does."""
    mark = f"{os.getpid()}-probe"
    chosen = choose(mark, reader)
    if chosen.groups is not None:
        chosen.groups.of(f"{mark}*").remove()
    return WORDS[chosen.rung] if sys.platform == "linux" else ALONE


def can_enter(group: Group) -> bool:
    """Whether a process of ours may go into a group: tried, since several files and the tree decide it."""
    argv = ["/bin/sh", "-c", 'echo 0 > "$1"', "sh", str(group.path / "cgroup.procs")]
    try:
        done = subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _wanted() -> Rung | None:
    value = os.environ.get(CHOICE, "")
    try:
        return Rung(value) if value else None
    except ValueError:
        raise StageError(f"{CHOICE} is {value!r}; it must be one of {', '.join(Rung)}") from None

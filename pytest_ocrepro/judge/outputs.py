"""Whose output a process reads: the other end of its pipes and UNIX socket pairs, open in a tool's process.

opencode gives its tools such ends as their standard output; a descendant that keeps one open keeps opencode waiting
for the end of the output.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_ocrepro.readings import FdKind, ProcessReading, Snapshot

STDIN, STDERR = 0, 2


def kept_outputs(snapshot: Snapshot, process: ProcessReading) -> Iterator[tuple[ProcessReading, str]]:
    """Each tool's process that has the other end of an output that ``process`` reads, and the fact that shows it."""
    for other in snapshot.processes:
        if other.is_subject or other.id == process.id:
            continue
        fact = _pipe(process, other) or _pair(snapshot, process, other)
        if fact:
            yield other, fact


def _pipe(process: ProcessReading, other: ProcessReading) -> str:
    reads = {fd.inode for fd in process.fds if fd.kind is FdKind.PIPE and fd.writable is False and fd.fd > STDERR}
    shared = (fd for fd in other.fds if fd.kind is FdKind.PIPE and fd.writable and fd.inode in reads)
    found = next((fd for fd in shared if fd.inode is not None), None)
    return f"pipe:[{found.inode}] is read here and written there" if found else ""


def _pair(snapshot: Snapshot, process: ProcessReading, other: ProcessReading) -> str:
    ours = {
        one.peer_inode: one
        for one in snapshot.unix_sockets
        if one.pid == process.id.pid and one.fd > STDERR and one.peer_inode is not None
    }
    for theirs in snapshot.unix_sockets:
        if theirs.pid == other.id.pid and theirs.fd != STDIN and theirs.inode in ours:
            fd = ours[theirs.inode].fd
            return f"fd {fd} here and fd {theirs.fd} there are the two ends of one UNIX socket pair (sock_diag)"
    return ""

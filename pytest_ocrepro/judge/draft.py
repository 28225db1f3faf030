"""The wait-for graph of one snapshot while it is drawn."""

from __future__ import annotations

from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Edge, Node
from pytest_ocrepro.judge.life import Life, lives
from pytest_ocrepro.judge.outsiders import Outsiders
from pytest_ocrepro.judge.progress import progress_of
from pytest_ocrepro.readings import Snapshot

STOPPED = ("T", "t")  # states in /proc/<pid>/stat


class Draft:
    """Nodes and edges of one snapshot while they are collected, and what all who collect need to look up."""

    def __init__(self, history: History, snapshot: Snapshot) -> None:
        self.history = history
        self.snapshot = snapshot
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.processes = {process.id.pid: process for process in snapshot.processes}
        self.lives = {life.pid: life for life in lives(history) if life.started.at_ns <= snapshot.ended_ns}
        self.outsiders = Outsiders(history, snapshot)

    def quiet_s(self, life: Life) -> float:
        """How long before this look its last step was."""
        return (self.snapshot.started_ns - progress_of(self.history, life, self.snapshot.started_ns)[0]) / 1e9

    def node(self, key: str, kind: str, label: str, *, for_good: bool = False) -> str:
        """Its key; a node that is there already stays as it is."""
        self.nodes.setdefault(key, Node(key=key, kind=kind, label=label, for_good=for_good))
        return key

    def process(self, pid: int) -> str:
        """The key of the node of a process, ours or not."""
        reading, life = self.processes.get(pid), self.lives.get(pid)
        role = reading.role if reading else life.started.role if life else "a process that is not ours"
        return self.node(f"pid:{pid}", "process", f"{role} (pid {pid})")

    def edge(  # one argument a field
        self,
        waiter: str,
        holder: str,
        grade: str,
        verb: str,
        *evidence: str,
        binding: bool = True,
        ends_in_s: float | None = None,
    ) -> None:
        """``grade``: proved, inferred or declared; ``ends_in_s``: when it ends by itself, None: it does not."""
        self.edges.append(
            Edge(
                waiter=waiter,
                holder=holder,
                grade=grade,
                verb=verb,
                evidence=evidence,
                binding=binding,
                ends_in_s=None if ends_in_s is None else round(max(0.0, ends_in_s), 1),
            )
        )

    def has_edges(self, key: str) -> bool:
        """Whether it waits for anything as far as drawn."""
        return any(edge.waiter == key for edge in self.edges)

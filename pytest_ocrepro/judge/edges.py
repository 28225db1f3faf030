"""The edges of the wait-for graph: what one full snapshot and the history up to it say that a process waits for.

An edge is ``proved`` (a lock owner, a socket pair, a pipe inode shows it), ``inferred`` (consistent with all that is
seen, but no kernel object says it) or ``declared`` (the scenario itself arranged it). The order of the edges of one
process is the order of preference for the chain.
"""

from __future__ import annotations

import msgspec

from pytest_ocrepro.judge import lock_edges, patience
from pytest_ocrepro.judge.draft import STOPPED, Draft
from pytest_ocrepro.judge.foreign import foreign_waits
from pytest_ocrepro.judge.judgement import Graph
from pytest_ocrepro.judge.life import Life, tail_of
from pytest_ocrepro.judge.outputs import kept_outputs
from pytest_ocrepro.judge.sessions import asks_permission, open_questions, pending_tool
from pytest_ocrepro.judge.signs import (
    TIMER_SLACK_S,
    awaits,
    rank_of,
    reads_stdin,
    timeout_of,
)
from pytest_ocrepro.readings import (
    MILESTONES,
    FdKind,
    ProcessReading,
)

NPM_TIMEOUT_S = 300.0  # npm's own default of fetch-timeout


class EdgeBuilder(Draft):
    """Collects nodes and edges of one snapshot."""

    def build(self) -> Graph:
        """All edges; no cycle is looked for."""
        for process in self.snapshot.processes:
            if process.state in STOPPED:
                self._suspended(process)
            else:
                self._waits_of(process)
                self._give_up_in_time(process)
        return Graph(nodes=tuple(self.nodes.values()), edges=tuple(dict.fromkeys(self.edges)))

    def _waits_of(self, process: ProcessReading) -> None:
        lock_edges.file_locks(self, process)
        if process.is_subject:
            lock_edges.sqlite_bytes(self, process)
            self._provider(process)
            if not self._registry(process):
                lock_edges.lock_directories(self, process)
        self._input(process)
        self._foreign(process)
        if process.is_subject:
            self._outputs(process)
            self._answers_of_users(process)
        self._children(process)

    def _give_up_in_time(self, process: ProcessReading) -> None:
        """A wait with a timeout of its own ends by itself, unless that has run out once since the last step."""
        timeout_s, life = timeout_of(process), self.lives.get(process.id.pid)
        left_s = timeout_s + TIMER_SLACK_S - self.quiet_s(life) if timeout_s is not None and life else 0.0
        if left_s <= 0:
            return
        fact = f"its main thread waits with a timeout of {timeout_s:g} s"
        key, waits = f"pid:{process.id.pid}", self.edges
        self.edges = []
        for edge in waits:
            sooner = edge.waiter == key and (edge.ends_in_s is None or edge.ends_in_s > left_s)
            changes = {"ends_in_s": round(left_s, 1), "evidence": (*edge.evidence, fact)} if sooner else {}
            self.edges.append(msgspec.structs.replace(edge, **changes))

    # -- the graph's parts

    # -- the resources

    def _suspended(self, process: ProcessReading) -> None:
        pid = process.id.pid
        ours, for_good = self.outsiders.suspension(self.lives.get(pid), pid)
        by = "the scenario (SIGSTOP)" if ours else "somebody else"
        key = self.node(f"stop:{pid}", "fault" if ours else "outsider", f"suspended by {by}", for_good=for_good)
        grade = "declared" if ours else "proved"
        self.edge(self.process(pid), key, grade, "is", f"state {process.state} in /proc")

    def _provider(self, process: ProcessReading) -> None:
        """A request that our provider has taken and not answered."""
        life = self.lives.get(process.id.pid)
        for wait in self.outsiders.provider_waits(life) if life else ():
            key = self.node(f"provider:{wait.request}", "provider", f"the provider (model {wait.model})")
            socket = self.outsiders.socket_to(process.id.pid, wait.address)
            grade = "proved" if socket else "inferred"
            left_s = patience.provider_left_s(self.history, wait.quiet_s)
            facts = [*([socket] if socket else []), wait.fact, *patience.in_words(left_s)]
            self.edge(self.process(process.id.pid), key, grade, "waits for an answer of", *facts, ends_in_s=left_s)
            if wait.fault is not None:
                end = self.node("fault:provider", "fault", wait.fault.detail, for_good=wait.fault.silent_for_good)
                self.edge(key, end, "declared", "is", "the scenario keeps it so")

    def _registry(self, process: ProcessReading) -> bool:
        """A request that our registry has taken and not answered; whether that is what its start waits for.

        opencode also installs in the background while it works, so an open request alone says nothing about a
        process that is past its start, or whose place in its start is not known.
        """
        asks = lock_edges.install_of(self, process)
        if asks is None:
            return False
        wait, facts = asks
        fault = wait.fault
        if fault is None:
            return False
        key = self.node("registry", "registry", f"the npm registry at {wait.address}")
        left_s = NPM_TIMEOUT_S - wait.age_s
        waiter = self.process(process.id.pid)
        self.edge(waiter, key, "proved", "waits for an answer of", *facts, ends_in_s=left_s)
        kind = "fault" if fault.silent_for_good else "outsider"
        end = self.node("fault:registry", kind, fault.detail, for_good=fault.silent_for_good)
        fact = "the scenario keeps it so" if fault.silent_for_good else "the scenario slows it; it will answer"
        if not self.has_edges(key):
            self.edge(key, end, "declared", "is", fact)
        return True

    def _input(self, process: ProcessReading) -> None:
        life = self.lives.get(process.id.pid)
        stdin = next((fd for fd in process.fds if fd.fd == 0 and fd.kind is FdKind.PIPE), None)
        if life is None or stdin is None or life.started.stdin != "open pipe" or not life.started.obligation:
            return
        tail = tail_of(self.snapshot, process.id.pid)
        how = reads_stdin(process)
        if not how or (tail is not None and rank_of(tail.milestone) >= MILESTONES.index("turn-started")):
            return
        key = self.node("input:stdin", "input", "standard input, whose writer is open and silent")
        fact = f"fd 0 is {stdin.target}; we hold its write end and never write"
        self.edge(self.process(life.pid), key, "proved", "waits for", how, fact)

    def _foreign(self, process: ProcessReading) -> None:
        """What a process of which nothing is declared may wait for."""
        life = self.lives.get(process.id.pid)
        for wait in foreign_waits(process, self.snapshot) if life and life.started.foreign else ():
            tool = self.process(wait.tool_pid) if wait.tool_pid is not None else ""
            key = tool or self.node(wait.key, wait.kind, wait.label)
            left_s = self._patience_with(process, wait.key) if wait.kind == "outsider" and life else None
            facts = (*wait.facts, *patience.in_words(left_s))
            waiter = self.process(process.id.pid)
            self.edge(waiter, key, wait.grade, wait.verb, *facts, binding=False, ends_in_s=left_s)
            if wait.server_pid is not None and not self.has_edges(key):
                fact = f"the other end of the connection is open in pid {wait.server_pid}"
                self.edge(key, self.process(wait.server_pid), "proved", "is served by", fact, binding=False)

    def _patience_with(self, process: ProcessReading, key: str) -> float | None:
        """How long it goes on waiting on this connection in its turn, where what it waits for is the model."""
        tail = tail_of(self.snapshot, process.id.pid)
        if tail is None or rank_of(tail.milestone) < MILESTONES.index("turn-started"):
            return None
        ages = [
            age_s
            for one in self.snapshot.sockets
            if one.pid == process.id.pid and f"address:{one.remote}" == key
            for age_s in (one.received_ago_s, one.sent_ago_s)
            if age_s is not None
        ]
        return patience.provider_left_s(self.history, min(ages)) if ages else None

    def _answers_of_users(self, process: ProcessReading) -> None:
        """Questions and permissions: a run waits for them itself, of a server only the session that asked."""
        life = self.lives.get(process.id.pid)
        if life is None:
            return
        for one in open_questions(self.history, life, self.snapshot.ended_ns):
            session = self.node(f"session:{one.session}", "session", f"session {one.session}")
            answer = self.node(f"question:{one.session}", "input", "an answer to its question, which nobody gives")
            age_s = (self.snapshot.ended_ns - one.seen_ns) / 1e9
            fact = f"GET /question listed {one.question or 'it'} {age_s:.1f} s ago; no reply, reject or abort since"
            self.edge(session, answer, "proved", "waits for", fact)
        if life.started.obligation == "answer":
            self._tool_of_run(process, life)

    def _tool_of_run(self, process: ProcessReading, life: Life) -> None:
        """The model's last word was a tool call. A tool with a child or an output kept open is told by those."""
        pending = pending_tool(self.history, life, self.snapshot.ended_ns)
        children = any(one.parent_pid == process.id.pid for one in self.snapshot.processes)
        if pending is None or children or self.has_edges(f"pid:{process.id.pid}"):
            return
        age_s = (self.snapshot.ended_ns - pending.called_ns) / 1e9
        facts = (
            f"the model called its {pending.tool} tool {age_s:.1f} s ago",
            "it has asked the model nothing since",
        )
        if pending.tool == "question":
            key = self.node(f"question:{life.pid}", "input", "an answer to its question, which nobody gives")
            self.edge(self.process(life.pid), key, "inferred", "waits for", *facts)
        elif asks_permission(self.history, pending.tool, self.snapshot.ended_ns):
            label = f"a permission for its {pending.tool} tool, which nobody gives"
            key = self.node(f"permission:{life.pid}", "input", label)
            asks = "the scenario's configuration says ask"
            self.edge(self.process(life.pid), key, "inferred", "waits for", *facts, asks)
        else:
            key = self.node(f"tool:{life.pid}", "tool", f"its own {pending.tool} tool")
            self.edge(self.process(life.pid), key, "inferred", "waits for", *facts, binding=False)

    def _outputs(self, process: ProcessReading) -> None:
        """An output that a tool's descendant keeps open."""
        for other, fact in kept_outputs(self.snapshot, process):
            ends = self.process(process.id.pid), self.process(other.id.pid)
            self.edge(*ends, "proved", "waits for output of", fact, binding=False)

    def _children(self, process: ProcessReading) -> None:
        life = self.lives.get(process.id.pid)
        if life is not None and life.started.foreign:  # a server that it keeps is a child too: see foreign_waits
            return
        children = [
            child
            for child in self.snapshot.processes
            if child.parent_pid == process.id.pid and child.id.pid != process.id.pid and child.state != "Z"
        ]
        awaited = [(child, fact) for child in children for fact in [awaits(process, child)] if fact]
        if awaited and not process.is_subject:
            for child, fact in awaited:
                ends = self.process(process.id.pid), self.process(child.id.pid)
                self.edge(*ends, "proved", "waits for the end of", fact)
            return
        for child in children:
            self.edge(
                self.process(process.id.pid),
                self.process(child.id.pid),
                "inferred",
                "has a child that runs",
                " ".join(child.argv)[:120],
                binding=False,
            )

"""The edges of the wait-for graph: what one full snapshot and the history up to it say that a process waits for.

An edge is ``proved`` (a lock owner, a socket pair, a pipe inode shows it), ``inferred`` (consistent with all that is
seen, but no kernel object says it) or ``declared`` (the scenario itself arranged it). The order of the edges of one
process is the order of preference for the chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pytest_ocrepro.history import History
from pytest_ocrepro.judge import patience
from pytest_ocrepro.judge.foreign import foreign_waits
from pytest_ocrepro.judge.judgement import Edge, Graph, Node
from pytest_ocrepro.judge.life import Life, lives, tail_of
from pytest_ocrepro.judge.outputs import kept_outputs
from pytest_ocrepro.judge.outsiders import Outsiders, ServerWait
from pytest_ocrepro.judge.progress import progress_of
from pytest_ocrepro.judge.sessions import asks_permission, open_questions, pending_tool
from pytest_ocrepro.judge.signs import (
    GIVES_UP_AFTER_S,
    TIMER_SLACK_S,
    awaits,
    conflicts,
    is_its_own,
    is_younger,
    keeps_writers_out,
    kernel_lock_waits,
    lock_facts,
    may_want,
    name_of,
    rank_of,
    reads_stdin,
    retries_of,
    timeout_of,
    told_at,
)
from pytest_ocrepro.judge.staleness import beats, heart_in_words, stale_in_s
from pytest_ocrepro.judge.traced import tries_of
from pytest_ocrepro.readings import (
    MILESTONES,
    FdKind,
    FileLock,
    LockDirectory,
    LogTail,
    ProcessReading,
    Snapshot,
)

# opencode waits for its own lock directories between reading its configuration and starting its services
STARTING = frozenset({"bootstrapping", "config-loading", "plugins-loading"})
BUSY_TIMEOUT_S = 5.0  # set by every build measured (1.14.48 to 1.18.34)
NPM_TIMEOUT_S = 300.0  # npm's own default of fetch-timeout
STOPPED = ("T", "t")


class EdgeBuilder:
    """Collects nodes and edges of one snapshot."""

    def __init__(self, history: History, snapshot: Snapshot) -> None:
        self._history = history
        self._snapshot = snapshot
        self._nodes: dict[str, Node] = {}
        self._edges: list[Edge] = []
        self._processes = {process.id.pid: process for process in snapshot.processes}
        self._lives = {life.pid: life for life in lives(history) if life.started.at_ns <= snapshot.ended_ns}
        self._outsiders = Outsiders(history, snapshot)

    def build(self) -> Graph:
        """All edges; no cycle is looked for."""
        for process in self._snapshot.processes:
            if process.state in STOPPED:
                self._suspended(process)
            else:
                self._waits_of(process)
                self._give_up_in_time(process)
        return Graph(nodes=tuple(self._nodes.values()), edges=tuple(dict.fromkeys(self._edges)))

    def _waits_of(self, process: ProcessReading) -> None:
        self._file_locks(process)
        if process.is_subject:
            self._sqlite_bytes(process)
            self._provider(process)
            if not self._registry(process):
                self._lock_directories(process)
        self._input(process)
        self._foreign(process)
        if process.is_subject:
            self._outputs(process)
            self._answers_of_users(process)
        self._children(process)

    def _quiet_s(self, life: Life) -> float:
        """How long before this look its last step was."""
        return (self._snapshot.started_ns - progress_of(self._history, life, self._snapshot.started_ns)[0]) / 1e9

    def _give_up_in_time(self, process: ProcessReading) -> None:
        """A wait with a timeout of its own ends by itself, unless that has run out once since the last step."""
        timeout_s, life = timeout_of(process), self._lives.get(process.id.pid)
        left_s = timeout_s + TIMER_SLACK_S - self._quiet_s(life) if timeout_s is not None and life else 0.0
        if left_s <= 0:
            return
        fact = f"its main thread waits with a timeout of {timeout_s:g} s"
        key, waits = f"pid:{process.id.pid}", self._edges
        self._edges = []
        for edge in waits:
            sooner = edge.waiter == key and (edge.ends_in_s is None or edge.ends_in_s > left_s)
            changes = {"ends_in_s": round(left_s, 1), "evidence": (*edge.evidence, fact)} if sooner else {}
            self._edges.append(msgspec.structs.replace(edge, **changes))

    # -- the graph's parts

    def _node(self, key: str, kind: str, label: str, *, for_good: bool = False) -> str:
        self._nodes.setdefault(key, Node(key=key, kind=kind, label=label, for_good=for_good))
        return key

    def _process(self, pid: int) -> str:
        reading, life = self._processes.get(pid), self._lives.get(pid)
        role = reading.role if reading else life.started.role if life else "a process that is not ours"
        return self._node(f"pid:{pid}", "process", f"{role} (pid {pid})")

    def _edge(  # one argument a field
        self,
        waiter: str,
        holder: str,
        grade: str,
        verb: str,
        *evidence: str,
        binding: bool = True,
        ends_in_s: float | None = None,
    ) -> None:
        self._edges.append(
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

    def _has_edges(self, key: str) -> bool:
        return any(edge.waiter == key for edge in self._edges)

    # -- the resources

    def _suspended(self, process: ProcessReading) -> None:
        pid = process.id.pid
        ours, for_good = self._outsiders.suspension(self._lives.get(pid), pid)
        by = "the scenario (SIGSTOP)" if ours else "somebody else"
        key = self._node(f"stop:{pid}", "fault" if ours else "outsider", f"suspended by {by}", for_good=for_good)
        grade = "declared" if ours else "proved"
        self._edge(self._process(pid), key, grade, "is", f"state {process.state} in /proc")

    def _file_locks(self, process: ProcessReading) -> None:
        """F_SETLKW and flock(2) waiters appear in /proc/locks; SQLite never waits that way."""
        for wanted in self._snapshot.locks:
            if not wanted.waiting or wanted.pid != process.id.pid:
                continue
            key = self._node(f"file:{wanted.path}", "file-lock", f"{wanted.kind} lock on {wanted.path}")
            self._edge(
                self._process(process.id.pid),
                key,
                "proved",
                "waits for",
                f"{wanted.source} lists pid {process.id.pid} as waiting",
            )
            self._holders_of(key, (lock for lock in self._snapshot.locks if conflicts(lock, wanted)))
        self._untold_file_locks(process)

    def _untold_file_locks(self, process: ProcessReading) -> None:
        """The same for locks that /proc/locks names no waiter of."""
        told = {lock.path for lock in self._snapshot.locks if lock.waiting and lock.pid == process.id.pid}
        for wanted, how in kernel_lock_waits(process):
            if wanted.path in told:
                continue
            key = self._node(f"file:{wanted.path}", "file-lock", f"{wanted.kind} lock on {wanted.path}")
            self._edge(self._process(process.id.pid), key, "proved", "waits for", how)
            self._holders_of(key, (lock for lock in self._snapshot.locks if conflicts(lock, wanted)))

    def _holders_of(self, key: str, locks: Iterable[FileLock]) -> None:
        for lock in locks:
            name = f"{lock.name} byte" if lock.name else f"bytes {lock.start}-{lock.end or 'end'}"
            if lock.pid is None:
                outside = self._node(f"unseen:{lock.path}", "outsider", "a holder outside of our view")
                self._edge(
                    key, outside, "proved", "is held by", f"{lock.source}: {lock.access} on the {name}, no pid"
                )
            else:
                fact = f"{lock.source}: pid {lock.pid} has {lock.access} on the {name}"
                self._edge(key, self._process(lock.pid), "proved", "is held by", fact)

    def _sqlite_bytes(self, process: ProcessReading) -> None:
        """SQLite tries a non-blocking F_SETLK and sleeps in between: the waiter is inferred, the holder proved."""
        databases = {fd.target for fd in process.fds if fd.kind is FdKind.DATABASE}
        how, life = retries_of(process), self._lives.get(process.id.pid)
        tried_s = self._quiet_s(life) % BUSY_TIMEOUT_S if life else 0.0  # one that goes on has begun another try
        for lock in self._snapshot.locks:
            base = lock.path.removesuffix("-shm")
            if not how or base not in databases or not keeps_writers_out(lock, process.id.pid):
                continue
            key = self._node(f"byte:{lock.path}:{lock.name}", "sqlite-byte", f"{lock.name} byte of {lock.path}")
            seen = self._has_edges(key)
            self._edge(
                self._process(process.id.pid),
                key,
                "inferred",
                "waits for",
                f"it has {base} open",
                how,
                f"gives up by itself: busy_timeout is about {BUSY_TIMEOUT_S:g} s",
                ends_in_s=BUSY_TIMEOUT_S - tried_s,
            )
            if not seen:
                self._holders_of(key, (lock,))
                self._lock_fault(lock.pid)

    def _lock_fault(self, pid: int | None) -> None:
        fault = self._outsiders.fault("database-lock")
        if fault is None or fault.pid is None or fault.pid != pid or self._has_edges(f"pid:{pid}"):
            return
        label = "the scenario's lock holder, which does not let go"
        key = self._node("fault:database-lock", "fault", label, for_good=fault.silent_for_good)
        self._edge(self._process(fault.pid), key, "declared", "is", fault.detail)

    def _provider(self, process: ProcessReading) -> None:
        """A request that our provider has taken and not answered."""
        life = self._lives.get(process.id.pid)
        for wait in self._outsiders.provider_waits(life) if life else ():
            key = self._node(f"provider:{wait.request}", "provider", f"the provider (model {wait.model})")
            socket = self._outsiders.socket_to(process.id.pid, wait.address)
            grade = "proved" if socket else "inferred"
            left_s = patience.provider_left_s(self._history, wait.quiet_s)
            facts = [*([socket] if socket else []), wait.fact, *patience.in_words(left_s)]
            self._edge(self._process(process.id.pid), key, grade, "waits for an answer of", *facts, ends_in_s=left_s)
            if wait.fault is not None:
                end = self._node("fault:provider", "fault", wait.fault.detail, for_good=wait.fault.silent_for_good)
                self._edge(key, end, "declared", "is", "the scenario keeps it so")

    def _registry(self, process: ProcessReading) -> bool:
        """A request that our registry has taken and not answered; whether that is what its start waits for.

        opencode also installs in the background while it works, so an open request alone says nothing about a
        process that is past its start, or whose place in its start is not known.
        """
        asks = self._install_of(process)
        if asks is None:
            return False
        wait, facts = asks
        fault = wait.fault
        if fault is None:
            return False
        key = self._node("registry", "registry", f"the npm registry at {wait.address}")
        left_s = NPM_TIMEOUT_S - wait.age_s
        waiter = self._process(process.id.pid)
        self._edge(waiter, key, "proved", "waits for an answer of", *facts, ends_in_s=left_s)
        kind = "fault" if fault.silent_for_good else "outsider"
        end = self._node("fault:registry", kind, fault.detail, for_good=fault.silent_for_good)
        fact = "the scenario keeps it so" if fault.silent_for_good else "the scenario slows it; it will answer"
        if not self._has_edges(key):
            self._edge(key, end, "declared", "is", fact)
        return True

    def _install_of(self, process: ProcessReading) -> tuple[ServerWait, tuple[str, ...]] | None:
        """The request to our registry that its start waits for, and the facts; None: it waits for no such thing."""
        life = self._lives.get(process.id.pid)
        wait = self._outsiders.registry_wait(life) if life else None
        socket = self._outsiders.socket_to(process.id.pid, wait.address) if wait else ""
        if wait is None or wait.fault is None or not socket:
            return None
        tail = tail_of(self._snapshot, process.id.pid)
        holds = [lock for lock in self._snapshot.lock_directories if lock.holder_pid == process.id.pid]
        if tail is None or tail.milestone not in STARTING or not holds:
            return None
        return wait, (socket, wait.fact, f"it holds {name_of(holds[0])} for the install")

    def _lock_directories(self, process: ProcessReading) -> None:
        tail = tail_of(self._snapshot, process.id.pid)
        life = self._lives.get(process.id.pid)
        if life is None:
            return
        quiet_s = self._quiet_s(life)
        tried = tries_of(self._history, life, self._snapshot)
        wanted = sorted(
            (lock for lock in self._snapshot.lock_directories if _is_wanted(lock, process.id.pid, tail, tried)),
            key=lambda lock: (
                lock.path not in tried,
                not lock.holder_alive,
                is_younger(lock, quiet_s),
                -told_at(tail, lock),
                lock.path,
            ),
        )
        for lock in wanted:
            others = [name_of(other) for other in wanted if other.path != lock.path]
            key = self._node(f"lock:{lock.path}", "lock-directory", f"lock directory {name_of(lock)}")
            self._edge(
                self._process(process.id.pid),
                key,
                "proved" if lock.path in tried else "inferred",
                "waits for",
                *lock_facts(tail, lock, quiet_s, others, tried.get(lock.path, "")),
                binding=not is_younger(lock, quiet_s),
                ends_in_s=GIVES_UP_AFTER_S - quiet_s,
            )
            if not self._has_edges(key):
                self._lock_holder(key, lock)

    def _lock_holder(self, key: str, lock: LockDirectory) -> None:
        heart, left_s, pid = heart_in_words(lock), stale_in_s(lock), lock.holder_pid
        if pid is not None and lock.holder_alive:
            fact = f"meta.json names pid {pid}, which lives{self._if_no_opencode(pid)}, {heart}"
            ends_in_s, end = self._end_of_hold(lock, pid)
            self._edge(key, self._process(pid), "proved", "is held by", fact, *end, ends_in_s=ends_in_s)
        elif pid is not None and lock.holder_alive is False:
            lent = " and has lent its pid to another process" if lock.pid_reused else ""
            label = f"pid {pid}, which is dead{lent}; the lock breaks itself in about {left_s:.0f} s"
            dead = self._node(f"dead:{pid}", "dead-holder", label, for_good=True)
            now = "is another, younger process now" if lock.pid_reused else "is gone or has another process now"
            fact = f"meta.json names pid {pid}, which {now}, {heart}"
            self._edge(key, dead, "proved", "is held by", fact, ends_in_s=left_s)
        else:
            who = "nobody by name" if pid is None else f"pid {pid} of another machine or of an unreadable process"
            unknown = self._node(f"unknown:{lock.path}", "outsider", "a holder that cannot be told")
            self._edge(key, unknown, "inferred", "is held by", f"meta.json names {who}, {heart}", binding=False)

    def _if_no_opencode(self, pid: int) -> str:
        reading = self._processes.get(pid)
        return " and is no opencode" if reading is not None and not reading.is_subject else ""

    def _end_of_hold(self, lock: LockDirectory, pid: int) -> tuple[float | None, tuple[str, ...]]:
        """When a living holder loses the lock, and that in words.

        It is no way out where the holder waits for a registry that is silent for good: who takes the lock from it
        installs the same, from the same registry (measured, see staleness).
        """
        if beats(lock):
            return None, ()
        left_s, holder = stale_in_s(lock), self._processes.get(pid)
        asks = self._install_of(holder) if holder is not None and holder.state not in STOPPED else None
        if asks is not None and asks[0].fault is not None and asks[0].fault.silent_for_good:
            return None, (f"lock turns stale in about {left_s:.0f} s; who takes it then waits for the same registry",)
        return left_s, (f"ends by itself in about {left_s:.0f} s: lock turns stale",)

    def _input(self, process: ProcessReading) -> None:
        life = self._lives.get(process.id.pid)
        stdin = next((fd for fd in process.fds if fd.fd == 0 and fd.kind is FdKind.PIPE), None)
        if life is None or stdin is None or life.started.stdin != "open pipe" or not life.started.obligation:
            return
        tail = tail_of(self._snapshot, process.id.pid)
        how = reads_stdin(process)
        if not how or (tail is not None and rank_of(tail.milestone) >= MILESTONES.index("turn-started")):
            return
        key = self._node("input:stdin", "input", "standard input, whose writer is open and silent")
        fact = f"fd 0 is {stdin.target}; we hold its write end and never write"
        self._edge(self._process(life.pid), key, "proved", "waits for", how, fact)

    def _foreign(self, process: ProcessReading) -> None:
        """What a process of which nothing is declared may wait for."""
        life = self._lives.get(process.id.pid)
        for wait in foreign_waits(process, self._snapshot) if life and life.started.foreign else ():
            tool = self._process(wait.tool_pid) if wait.tool_pid is not None else ""
            key = tool or self._node(wait.key, wait.kind, wait.label)
            left_s = self._patience_with(process, wait.key) if wait.kind == "outsider" and life else None
            facts = (*wait.facts, *patience.in_words(left_s))
            waiter = self._process(process.id.pid)
            self._edge(waiter, key, wait.grade, wait.verb, *facts, binding=wait.binding, ends_in_s=left_s)
            if wait.server_pid is not None and not self._has_edges(key):
                fact = f"the other end of the connection is open in pid {wait.server_pid}"
                self._edge(key, self._process(wait.server_pid), "proved", "is served by", fact, binding=False)

    def _patience_with(self, process: ProcessReading, key: str) -> float | None:
        """How long it goes on waiting on this connection in its turn, where what it waits for is the model."""
        tail = tail_of(self._snapshot, process.id.pid)
        if tail is None or rank_of(tail.milestone) < MILESTONES.index("turn-started"):
            return None
        ages = [
            age_s
            for one in self._snapshot.sockets
            if one.pid == process.id.pid and f"address:{one.remote}" == key
            for age_s in (one.received_ago_s, one.sent_ago_s)
            if age_s is not None
        ]
        return patience.provider_left_s(self._history, min(ages)) if ages else None

    def _answers_of_users(self, process: ProcessReading) -> None:
        """Questions and permissions: a run waits for them itself, of a server only the session that asked."""
        life = self._lives.get(process.id.pid)
        if life is None:
            return
        for one in open_questions(self._history, life, self._snapshot.ended_ns):
            session = self._node(f"session:{one.session}", "session", f"session {one.session}")
            answer = self._node(f"question:{one.session}", "input", "an answer to its question, which nobody gives")
            age_s = (self._snapshot.ended_ns - one.seen_ns) / 1e9
            fact = f"GET /question listed {one.question or 'it'} {age_s:.1f} s ago; no reply, reject or abort since"
            self._edge(session, answer, "proved", "waits for", fact)
        if life.started.obligation == "answer":
            self._tool_of_run(process, life)

    def _tool_of_run(self, process: ProcessReading, life: Life) -> None:
        """The model's last word was a tool call. A tool with a child or an output kept open is told by those."""
        pending = pending_tool(self._history, life, self._snapshot.ended_ns)
        children = any(one.parent_pid == process.id.pid for one in self._snapshot.processes)
        if pending is None or children or self._has_edges(f"pid:{process.id.pid}"):
            return
        age_s = (self._snapshot.ended_ns - pending.called_ns) / 1e9
        facts = (
            f"the model called its {pending.tool} tool {age_s:.1f} s ago",
            "it has asked the model nothing since",
        )
        if pending.tool == "question":
            key = self._node(f"question:{life.pid}", "input", "an answer to its question, which nobody gives")
            self._edge(self._process(life.pid), key, "inferred", "waits for", *facts)
        elif asks_permission(self._history, pending.tool, self._snapshot.ended_ns):
            label = f"a permission for its {pending.tool} tool, which nobody gives"
            key = self._node(f"permission:{life.pid}", "input", label)
            asks = "the scenario's configuration says ask"
            self._edge(self._process(life.pid), key, "inferred", "waits for", *facts, asks)
        else:
            key = self._node(f"tool:{life.pid}", "tool", f"its own {pending.tool} tool")
            self._edge(self._process(life.pid), key, "inferred", "waits for", *facts, binding=False)

    def _outputs(self, process: ProcessReading) -> None:
        """An output that a tool's descendant keeps open."""
        for other, fact in kept_outputs(self._snapshot, process):
            ends = self._process(process.id.pid), self._process(other.id.pid)
            self._edge(*ends, "proved", "waits for output of", fact, binding=False)

    def _children(self, process: ProcessReading) -> None:
        life = self._lives.get(process.id.pid)
        if life is not None and life.started.foreign:  # a server that it keeps is a child too: see foreign_waits
            return
        children = [
            child
            for child in self._snapshot.processes
            if child.parent_pid == process.id.pid and child.id.pid != process.id.pid and child.state != "Z"
        ]
        awaited = [(child, fact) for child in children for fact in [awaits(process, child)] if fact]
        if awaited and not process.is_subject:
            for child, fact in awaited:
                ends = self._process(process.id.pid), self._process(child.id.pid)
                self._edge(*ends, "proved", "waits for the end of", fact)
            return
        for child in children:
            self._edge(
                self._process(process.id.pid),
                self._process(child.id.pid),
                "inferred",
                "has a child that runs",
                " ".join(child.argv)[:120],
                binding=False,
            )


def _is_wanted(lock: LockDirectory, pid: int, tail: LogTail | None, tried: Mapping[str, str]) -> bool:
    """Seen to be tried, or else of a process that is at the place in its start where it may be."""
    if lock.path in tried:
        return not is_its_own(lock, pid)
    return tail is not None and tail.milestone in STARTING and may_want(lock, pid, tail)

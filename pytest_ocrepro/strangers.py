"""Who is looked at on a machine that is not ours: opencode processes that somebody else started, and their company.

It is what the sampler looks at when we attach (its ``World``). Nothing is sent to anybody and nothing is written: all
is read off /proc. Beside the processes that were asked for come those that have to do with them: other opencodes
with the same database or lock directories, holders of these, tools, and who has the other end of a connection or of
standard input.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pytest_ocrepro.events import Note, ProcessFound, ProcessGone
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.proctext import fd_kind
from pytest_ocrepro.observe.sampler import Observed, is_subject
from pytest_ocrepro.readings import FdKind, ProcessId, Snapshot
from pytest_ocrepro.roster import OWES

WORDS = ("run", "serve", "web", "acp", "attach", "tui")  # subcommands that a role is named by
MOST_COMPANY = 24  # of others than opencode
STDIN, STDOUT, STDERR = 0, 1, 2
Introduce = Callable[[Mapping[str, str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """One process. Directories are None where they are unknown; ``wanted``: it was asked for by name or by --all."""

    id: ProcessId
    role: str
    argv: tuple[str, ...]
    is_subject: bool
    obligation: str = ""
    wanted: bool = False
    exe: str | None = None
    cwd: str | None = None
    state_home: Path | None = None
    config_home: Path | None = None
    home: Path | None = None
    databases: tuple[Path, ...] = ()
    logs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()

    @property
    def places(self) -> set[Path]:
        """What two opencodes share when they can be in each other's way."""
        locks = {self.state_home / "opencode/locks"} if self.state_home else set()
        return {*self.databases, *(log.parent for log in self.logs), *locks}


class Strangers:
    """Thread-safe for readers: the sampler's thread asks while ours takes more processes in.

    ``introduce`` gets the environment of each before anything of it is written down, for the gate's sake.
    ``limits``: seconds without a visible step until a verdict may rest on silence alone.
    """

    def __init__(self, reader: Reader, history: History, *, introduce: Introduce, deadline_s: float) -> None:
        self.members: tuple[Stranger, ...] = ()
        self._reader = reader
        self._history = history
        self._introduce = introduce
        self._deadline_s = deadline_s
        self._gone: set[ProcessId] = set()
        self._noted: set[str] = set()

    # -- who

    def take_in(self, pid: int, *, wanted: bool = False) -> Stranger | None:
        """Look at this process from now on; None: it is not there, or is taken in already."""
        identity, argv = self._reader.identify(pid), self._reader.argv(pid)
        known = identity in {one.id for one in self.members}
        if identity is None or argv is None or known or not self._reader.alive(identity):
            return None
        environment = self._reader.environ(pid)
        self._introduce(environment or {})
        stranger = self._described(identity, argv, environment, wanted=wanted)
        self.members = (*self.members, stranger)
        self._history.append(
            ProcessFound(
                at_ns=max(0, now_ns() - round(self._reader.age_s(identity) * 1e9)),
                id=identity,
                role=stranger.role,
                argv=argv,
                parent_pid=self._reader.parent(pid) or 0,
                is_subject=stranger.is_subject,
                obligation=stranger.obligation,
                deadline_s=self._deadline_s,
                foreign=True,
                cwd=stranger.cwd or "",
            )
        )
        return stranger

    def opencodes(self) -> list[int]:
        """Every living opencode that can be seen, ours and those of others."""
        return [pid for pid in self._reader.pids() if self.is_opencode(pid)]

    def is_opencode(self, pid: int) -> bool:
        """By its name or its executable's; a zombie is none any more."""
        argv = self._reader.argv(pid)
        return bool(argv) and is_subject(argv or (), self._reader.exe(pid))

    def siblings(self) -> list[int]:
        """Opencodes that share a database, a log or a lock directory with one that was asked for."""
        known = {one.id.pid for one in self.members}
        ours = {place for one in self.members if one.wanted for place in one.places}
        return [pid for pid in self.opencodes() if pid not in known and ours & self._places(pid)]

    def children(self) -> list[int]:
        """What these opencodes have started."""
        known = {one.id.pid for one in self.members}
        subjects = {one.id.pid for one in self.members if one.is_subject}
        return [pid for pid in self._reader.pids() if pid not in known and self._reader.parent(pid) in subjects]

    def company(self, snapshot: Snapshot) -> list[int]:
        """Who else has to do with those that were asked for, as a full snapshot of them shows; bounded."""
        known = {one.id.pid for one in self.members}
        subjects = {one.id.pid for one in self.members if one.is_subject}
        found = [lock.holder_pid for lock in snapshot.lock_directories if lock.holder_alive]
        found += [lock.pid for lock in snapshot.locks if not lock.waiting]
        found += [one.peer_pid for one in snapshot.sockets if one.pid in subjects and one.state != "LISTEN"]
        found += self._writers_of_stdin()
        others = [pid for pid in dict.fromkeys(found) if pid is not None and pid > 0 and pid not in known]
        room = max(0, MOST_COMPANY - sum(not one.is_subject for one in self.members))
        if len(others) > room:
            self.note(f"{len(others) - room} more processes that have to do with these were not looked at")
        return others[:room]

    def note_the_gone(self) -> None:
        """Record the end of those that have ended; how they ended is their parents' to know."""
        for one in self.members:
            if one.id not in self._gone and not self._reader.alive(one.id):
                self._gone.add(one.id)
                self._history.append(ProcessGone(at_ns=now_ns(), pid=one.id.pid, role=one.role))

    @property
    def gone(self) -> frozenset[ProcessId]:
        """Those that have ended since we look."""
        return frozenset(self._gone)

    def note(self, text: str) -> None:
        """Something that a reader of the evidence should know; once."""
        if text not in self._noted:
            self._noted.add(text)
            self._history.append(Note(at_ns=now_ns(), text=text))

    # -- the sampler's World

    def processes(self) -> Sequence[Observed]:
        """Everybody, the dead included."""
        return [
            Observed(id=one.id, role=one.role, is_subject=one.is_subject, outputs=one.outputs, shared=True)
            for one in self.members
        ]

    def log_dirs(self) -> Sequence[Path]:
        """None: logs are found by who has them open, others' are not read."""
        return ()

    def state_dirs(self) -> Sequence[Path]:
        """Those of the opencodes, as their environments name them."""
        return list(dict.fromkeys(one.state_home for one in self.members if one.state_home is not None))

    def databases(self) -> Sequence[Path]:
        """Those that they have open."""
        return list(dict.fromkeys(path for one in self.members if one.is_subject for path in one.databases))

    def lock_keys(self) -> Sequence[str]:
        """Directories that opencode installs into, from where it works and what its environment names."""
        return list(dict.fromkeys(key for one in self.members if one.is_subject for key in _lock_keys(one)))

    def marker(self) -> tuple[str, str]:
        """Nobody carries one."""
        return "", ""

    def adopt(self, process: ProcessId, argv: tuple[str, ...], parent_pid: int) -> None:
        """Never called: nobody carries a marker."""

    def harness_pids(self) -> Sequence[int]:
        """None: a server of ours would be a peer like any other."""
        return ()

    # -- how

    def _described(
        self, identity: ProcessId, argv: tuple[str, ...], environment: Mapping[str, str] | None, *, wanted: bool
    ) -> Stranger:
        pid = identity.pid
        exe = self._reader.exe(pid)
        subject = is_subject(argv, exe)
        stranger = Stranger(
            id=identity,
            role=f"{_name(argv, exe, subject=subject)}-{pid}",
            argv=argv,
            is_subject=subject,
            obligation=next((OWES[word] for word in argv[1:] if word in OWES), "") if subject else "",
            wanted=wanted,
            exe=exe,
            cwd=self._reader.cwd(pid),
        )
        why = self._elsewhere(pid)
        if why:
            self.note(f"pid {pid}: {why}")
            return stranger
        return self._placed(stranger, environment)

    def _placed(self, one: Stranger, environment: Mapping[str, str] | None) -> Stranger:
        """With the files that it has open and the directories that its environment names."""
        pid = one.id.pid
        files = [(fd, Path(target)) for fd, target in self._reader.fd_links(pid) if target.startswith("/")]
        home, state, config = None, None, None
        if one.is_subject and environment is None:
            self.note(f"pid {pid}: its environment cannot be read: where its lock directories are is unknown")
        elif one.is_subject and environment is not None:
            home = _absolute(environment.get("HOME")) or self._home_of(pid)
            state = _absolute(environment.get("XDG_STATE_HOME")) or (home and home / ".local/state")
            config = _absolute(environment.get("XDG_CONFIG_HOME")) or (home and home / ".config")
        return Stranger(
            id=one.id,
            role=one.role,
            argv=one.argv,
            is_subject=one.is_subject,
            obligation=one.obligation,
            wanted=one.wanted,
            exe=one.exe,
            cwd=one.cwd,
            home=home,
            state_home=state,
            config_home=config,
            databases=tuple(sorted({path for _, path in files if fd_kind(str(path)) is FdKind.DATABASE})),
            logs=tuple(sorted({path for _, path in files if "/opencode/log/" in str(path)})),
            outputs=tuple(dict.fromkeys(path for fd, path in files if fd in (STDOUT, STDERR) and _is_file(path))),
        )

    def _elsewhere(self, pid: int) -> str:
        """Why a path of this process, or a pid in a file of its, does not mean the same to us; "" where it does."""
        for kind, what in (("mnt", "file system"), ("pid", "process numbers")):
            theirs, ours = self._reader.namespace(pid, kind), self._reader.namespace("self", kind)
            if theirs is not None and ours is not None and theirs != ours:
                inner = self._reader.inner_pids(pid)[-1:]
                inside = f", where it is pid {inner[0]}" if kind == "pid" and inner else ""
                told = "but for an open log its files were not read, look inside of it"
                return f"it has {what} of its own (a container){inside}; {told}"
        return "" if self._reader.root_of(pid) in ("/", None) else "it has a root directory of its own (chroot)"

    def _home_of(self, pid: int) -> Path | None:
        """What os.homedir() falls back to without HOME."""
        user = self._reader.user(pid)
        try:
            return None if user is None else _absolute(pwd.getpwuid(user).pw_dir)
        except KeyError:
            return None

    def _places(self, pid: int) -> set[Path]:
        identity = self._reader.identify(pid)
        if identity is None or self._elsewhere(pid):
            return set()
        bare = Stranger(id=identity, role="", argv=(), is_subject=True)
        environment = self._reader.environ(pid)
        return self._placed(bare, environment).places if environment is not None else set()

    def _writers_of_stdin(self) -> Iterator[int]:
        """Who can write what a run of these waits to read; all processes that can be seen are asked, once."""
        pipes = {
            target
            for one in self.members
            if one.obligation == "answer" and one.wanted
            for fd, target in self._reader.fd_links(one.id.pid)
            if fd == STDIN and target.startswith("pipe:[")
        }
        readers = {one.id.pid for one in self.members}
        for pid in self._reader.pids() if pipes else ():
            ends = [fd for fd, target in self._reader.fd_links(pid) if target in pipes] if pid not in readers else []
            flags = [info.flags for fd in ends if (info := self._reader.fd_info(pid, fd)) is not None]
            if any(flag is not None and flag & os.O_ACCMODE for flag in flags):
                yield pid


def _name(argv: Sequence[str], exe: str | None, *, subject: bool) -> str:
    if subject:
        return next((word for word in argv[1:] if word in WORDS), "opencode")
    return PurePath(argv[0]).name[:40] if argv else PurePath(exe or "unknown").name


def _absolute(text: str | None) -> Path | None:
    return Path(text) if text and text.startswith("/") else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _lock_keys(one: Stranger) -> Iterable[str]:
    folders = [one.config_home / "opencode"] if one.config_home else []
    folders += [one.home / ".opencode"] if one.home else []
    work = _absolute(one.cwd)
    folders += [folder / ".opencode" for folder in (work, *work.parents)] if work else []
    return (f"npm-install:{folder}" for folder in folders)

"""What this machine can observe, and what is lost where it cannot. It asks, it never fails.

Sources: proc(5), ptrace(2) (Yama), proc_locks(5), user_namespaces(7), cgroups(7).
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import psutil

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.observe import procfs
from pytest_ocrepro.platforms import UNKNOWN_ON_MACOS
from pytest_ocrepro.stage import cache, subject
from pytest_ocrepro.versions import programs, releases

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_ocrepro.readings import ThreadReading

REGISTRY_TIMEOUT_S = 10.0
_SELF_TEST_S: Final = 2.0
_GIBIBYTE: Final = 1 << 30
_ENOUGH_MEMORY_BYTES: Final = 2 * _GIBIBYTE  # six processes of 290 MB resident each
_ENOUGH_DISK_BYTES: Final = _GIBIBYTE  # one build unpacked, its tarball twice, and reports
_NO_PTRACE: Final = 3


class Level(StrEnum):
    """How much of it is there."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One ability of the machine; ``lost`` and ``remedy`` are "" where nothing is lost."""

    name: str
    value: str
    level: Level
    lost: str = ""
    remedy: str = ""


def examine(*, offline: bool = False, root: str = "/proc", cache_dir: str | Path | None = None) -> tuple[Check, ...]:
    """Look at everything, in at most about 15 s. ``root`` is where proc(5) is mounted. Never raises."""
    proc = _Proc(root)
    looks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("platform", _platform),
        ("cores", _cores),
        ("memory", _memory),
        ("ptrace-scope", proc.ptrace_scope),
        ("thread-state", proc.thread_state),
        ("file-locks", proc.file_locks),
        ("hidepid", proc.hidepid),
        ("user-namespaces", proc.user_namespaces),
        ("cgroup2", proc.cgroup2),
        ("npm", _npm),
        ("registry", lambda: _registry(offline=offline, cache_dir=cache_dir)),
        ("cache", lambda: _cache(cache_dir)),
    )
    return tuple(_safely(name, look) for name, look in looks)


def render(checks: tuple[Check, ...]) -> str:
    """Lines for people: name, level and value; below it what is lost and how to get it."""
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        lines.append(f"{check.name:{width}}  {check.level:7}  {check.value}")
        indent = " " * (width + 11)
        lines += [f"{indent}lost: {check.lost}"] if check.lost else []
        lines += [f"{indent}to get it: {check.remedy}"] if check.remedy else []
    return "\n".join(lines)


def as_json(checks: tuple[Check, ...]) -> str:
    """The records as a JSON array."""
    return msgspec.json.format(msgspec.json.encode(checks), indent=1).decode()


def _safely(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 a doctor who falls ill at one organ still examines the others
        why = " ".join(str(error).split())
        return Check(
            name=name,
            value=f"could not be told: {type(error).__name__}: {why}",
            level=Level.MISSING,
            lost="this check",
            remedy="please report this line",
        )


# --- below: the machine


def _platform() -> Check:
    shown = f"{platform.system()} {platform.release()}, {platform.machine()}, Python {platform.python_version()}"
    try:
        package = releases.platform_package(releases.this_machine())
    except BuildError as error:
        return Check(name="platform", value=shown, level=Level.MISSING, lost="any published build", remedy=str(error))
    if platform.system() != "Linux":
        lost = f"of a hung process: {UNKNOWN_ON_MACOS}"
        return Check(
            name="platform", value=f"{shown}, {package}", level=Level.LIMITED, lost=lost, remedy="run on Linux"
        )
    return Check(name="platform", value=f"{shown}, {package}", level=Level.OK)


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable > 1:
        return Check(name="cores", value=str(usable), level=Level.OK)
    lost = "races that need two processes at the same instant are rarer; starts are slower"
    return Check(name="cores", value="1", level=Level.LIMITED, lost=lost, remedy="use a machine with two or more")


def _memory() -> Check:
    available = psutil.virtual_memory().available
    value = f"{available / _GIBIBYTE:.1f} GiB available"
    if available >= _ENOUGH_MEMORY_BYTES:
        return Check(name="memory", value=value, level=Level.OK)
    lost = "scenarios with many processes: each takes about 290 MB"
    return Check(name="memory", value=value, level=Level.LIMITED, lost=lost, remedy="free some, or run without -n")


# --- below: proc(5)


class _Proc:
    """Checks below one mount of proc(5)."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._reader = procfs.Reader(root)

    def _text(self, path: str) -> str | None:
        try:
            return Path(self._root, path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def ptrace_scope(self) -> Check:
        text = self._text("sys/kernel/yama/ptrace_scope")
        if text is None or not text.isdecimal():
            return Check(name="ptrace-scope", value="no Yama: no restriction", level=Level.OK)
        scope = int(text)
        if scope == 0:
            return Check(name="ptrace-scope", value="0: no restriction", level=Level.OK)
        if scope == 1:
            return Check(
                name="ptrace-scope",
                value="1: descendants only",
                level=Level.OK,  # every subject is beneath our supervisor, also when its parent has died
            )
        return Check(
            name="ptrace-scope",
            value=f"{scope}: {'nobody' if scope >= _NO_PTRACE else 'CAP_SYS_PTRACE only'}",
            level=Level.LIMITED,
            lost="system calls and their arguments of every thread (wchan, files and sockets remain)",
            remedy="sysctl kernel.yama.ptrace_scope=1" + (" and reboot" if scope >= _NO_PTRACE else ""),
        )

    def thread_state(self) -> Check:
        """Ask about a child that is known to sleep in read(2)."""
        main = self._of_sleeper()
        value = f"wchan {main.wchan or 'unreadable'}, syscall {main.syscall or 'unreadable'}" if main else ""
        if main is None:
            value, lost = "a child of ours cannot be read", "every proof of what a hung process waits in"
            return Check(
                name="thread-state",
                value=value,
                level=Level.MISSING,
                lost=lost,
                remedy="run on Linux with proc(5) mounted",
            )
        if main.wchan and main.syscall == "read":
            return Check(name="thread-state", value=value, level=Level.OK)
        lost = " and ".join(
            [
                *(["the kernel function that a thread sleeps in"] if not main.wchan else []),
                *(["the system call that it sleeps in"] if main.syscall != "read" else []),
            ]
        )
        return Check(
            name="thread-state",
            value=value,
            level=Level.LIMITED if main.wchan or main.syscall == "read" else Level.MISSING,
            lost=lost,
            remedy="run as the same user outside gVisor-like sandboxes; in containers allow SYS_PTRACE",
        )

    def _of_sleeper(self) -> ThreadReading | None:
        argv = [sys.executable, "-I", "-S", "-c", "import os; os.read(0, 1)"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:
            try:
                return self._settled(child.pid)
            finally:
                child.kill()

    def _settled(self, pid: int) -> ThreadReading | None:
        """The main thread once it sleeps in read, else as it is after two seconds."""
        deadline = time.monotonic() + _SELF_TEST_S
        while True:
            seen = self._reader.read_process(pid, role="self-test", is_subject=False, full=True, missing=[])
            if seen is None:  # it cannot have ended: it is still waiting for its input
                return None
            main = next((thread for thread in seen.threads if thread.tid == pid), None)
            asleep = main is not None and main.syscall == "read" and main.state == "S"
            if asleep or time.monotonic() > deadline:
                return main
            time.sleep(0.01)

    def file_locks(self) -> Check:
        """Take a lock ourselves and look for it."""
        with tempfile.TemporaryFile() as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            missing: list[str] = []
            found = [line for line in self._reader.locks(missing) if line.pid == os.getpid()]
        if found:
            return Check(name="file-locks", value="a lock of ours is listed", level=Level.OK)
        value = missing[0] if missing else "a lock of ours is not listed"
        lost = "who waits for a POSIX or flock lock (holders are still found by their open files)"
        return Check(
            name="file-locks",
            value=value,
            level=Level.MISSING,
            lost=lost,
            remedy="run in the outermost PID namespace (docker run --pid=host)",
        )

    def hidepid(self) -> Check:
        options = self._mount_options("proc")
        hidden = next((option for option in options if option.startswith("hidepid=")), "hidepid=0")
        if hidden in ("hidepid=0", "hidepid=off"):
            return Check(name="hidepid", value="off", level=Level.OK)
        lost = "processes of other users: who else holds a lock or a port"
        return Check(
            name="hidepid",
            value=hidden.removeprefix("hidepid="),
            level=Level.LIMITED,
            lost=lost,
            remedy="mount -o remount,hidepid=0 the proc file system, or run as root",
        )

    def user_namespaces(self) -> Check:
        most = self._text("sys/user/max_user_namespaces")
        debian = self._text("sys/kernel/unprivileged_userns_clone")
        ubuntu = self._text("sys/kernel/apparmor_restrict_unprivileged_userns")
        if most and most != "0" and debian != "0" and ubuntu != "1":
            return Check(name="user-namespaces", value="allowed", level=Level.OK)
        value = "restricted to root" if most and most != "0" else "not allowed"
        lost = "a network namespace around a trial (a proxy that refuses keeps it on loopback instead)"
        remedy = "sysctl user.max_user_namespaces=10000 kernel.apparmor_restrict_unprivileged_userns=0"
        return Check(name="user-namespaces", value=value, level=Level.LIMITED, lost=lost, remedy=remedy)

    def cgroup2(self) -> Check:
        own = self._reader.own_group()
        if own is not None and os.access(own, os.W_OK) and os.access(Path(own, "cgroup.procs"), os.W_OK):
            return Check(name="cgroup2", value=f"writable ({own})", level=Level.OK)
        value = "not mounted" if own is None else "not writable"
        lost = "a group around a trial that the kernel keeps (marker and sub-reaper find everything instead)"
        remedy = "systemd-run --user --scope -p Delegate=yes ..., or run as root"
        return Check(name="cgroup2", value=value, level=Level.LIMITED, lost=lost, remedy=remedy)

    def _mounts(self) -> list[list[str]]:
        lines = (self._text("self/mounts") or "").splitlines()
        return [words for words in map(str.split, lines) if len(words) > 3]  # noqa: PLR2004 fstab(5): four fields and two

    def _mount_options(self, kind: str) -> list[str]:
        return next((words[3].split(",") for words in self._mounts() if words[2] == kind), [])


# --- below: builds


def _npm() -> Check:
    try:
        command = releases.find_npm()
        done = programs.run_bounded([*command, "--version"], timeout_s=REGISTRY_TIMEOUT_S)
    except (BuildError, OSError) as error:
        return _no_npm(str(error))
    said = done.out.strip()
    if done.code != 0 or not said:
        return _no_npm(done.cut or f"{command[0]} ended with {done.code}")
    return Check(name="npm", value=f"{said} ({' '.join(command)})", level=Level.OK)


def _no_npm(value: str) -> Check:
    return Check(
        name="npm",
        value=value,
        level=Level.MISSING,
        lost="fetching builds (cached ones, PATH and --ocrepro-binary still work)",
        remedy="pip install 'pytest-ocrepro[npm]'",
    )


def _registry(*, offline: bool, cache_dir: str | Path | None) -> Check:
    if offline:
        return Check(name="registry", value="not asked (--offline)", level=Level.OK)
    package = releases.platform_package(releases.this_machine())
    lost, remedy = "fetching builds that are not cached", "check the network and `npm config get registry`"
    try:
        published = releases.obtain(package, cache_dir=cache_dir, timeout_s=REGISTRY_TIMEOUT_S)
    except BuildError as error:
        return Check(name="registry", value=str(error), level=Level.MISSING, lost=lost, remedy=remedy)
    if published.note:
        return Check(name="registry", value=published.note, level=Level.LIMITED, lost=lost, remedy=remedy)
    value = f"{len(published.versions)} versions of {package}, latest {published.latest}"
    return Check(name="registry", value=value, level=Level.OK)


def _cache(cache_dir: str | Path | None) -> Check:
    root = releases.cache_root(cache_dir)
    remedy = "set OCREPRO_CACHE_DIR to a directory of yours"
    try:
        cache.check_owner(root)
        releases.replace_file(root / "doctor", b"")
        (root / "doctor").unlink()
        free = shutil.disk_usage(root).free
    except (OSError, BuildError) as error:
        value = f"{root} is not writable ({error.strerror})" if isinstance(error, OSError) else str(error)
        return Check(name="cache", value=value, level=Level.MISSING, lost="fetching builds", remedy=remedy)
    have = ", ".join(record.version for record in subject.stored(cache_dir)) or "no builds"
    value = f"{root}, {free / _GIBIBYTE:.0f} GiB free; {have}"
    if free >= _ENOUGH_DISK_BYTES:
        return Check(name="cache", value=value, level=Level.OK)
    return Check(
        name="cache", value=value, level=Level.LIMITED, lost="room for another build", remedy="free some space"
    )

from __future__ import annotations

import json
import os
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from pytest_ocrepro import doctor
from pytest_ocrepro.doctor import Check, Level
from pytest_ocrepro.observe import procfs
from pytest_ocrepro.readings import ProcessId, ProcessReading, ThreadReading

STAND_IN = Path(__file__).parent / "data/subject/stand_in_npm.py"
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 the shape of shutil.disk_usage


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in npm first on PATH; returns the directory that it serves."""
    folder = tmp_path / "registry"
    folder.mkdir()
    shim = tmp_path / "bin/npm"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {STAND_IN} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_NPM", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    (folder / "1.2.0.tgz").touch()
    return folder


def proc(root: Path, **files: str) -> doctor._Proc:
    """A made-up /proc; ``__`` in a name is ``/``."""
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return doctor._Proc(str(root))


def complete(check: Check) -> bool:
    """What is not all there says what is lost and how to get it; what is there does not."""
    return bool(check.lost and check.remedy) if check.level is not Level.OK else not check.lost


def test_this_machine_is_examined_in_full(registry: Path) -> None:
    checks = doctor.examine()
    assert [check.name for check in checks] == [
        "platform", "cores", "memory", "ptrace-scope", "thread-state", "file-locks", "hidepid", "user-namespaces",
        "cgroup2", "npm", "registry", "cache",
    ]  # fmt: skip
    assert all(complete(check) and "\n" not in check.value for check in checks)
    assert not [check for check in checks if check.value.startswith("could not be told")]


def test_nothing_is_known_of_an_empty_proc_and_nothing_fails(registry: Path, tmp_path: Path) -> None:
    checks = {check.name: check for check in doctor.examine(root=str(tmp_path / "nothing"), offline=True)}
    assert checks["thread-state"].level is Level.MISSING
    assert checks["file-locks"].level is Level.MISSING
    assert checks["ptrace-scope"].value == "no Yama: no restriction"
    assert checks["cgroup2"].value == "not mounted"
    assert checks["registry"].value == "not asked (--offline)"
    assert all(map(complete, checks.values()))


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("what\never")

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    memory = next(check for check in doctor.examine(offline=True) if check.name == "memory")
    assert memory.value == "could not be told: ZeroDivisionError: what ever"
    assert memory.level is Level.MISSING


@pytest.mark.parametrize(
    ("scope", "level", "words"),
    [
        ("0", Level.OK, "no restriction"),
        ("1", Level.OK, "descendants only"),
        ("2", Level.LIMITED, "CAP_SYS_PTRACE only"),
        ("3", Level.LIMITED, "nobody"),
        ("garbage", Level.OK, "no Yama"),
    ],
)
def test_ptrace_scope(tmp_path: Path, scope: str, level: Level, words: str) -> None:
    check = proc(tmp_path, sys__kernel__yama__ptrace_scope=f"{scope}\n").ptrace_scope()
    assert check.level is level
    assert words in check.value
    assert complete(check)


@pytest.mark.parametrize(
    ("wchan", "syscall", "level", "lost"),
    [
        ("anon_pipe_read", "read", Level.OK, ""),
        (None, "read", Level.LIMITED, "the kernel function that a thread sleeps in"),
        ("pipe_read", None, Level.LIMITED, "the system call that it sleeps in"),
        (
            None,
            None,
            Level.MISSING,
            "the kernel function that a thread sleeps in and the system call that it sleeps in",
        ),
    ],
)
def test_thread_state_is_tried_on_a_sleeping_child(
    monkeypatch: pytest.MonkeyPatch, wchan: str | None, syscall: str | None, level: Level, lost: str
) -> None:
    def read(_: procfs.Reader, pid: int, **__: object) -> ProcessReading:
        main = ThreadReading(tid=pid, name="python", state="S", wchan=wchan, syscall=syscall)
        identity = ProcessId(pid=pid, start_ticks=1)
        return ProcessReading(id=identity, role="", name="", parent_pid=1, session_pid=1, state="S", threads=(main,))

    monkeypatch.setattr(procfs.Reader, "read_process", read)
    monkeypatch.setattr(doctor, "_SELF_TEST_S", 0.0)
    check = doctor._Proc("/proc").thread_state()
    assert (check.level, check.lost) == (level, lost)
    assert complete(check)


def test_the_sleeping_child_is_gone_afterwards() -> None:
    before = psutil.Process().children()
    check = doctor._Proc("/proc").thread_state()
    assert check.value.startswith("wchan ")
    assert psutil.Process().children() == before


def test_a_lock_of_ours_must_be_listed(tmp_path: Path) -> None:
    line = "1: POSIX  ADVISORY  WRITE {} 00:1f:42 0 EOF\n"
    assert proc(tmp_path / "with", locks=line.format(os.getpid())).file_locks().level is Level.OK
    other = proc(tmp_path / "without", locks=line.format(1)).file_locks()
    assert (other.level, other.value) == (Level.MISSING, "a lock of ours is not listed")


@pytest.mark.parametrize(
    ("options", "level", "value"),
    [
        ("rw,relatime", Level.OK, "off"),
        ("rw,hidepid=off", Level.OK, "off"),
        ("rw,hidepid=2", Level.LIMITED, "2"),
        ("rw,hidepid=invisible", Level.LIMITED, "invisible"),
    ],
)
def test_hidepid(tmp_path: Path, options: str, level: Level, value: str) -> None:
    check = proc(tmp_path, self__mounts=f"sysfs /sys sysfs rw 0 0\nproc /proc proc {options} 0 0\n").hidepid()
    assert (check.level, check.value) == (level, value)


@pytest.mark.parametrize(
    ("files", "level"),
    [
        ({"sys__user__max_user_namespaces": "96365\n"}, Level.OK),
        ({"sys__user__max_user_namespaces": "0\n"}, Level.LIMITED),
        ({}, Level.LIMITED),
        ({"sys__user__max_user_namespaces": "9", "sys__kernel__unprivileged_userns_clone": "0"}, Level.LIMITED),
        (
            {"sys__user__max_user_namespaces": "9", "sys__kernel__apparmor_restrict_unprivileged_userns": "1"},
            Level.LIMITED,
        ),
    ],
)
def test_user_namespaces(tmp_path: Path, files: dict[str, str], level: Level) -> None:
    check = proc(tmp_path, **files).user_namespaces()
    assert check.level is level
    assert complete(check)


def test_cgroup2_is_writable_only_with_its_process_list(tmp_path: Path) -> None:
    group = tmp_path / "cgroup/ours"
    group.mkdir(parents=True)
    mounts = f"cgroup2 {tmp_path}/cgroup cgroup2 rw 0 0\n"
    made_up = proc(tmp_path / "proc", self__mounts=mounts, self__cgroup="3:cpu:/\n0::/ours\n")
    assert made_up.cgroup2().value == "not writable"
    (group / "cgroup.procs").touch()
    assert made_up.cgroup2().value == f"writable ({group})"


def test_the_registry_answers_or_its_error_is_the_value(registry: Path) -> None:
    assert doctor._registry(offline=False, cache_dir=None).value.startswith("1 versions of opencode-")
    (registry / "plan.json").write_text(json.dumps({"view": "ECONNREFUSED"}))
    stale = doctor._registry(offline=False, cache_dir=None)
    assert (stale.level, complete(stale)) == (Level.LIMITED, True)
    (registry.parent / "cache/releases").rename(registry.parent / "cache/gone")
    missing = doctor._registry(offline=False, cache_dir=None)
    assert missing.level is Level.MISSING
    assert "ECONNREFUSED" in missing.value


def test_npm_is_found_or_the_extra_is_named(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._npm().value == f"11.0.0 ({registry.parent}/bin/npm)"
    (registry.parent / "bin/npm").write_text("#!/bin/sh\nexit 127\n")
    assert doctor._npm().value.endswith("bin/npm ended with 127")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'pytest-ocrepro[npm]'" in doctor._npm().remedy
    assert doctor._npm().level is Level.MISSING


def test_a_cache_that_others_may_write_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o770)
    check = doctor._cache(tmp_path / "shared")
    assert check.level is Level.MISSING
    assert f"chmod go-w {tmp_path / 'shared'}" in check.value


def test_the_cache_is_tried_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = doctor._cache(tmp_path / "new")
    assert check.level is Level.OK
    assert check.value.endswith("GiB free; no builds")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    broken = doctor._cache(tmp_path / "file/below")
    assert broken.value.endswith("is not writable (Not a directory)")
    assert complete(broken)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(9, 9, 1000))
    assert doctor._cache(tmp_path / "new").level is Level.LIMITED


def test_small_machines_are_told_what_they_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 29))
    for check in (doctor._cores(), doctor._memory()):
        assert check.level is Level.LIMITED
        assert complete(check)


@pytest.mark.parametrize(
    ("system", "level"), [("Windows", Level.MISSING), ("Darwin", Level.LIMITED), ("Linux", Level.OK)]
)
def test_platforms(monkeypatch: pytest.MonkeyPatch, system: str, level: Level) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    check = doctor._platform()
    assert check.level is level
    assert complete(check)


def test_text_and_json_carry_the_same(registry: Path) -> None:
    checks = (
        Check(name="npm", value="11", level=Level.OK),
        Check(name="cgroup2", value="not mounted", level=Level.LIMITED, lost="a group", remedy="mount it"),
    )
    assert doctor.render(checks).splitlines() == [
        "npm      ok       11",
        "cgroup2  limited  not mounted",
        "                  lost: a group",
        "                  to get it: mount it",
    ]
    assert msgspec.json.decode(doctor.as_json(checks), type=tuple[Check, ...]) == checks

"""``ocrepro dump`` on stand-ins that somebody else (this file) has started."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pytest_ocrepro import attach, diagnosis
from pytest_ocrepro.cli import main
from pytest_ocrepro.diagnosis import Wish, diagnose, targets, version_of
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.events import IntrusionBegun
from pytest_ocrepro.judge import serving
from pytest_ocrepro.observe import intrusive
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.rejudgement import rejudge
from pytest_ocrepro.publish.rules import read_rules
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.subject import PINNED, fetch

PROGRAM = Path(__file__).parent / "data/attach/stand_in_opencode.py"
STARTING = "message=loading path={home}/project/.opencode/opencode.json"
SECRET = "hunter2-is-no-token-shape"
OWN_NAME = Path((Reader().argv(os.getpid()) or ("",))[0]).name
ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user or make namespaces here")

Stranger = subprocess.Popen[str]


class Machine:
    """Somebody's home, the opencodes in it, and what was said of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: list[Stranger] = []
        self.said: list[str] = []
        self.complaints: list[str] = []
        self.reports = home / "reports"
        (home / "project/.opencode").mkdir(parents=True)
        self.key = f"npm-install:{home}/project/.opencode"

    def start(
        self,
        *plan: Sequence[object],
        command: Sequence[str] = ("run", "-m", "bogus/x", "hi"),
        before: Sequence[str] = (),
        stdin: int = subprocess.DEVNULL,
        **environment: str,
    ) -> Stranger:
        """An opencode with this plan; returns when it has done all of it. ``before``: a command that starts it."""
        argv, executable = ["opencode", str(PROGRAM), *command], sys.executable
        if before:
            argv, executable = [*before, sys.executable, "-c", BECOME, *argv], before[0]
        process = subprocess.Popen(
            argv,
            executable=executable,
            stdin=stdin,
            stdout=subprocess.PIPE,
            cwd=self.home / "project",
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.home), "PLAN": json.dumps(plan), **environment},
        )
        self.running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        return process

    def diagnose(self, *pids: int, **more: Any) -> int:
        wish = Wish(pids=pids, reports=self.reports, **{"deadline_s": 1.6, **more})
        return diagnose(wish, tell=self.said.append, complain=self.complaints.append)

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def bundle(self) -> Path:
        (path,) = RunDir.read(self.reports).bundles()
        return path

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


BECOME = "import os, sys; os.execv(sys.executable, sys.argv[1:])"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(attach, "LOOKS_S", (0.0, 1.1, 1.1))
    found = Machine(tmp_path / "ann")
    yield found
    found.end()


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts (the kernel does) and never answers; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def prints(folder: Path) -> dict[str, tuple[int, str]]:
    """Everything below: (mtime, hash); of directories their mtime and names."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = "\n".join(sorted(map(str, path.iterdir()))).encode() if path.is_dir() else path.read_bytes()
        found[str(path)] = (path.stat().st_mtime_ns, hashlib.sha256(content).hexdigest())
    return found


def chain_of(machine: Machine) -> tuple[str, ...]:
    judgement = TrialBundle.read(machine.bundle()).judgement
    assert judgement is not None
    return judgement.chain


def test_the_chain_from_the_waiter_to_the_silent_address(machine: Machine, tmp_path: Path) -> None:
    with silent_server() as port:
        line = ("log", STARTING.format(home=machine.home), 60.0)
        first = machine.start(line, ("take", machine.key), ("connect", port), ("database",))
        second = machine.start(line, ("database",))
        before = prints(machine.home)
        code = machine.diagnose(second.pid)
        assert code == 1
        after = {path: seen for path, seen in prints(machine.home).items() if "/reports" not in path}
        assert after == before
        assert (first.poll(), second.poll()) == (None, None)
    chain = chain_of(machine)
    assert [re.sub(r" \(silent for \d+ s\)$", "", link.split(" [")[0]) for link in chain[:3]] == [
        f"run-{second.pid} (pid {second.pid}) waits for lock directory npm-install:~/project/.opencode",
        f"lock directory npm-install:~/project/.opencode is held by run-{first.pid} (pid {first.pid})",
        f"run-{first.pid} (pid {first.pid}) waits for an answer of 127.0.0.1:{port}",
    ]
    assert f"is served by {OWN_NAME}-{os.getpid()} (pid {os.getpid()})" in chain[3]
    first_sentence = f"reproduced: run-{second.pid} (pid {second.pid}) waits for lock directory npm-install:"
    assert machine.text.index(first_sentence) < machine.text.index("started "), "the root cause comes first"
    assert "verdict: blocked (" in machine.text
    assert "waits for a signal, for ever; never woke" in machine.text
    assert "~/.local/share/opencode/log/opencode.log, ends:" in machine.text
    assert "report: file://" in machine.said[-1]


def test_what_is_stored_is_judged_the_same_again_and_has_a_page(machine: Machine) -> None:
    waiter = machine.start(("log", STARTING.format(home=machine.home), 60.0), ("take", machine.key, 1))
    assert machine.diagnose(waiter.pid) == 1
    found = rejudge(machine.bundle())
    assert found.encoded == (machine.bundle() / "judgement.json").read_bytes()
    page = (RunDir.read(machine.reports).path / "report.html").read_text()
    assert "opencode processes that were running" in page
    assert "nothing was sent to them" in page
    assert f"run-{waiter.pid}" in page
    (result,) = RunDir.read(machine.reports).results()
    assert (result.result, result.verdict, result.scenario) == ("reproduced", "blocked", "dump")


def test_secrets_of_a_foreign_key_file_and_what_the_user_names_are_secrets(machine: Machine) -> None:
    keys = machine.home / ".local/share/opencode/auth.json"
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.write_text(json.dumps({"anthropic": {"type": "api", "key": SECRET}}))
    line = ("log", f"message=loading path=/x/{SECRET}/CUST-1234", 60.0)
    process = machine.start(line, command=("run", "CUST-4321"))
    rules = read_rules([r"customer = CUST-\d+"], "here")
    assert machine.diagnose(process.pid, rules=rules) == 1
    files = [path for path in machine.reports.rglob("*") if path.is_file()]
    assert len(files) > 5
    for secret in (SECRET, "CUST-1234", "CUST-4321"):
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert secret not in machine.text
    assert "[masked:auth.json-anthropic-key]" in machine.text
    assert "[masked:customer]" in machine.text


def test_secrets_of_a_foreign_environment_are_secrets(machine: Machine) -> None:
    process = machine.start(
        ("log", f"message=loading path=/x/{SECRET}/y", 60.0),
        command=("run", "-m", "x/y", f"use {SECRET}"),
        MY_API_KEY=SECRET,
    )
    assert machine.diagnose(process.pid) == 1
    files = [path for path in machine.reports.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in machine.text
    assert "[masked:MY_API_KEY]" in machine.text
    assert str(machine.home) not in machine.text.replace(f"file://{machine.reports}", "").replace(
        str(machine.reports), ""
    )


SERVER = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


def test_what_was_said_before_a_secret_was_known_is_masked_too(machine: Machine, tmp_path: Path) -> None:
    """Only a full look shows who serves a connection, and what is secret in that one's environment."""
    bob = tmp_path / "bob"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HOME": str(bob), "A_TOKEN": SECRET},
    )
    try:
        assert server.stdout is not None
        line = ("log", f"message=loading path={bob}/x {SECRET}", 60.0)
        plan = (line, ("connect", int(server.stdout.readline())))
        process = machine.start(*plan, command=("run", f"compare {bob}/y with {SECRET}"))
        assert machine.diagnose(process.pid) == 1
    finally:
        server.kill()
        server.communicate()
    files = [path for path in machine.reports.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in machine.text
    assert "compare ~/y with [masked:A_TOKEN]" in " ".join(machine.text.split())
    assert rejudge(machine.bundle()).encoded == (machine.bundle() / "judgement.json").read_bytes()


def test_one_that_works_is_not_called_hung(machine: Machine) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 600.0), ("beat",))
    assert machine.diagnose(process.pid) == 0
    assert "verdict: alive" in machine.text
    assert "not-seen: 1 claim(s) held" in machine.text


def test_a_silence_short_of_the_deadline_cannot_be_told(machine: Machine) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 30.0))
    assert machine.diagnose(process.pid, deadline_s=100.0) == 2
    assert "no progress for " in machine.text
    assert "silence alone is called a hang after 100 s of it (--deadline)" in machine.text
    assert "inconclusive: could not be told" in machine.text


@pytest.mark.parametrize("option", ["--deadline", "--timeout"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_what_is_no_length_of_time_is_refused(option: str, value: str) -> None:
    result = CliRunner().invoke(main, ["dump", "--pid", str(os.getpid()), option, value])
    assert result.exit_code == 2
    assert f"{value} is no length of time; give seconds above 0" in " ".join(result.output.split())


def test_what_a_process_did_before_we_came_may_not_be_known(machine: Machine) -> None:
    process = machine.start(("say", "started"))
    assert machine.diagnose(process.pid, deadline_s=20.0) == 2
    assert "our first look; what it did before is not known" in machine.text


def test_an_interactive_session_owes_nothing(machine: Machine) -> None:
    process = machine.start(("log", "message=init", 900.0), command=())
    assert machine.diagnose(process.pid) == 0
    assert f"opencode-{process.pid} (pid {process.pid})" in machine.text


@pytest.mark.parametrize(("callers", "deadline_s", "code"), [(0, 1.6, 0), (2, 1.6, 1), (2, 900.0, 2)])
def test_a_server_owes_answers_to_those_in_its_backlog(  # each argument is one side of the case
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callers: int, deadline_s: float, code: int
) -> None:
    monkeypatch.setattr(serving, "STILL_S", 1.0)
    monkeypatch.setattr(attach, "STILL_LOOKS_S", (0.6,))
    file = tmp_path / "port"
    server = machine.start(("log", "message=init", 60.0), ("listen", str(file)), command=("serve", "--port", "0"))
    address = ("127.0.0.1", int(file.read_text()))
    clients = [socket.create_connection(address) for _ in range(callers)]
    try:
        assert machine.diagnose(server.pid, deadline_s=deadline_s) == code
    finally:
        for client in clients:
            client.close()
    assert f"serve-{server.pid}" in machine.text
    assert ("connections wait to be accepted for" in machine.text) == bool(callers)


def test_a_lock_directory_of_a_dead_holder_is_a_finding(machine: Machine) -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    process = machine.start(("log", STARTING.format(home=machine.home), 3.0), ("take", machine.key, gone.pid))
    assert machine.diagnose(process.pid, deadline_s=600.0) == 2, "it breaks itself before the deadline"
    text = " ".join(machine.text.split())
    claim = '"no lock directory is left behind" does not hold: npm-install:~/project/.opencode'
    assert f"{claim}: left by pid {gone.pid}" in text
    judgement = TrialBundle.read(machine.bundle()).judgement
    assert judgement is not None
    assert "stale-lock-directory" in [finding.kind for finding in judgement.findings]
    assert f"pid {gone.pid}, which is dead; the lock breaks itself in about" in text


def test_standard_input_that_is_kept_open_and_by_whom(machine: Machine) -> None:
    process = machine.start(
        ("log", "message=bootstrapping", 60.0), stdin=subprocess.PIPE, READS_STDIN="1", command=("run", "hi")
    )
    reader = Reader()
    until(
        lambda: (
            (reader.read_process(process.pid, role="x", is_subject=True, full=True, missing=[]) or True)
            and asleep_in_read(process.pid)
        ),
        timeout_s=10,
        what="it reads",
    )
    assert machine.diagnose(process.pid, deadline_s=900.0) == 2, "it may yet be written"
    assert "verdict: alive" in machine.text
    assert machine.diagnose(process.pid) == 1
    assert "verdict: waiting-for-input (proved)" in machine.text
    assert f"(pid {os.getpid()})" in machine.text


def asleep_in_read(pid: int) -> bool:
    reading = Reader().read_process(pid, role="x", is_subject=True, full=True, missing=[])
    return reading is not None and reading.threads[0].syscall == "read"


def test_a_tool_that_runs_is_no_hang(machine: Machine) -> None:
    process = machine.start(("log", "message=bootstrapping", 900.0), ("tool",))
    child = Reader().children_of(process.pid)
    try:
        assert machine.diagnose(process.pid) == 2
    finally:
        os.kill(child[0], signal.SIGKILL)
    assert f"waits for its tool sleep-{child[0]} (pid {child[0]})" in " ".join(machine.text.split())
    assert "nobody knows how long that is to take" in " ".join(machine.text.split())


def test_opencodes_that_share_a_place_come_along_and_others_do_not(machine: Machine, tmp_path: Path) -> None:
    elsewhere = Machine(tmp_path / "bob")
    try:
        asked = machine.start(("log", "message=bootstrapping", 1.0), ("database",))
        beside = machine.start(("log", "message=bootstrapping", 900.0), ("database",), command=())
        other = elsewhere.start(("log", "message=bootstrapping", 900.0), ("database",))
        machine.diagnose(asked.pid, deadline_s=900.0)
    finally:
        elsewhere.end()
    assert f"(pid {beside.pid})" in machine.text
    assert f"(pid {other.pid})" not in machine.text


def test_all_takes_every_opencode_that_can_be_seen(machine: Machine, tmp_path: Path) -> None:
    one = machine.start(("log", "message=bootstrapping", 60.0))
    other = Machine(tmp_path / "bob")
    try:
        two = other.start(("log", "message=bootstrapping", 60.0))
        assert machine.diagnose(everything=True) == 1
    finally:
        other.end()
    for process in (one, two):
        assert f"run-{process.pid} (pid {process.pid}), started" in machine.text


# --- what is asked for may not be there -------------------------------------------------------------------------


def test_pids_that_are_no_opencode_are_told_and_the_others_are_looked_at(machine: Machine) -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    zombie = subprocess.Popen(["/bin/true"])
    until(lambda: Reader().state(zombie.pid) == "Z", timeout_s=10, what="it ends")
    with subprocess.Popen(["/bin/sleep", "60"]) as sleep:
        healthy = machine.start(("log", "message=bootstrapping"), ("beat",))
        assert machine.diagnose(gone.pid, zombie.pid, sleep.pid, healthy.pid) == 2
        sleep.kill()
    zombie.wait()
    assert machine.complaints == [
        f"there is no process {gone.pid}",
        f"process {zombie.pid} (true) has ended and waits for its parent {os.getpid()} to notice",
        f"process {sleep.pid} (sleep) is no opencode and has none beneath it",
    ]
    assert f"run-{healthy.pid}" in machine.text


def test_nobody_is_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.diagnose(4_000_000) == 2
    assert machine.complaints == ["there is no process 4000000"]
    monkeypatch.setattr(Reader, "pids", lambda _: [])
    assert machine.diagnose(everything=True) == 0
    assert machine.said == ["no opencode process can be seen"]
    assert not machine.reports.exists()


def test_the_opencode_beneath_a_wrapper_is_meant(machine: Machine) -> None:
    process = machine.start(("log", "message=bootstrapping"), before=("/usr/bin/env", "--"), command=("run", "x"))
    reader = Reader()
    assert targets(reader, [process.pid], everything=False) == ([process.pid], [])
    parent = os.getpid()
    found, _ = targets(reader, [parent], everything=False)
    assert process.pid in found


def test_a_process_that_ends_while_we_look_is_no_hang(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    process = machine.start(("log", "message=bootstrapping", 60.0))
    looked = attach.Attachment.look

    def look(self: attach.Attachment) -> Any:
        snapshot = looked(self)
        process.kill()
        process.wait()
        return snapshot

    monkeypatch.setattr(attach.Attachment, "look", look)
    assert machine.diagnose(process.pid) == 0


def test_which_build_it_is(tmp_path: Path) -> None:
    package = tmp_path / "opencode-linux-x64"
    (package / "bin").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "opencode-linux-x64", "version": "1.15.4"}')
    assert version_of(str(package / "bin/opencode")) == "1.15.4"
    (package / "package.json").write_text('{"name": "another"}')
    assert version_of(str(package / "bin/opencode")) == ""
    (package / "package.json").write_text("rubbish")
    assert version_of("/opt/opencode-1.14.48/bin/opencode") == "1.14.48"
    assert version_of(None) == ""


# --- what stands in the way -------------------------------------------------------------------------------------


@pytest.fixture
def anothers() -> Iterator[Stranger]:
    """An opencode of another user: a shell, since that user may not even see our Python."""
    argv = ["opencode", "-c", "read line", "run", "hi"]
    with subprocess.Popen(
        argv, executable="/bin/sh", stdin=subprocess.PIPE, user=65534, group=65534, extra_groups=[], text=True
    ) as process:
        yield process
        process.kill()


# Root without the rights that make it more than a user among others (capabilities(7))
AS_A_USER = (
    "setpriv",
    "--regid=1",
    "--clear-groups",
    "--bounding-set=-sys_ptrace,-dac_override,-dac_read_search,-perfmon,-sys_admin",
)


@needs_root
def test_another_users_process_gives_what_it_gives(anothers: Stranger, tmp_path: Path) -> None:
    """The threads' states are there, the files are not; nothing is called hung."""
    result = dump(tmp_path, "--pid", str(anothers.pid), "--deadline", "1.6", before=AS_A_USER)
    assert (result.returncode, result.stderr) == (2, "")
    text = " ".join(result.stdout.split())
    assert f"run-{anothers.pid} (pid {anothers.pid})" in text
    assert "its descriptors cannot be read: whether it makes progress cannot be told" in text
    assert f"pid {anothers.pid}: its environment cannot be read: where its lock directories are is unknown" in text
    assert f"pid {anothers.pid}: fd: Permission denied" in text
    assert "threads: 1, looked at 4 times" in text
    assert "log: not known to be its own, or it could not be read" in text


@needs_root
def test_hidden_processes_are_not_called_gone(anothers: Stranger, tmp_path: Path) -> None:
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh", *AS_A_USER)
    result = dump(tmp_path, "--pid", str(anothers.pid), before=hide)
    assert result.returncode == 2
    assert f"there is no process {anothers.pid} or hidden from you (/proc is mounted with hidepid=" in result.stderr
    result = dump(tmp_path, "--all", before=hide)
    assert f"run-{anothers.pid}" not in result.stdout


@needs_root
@pytest.mark.parametrize("proc", [(), ("--mount-proc",)])
def test_a_container_is_told_and_its_files_are_not_mistaken_for_ours(machine: Machine, proc: tuple[str, ...]) -> None:
    """Its pids, and with a mount namespace its paths too, mean something else here."""
    before = ("/usr/bin/unshare", "--pid", "--fork", *proc)
    wrapper = machine.start(("log", STARTING.format(home=machine.home), 60.0), ("take", machine.key), before=before)
    (inner,) = targets(Reader(), [wrapper.pid], everything=False)[0]
    try:
        assert machine.diagnose(wrapper.pid) in (1, 2)
    finally:
        os.kill(inner, signal.SIGKILL)
    text = " ".join(machine.text.split())
    what = "file system" if proc else "process numbers"
    assert f"pid {inner}: it has {what} of its own (a container)" in text
    assert "but for an open log its files were not read, look inside of it" in text
    assert f"run-{inner} (pid {inner})" in text
    assert "threads: 1, looked at 3 times" in text
    assert "waits for lock directory" not in text


def dump(folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    argv = [*before, sys.executable, "-m", "pytest_ocrepro.cli", "dump", "--reports", str(folder / "r"), *arguments]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


def made_up(root: Path, pid: int, scope: str) -> Reader:
    """/proc as it is, but with Yama's switch, and system calls that cannot be read."""
    (root / "sys/kernel/yama").mkdir(parents=True)
    (root / "sys/kernel/yama/ptrace_scope").write_text(scope)
    shutil.copytree(
        "/proc/sys/kernel/random",
        root / "sys/kernel/random",
        dirs_exist_ok=True,
        ignore=lambda *_: ["write_wakeup_threshold"],
    )
    (root / "self").symlink_to("/proc/self")
    (root / "locks").symlink_to("/proc/locks")
    task = root / str(pid) / "task" / str(pid)
    task.mkdir(parents=True)
    for name in os.listdir(f"/proc/{pid}"):  # noqa: PTH208
        if name != "task":
            (root / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")
    for name in ("stat", "status", "wchan", "schedstat", "comm"):
        (task / name).symlink_to(f"/proc/{pid}/task/{pid}/{name}")
    (task / "syscall").mkdir()
    return Reader(str(root))


@pytest.mark.parametrize(("scope", "words"), [("1", "lets only their ancestors"), ("3", "lets nobody but root")])
def test_yama_is_named_where_system_calls_cannot_be_read(
    machine: Machine, tmp_path: Path, scope: str, words: str
) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0))
    reader = made_up(tmp_path / "proc", process.pid, scope)
    wish = Wish(pids=(process.pid,), reports=machine.reports, deadline_s=1.6)
    assert diagnose(wish, tell=machine.said.append, complain=machine.complaints.append, reader=reader) == 1
    text = " ".join(machine.text.split())
    assert f"Yama (kernel.yama.ptrace_scope is {scope}) {words} read system calls: run this as root" in text
    assert "waits for what cannot be read" in text


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (("database", {"rubbish": True}), "opencode.db: file is not a database"),
        (("database", {"exclusive": True}), "EXCLUSIVE"),
        (("large", "opencode.db", 5 << 30), f"not copied: {5 << 30} bytes, more than the limit of {512 << 20}"),
    ],
)
def test_databases_that_cannot_be_read(machine: Machine, plan: Sequence[object], words: str) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0), plan)
    assert machine.diagnose(process.pid) == 1
    assert words in " ".join(machine.text.split())
    assert not list(Path(tempfile.gettempdir()).glob("ocrepro-dump-*"))


def test_a_log_of_5_gb_and_one_of_rubbish(machine: Machine) -> None:
    large = machine.start(
        ("large", "log/opencode.log", 5 << 30), ("log", f"message=nothing\n{'x' * 9}"),
        ("log", STARTING.format(home=machine.home), 60.0),
    )  # fmt: skip
    assert machine.diagnose(large.pid) == 1
    assert "reached: config-loading" in machine.text
    assert sum(path.stat().st_size for path in machine.bundle().iterdir()) < 2_000_000


def test_a_log_that_ends_in_rubbish(machine: Machine) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0), ("rubbish",))
    assert machine.diagnose(process.pid) in (1, 2)
    assert f"run-{process.pid}" in machine.text
    assert "\x1b" not in machine.text


def test_ten_thousand_threads(machine: Machine) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0), ("threads", 10_000))
    assert machine.diagnose(process.pid) == 1
    text = " ".join(machine.text.split())
    assert f"pid {process.pid}: 9489 of 10001 threads were not read" in text
    assert "threads: 512, looked at 3 times" in text


def test_reports_that_cannot_be_written_are_told_after_the_diagnosis(machine: Machine) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0))
    machine.reports.write_text("in the way")
    with pytest.raises(UsageError, match="the reports directory"):
        machine.diagnose(process.pid)
    assert "verdict: " in machine.text


@pytest.mark.real
@pytest.mark.parametrize("version", ["1.14.48", PINNED])
def test_two_real_runs_that_hang_are_told_apart_and_left_as_they_are(tmp_path: Path, version: str) -> None:
    """The chain: the second, the lock directory of the first, the address that does not answer."""
    build = fetch(version)
    machine = Machine(tmp_path / "ann")
    with silent_server() as port:
        first = real_run(machine, build.path, port, "1")
        locks = machine.home / ".local/state/opencode/locks"
        until(lambda: locks.is_dir() and any(locks.glob("*.lock/meta.json")), timeout_s=60, what="the first locks")
        second = real_run(machine, build.path, port, "2")
        try:
            until(lambda: quiet(second.pid, machine.home), timeout_s=60, what="the second is quiet")
            kept = prints(machine.home)
            assert dump(tmp_path, "--pid", str(second.pid), "--deadline", "100").returncode == 2
            for number in range(3):  # a busy machine may leave no two looks to compare
                result = dump(tmp_path / f"{number}", "--pid", str(second.pid), "--deadline", "2")
                (path,) = RunDir.read(tmp_path / f"{number}/r").bundles()
                if rejudge(path).judgement.grade == "strong":
                    break
            assert (first.poll(), second.poll()) == (None, None)
            changed = {path for path, seen in prints(machine.home).items() if kept.get(path) != seen}
            assert all("/locks/" in path or "/tmp/" in path for path in changed), (
                "the heartbeat of the first, no more"
            )
            proved = dump(tmp_path / "proved", "--pid", str(second.pid), "--deadline", "2", "--intrusive")
            assert (first.poll(), second.poll()) == (None, None)
        finally:
            for run in (first, second):
                run.kill()
                run.wait()
    assert (result.returncode, result.stderr) == (1, "")
    judgement = rejudge(path).judgement
    assert rejudge(path).differs == ()
    assert (judgement.verdict, judgement.grade) == ("blocked", "strong")
    waits, held, silent, served = [link.split(" [")[0] for link in judgement.chain]
    assert waits.startswith(f"run-{second.pid} (pid {second.pid}) waits for lock directory npm-install:~/")
    assert held.endswith(f"is held by run-{first.pid} (pid {first.pid})")
    assert silent.startswith(
        f"run-{first.pid} (pid {first.pid}) waits for an answer of 127.0.0.1:{port} (silent for "
    )
    assert served.endswith(f"(pid {os.getpid()})")
    assert judgement.chain[0].partition(" [")[2].startswith("inferred: ")
    assert proved.returncode == 1
    (path_proved,) = RunDir.read(tmp_path / "proved/r").bundles()
    assert (
        rejudge(path_proved).judgement.chain[0].partition(" [")[2].startswith("proved: strace: 2 times mkdir of it")
    )
    assert f"opencode {version}" in (path.parent.parent / "report.html").read_text()


def real_run(machine: Machine, binary: str, port: int, name: str) -> subprocess.Popen[bytes]:
    plugin = machine.home / "project/.opencode/plugin/quiet.js"
    plugin.parent.mkdir(exist_ok=True)
    plugin.write_text("export const Quiet = async () => ({})\n")
    (machine.home / "tmp").mkdir(exist_ok=True)
    registry = f"http://127.0.0.1:{port}/"
    off = ("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_LSP_DOWNLOAD")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(machine.home),
        "TMPDIR": str(machine.home / "tmp"),
        "npm_config_registry": registry,
        "HTTP_PROXY": registry,
        "HTTPS_PROXY": registry,
        "NO_PROXY": "127.0.0.1,localhost",
        **dict.fromkeys(off, "1"),
    }
    with (machine.home / f"out-{name}").open("wb") as output:
        return subprocess.Popen(
            [binary, "run", "-m", f"bogus/nope-{name}", "hi"],
            env=environment,
            cwd=machine.home / "project",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def quiet(pid: int, home: Path) -> bool:
    """It has opened its database, and nobody has written a log line for two seconds."""
    logs = [path.stat().st_mtime for path in (home / ".local/share/opencode/log").glob("*.log")]
    opened = any(target.endswith("/opencode.db") for _, target in Reader().fd_links(pid))
    return opened and time.time() - max(logs) > 2.0


# --- the intrusive step -----------------------------------------------------------------------------------------


def test_the_intrusive_step_proves_a_waiter_and_says_that_it_may_have_disturbed(machine: Machine) -> None:
    holder = machine.start(("log", STARTING.format(home=machine.home), 60.0), ("take", machine.key), ("beat",))
    waiter = machine.start(("log", STARTING.format(home=machine.home), 60.0), ("poll", machine.key))
    assert machine.diagnose(waiter.pid, intrusive=True) == 1
    before, _, after = machine.text.partition("now with strace and gdb, which may disturb:")
    assert "inferred: its log ends at" in before
    assert f"run-{waiter.pid} (pid {waiter.pid})" in after.splitlines()[0]
    assert f"run-{holder.pid} (pid {holder.pid})" not in after.splitlines()[0], "it goes on: nobody touches it"
    assert "proved: strace: 2 times mkdir of it within" in after
    assert (holder.poll(), waiter.poll()) == (None, None)
    history = TrialBundle.read(machine.bundle()).history
    assert [event.tool for event in history.of_type(IntrusionBegun)] == ["strace", "gdb"]
    assert {event.pid for event in history.of_type(IntrusionBegun)} == {waiter.pid}
    page = (RunDir.read(machine.reports).path / "report.html").read_text()
    assert "Possibly disturbed" in page
    assert "nothing was sent to them" not in page
    assert f"native stacks of run-{waiter.pid}" in page
    assert rejudge(machine.bundle()).differs == ()


def test_without_strace_and_gdb_the_rest_goes_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0))
    monkeypatch.setenv("PATH", str(machine.home))
    assert machine.diagnose(process.pid, intrusive=True) == 1
    text = " ".join(machine.text.split())
    assert f"run-{process.pid} (pid {process.pid}): strace is not installed: this step was left out" in text
    assert f"run-{process.pid} (pid {process.pid}): gdb is not installed" in text


def test_a_core_lies_beside_the_bundle_and_only_its_size_is_on_the_page(machine: Machine) -> None:
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0), MY_API_KEY=SECRET)
    assert machine.diagnose(process.pid, core=True) == 1
    run = RunDir.read(machine.reports)
    core = run.path / f"core-{process.pid}"
    assert core.stat().st_mode & 0o777 == 0o600
    page = (run.path / "report.html").read_text()
    assert f"{core.stat().st_size} bytes in core-{process.pid}, beside the bundle; it holds the whole memory" in page
    assert SECRET.encode() in core.read_bytes(), "that is why"
    assert not [
        path
        for path in run.path.rglob("*")
        if path.is_file() and path != core and SECRET.encode() in path.read_bytes()
    ]


def test_without_being_asked_nobody_is_traced(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a tool was started")

    for name in ("trace", "native_stacks", "write_core"):
        monkeypatch.setattr(intrusive, name, refuse)
    process = machine.start(("log", STARTING.format(home=machine.home), 60.0))
    assert machine.diagnose(process.pid) == 1


# --- watching ---------------------------------------------------------------------------------------------------


def test_a_watch_ends_at_the_hang_and_stores_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "STEP_S", 0.2)
    monkeypatch.setattr(diagnosis, "LOOK_S", 0.6)
    monkeypatch.setattr(diagnosis, "QUIET_S", 1.0)
    process = machine.start(("log", STARTING.format(home=machine.home)))
    assert machine.diagnose(process.pid, watch=True, timeout_s=60.0, deadline_s=4.0) == 1
    assert "verdict: stalled (strong)" in machine.text
    assert rejudge(machine.bundle()).differs == ()


def test_a_watch_takes_in_new_processes_and_forgets_old_windows(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "STEP_S", 0.2)
    monkeypatch.setattr(diagnosis, "LOOK_S", 0.6)
    monkeypatch.setattr(diagnosis, "WINDOW_S", 0.1)
    monkeypatch.setattr(attach, "LOOKS_S", (0.0, 0.6))
    healthy = machine.start(("log", "message=bootstrapping"), ("beat",))
    windows: list[attach.Attachment] = []
    begun = attach.Attachment.__enter__

    def enter(self: attach.Attachment) -> attach.Attachment:
        windows.append(self)
        if len(windows) == 3:
            machine.start(("log", STARTING.format(home=machine.home), 60.0))
        return begun(self)

    monkeypatch.setattr(attach.Attachment, "__enter__", enter)
    monkeypatch.setattr(Reader, "pids", lambda _: [os.getpid(), *(one.pid for one in machine.running)])
    assert machine.diagnose(watch=True, everything=True, timeout_s=60.0) == 1
    assert len(windows) >= 3
    late = machine.running[-1]
    assert late is not healthy
    assert f'"run-{late.pid} goes on" does not hold: ' in " ".join(machine.text.split())


def test_a_watch_in_which_nothing_hangs_writes_nothing(machine: Machine) -> None:
    process = machine.start(("log", "message=bootstrapping"), ("beat",))
    assert machine.diagnose(process.pid, watch=True, timeout_s=0.1) == 0
    assert "nothing was seen to hang" in machine.text
    assert not machine.reports.exists()


def test_a_watch_ends_when_all_have_ended(machine: Machine) -> None:
    process = machine.start(("log", "message=bootstrapping"), ("beat",))
    threading.Timer(1.0, process.kill).start()
    assert machine.diagnose(process.pid, watch=True, timeout_s=60.0) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_that_is_stopped_leaves_nothing(machine: Machine, number: signal.Signals) -> None:
    process = machine.start(("log", "message=bootstrapping"), ("beat",), ("database",))
    argv = [sys.executable, "-m", "pytest_ocrepro.cli", "dump", "--watch", "--pid", str(process.pid)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=machine.home, start_new_session=True
    ) as watch:
        reader = Reader()
        until(lambda: bool(reader.children_of(watch.pid)), timeout_s=20, what="its deputy has begun")
        watch.send_signal(number)
        try:
            out, err = watch.communicate(timeout=20)
        finally:
            watch.kill()  # where the signal is ignored (nohup, a job in the background) it would stay
    assert (watch.returncode, out) == (2, "")
    assert err == ("ocrepro: stopped by Ctrl-C; nothing was written\n" if number is signal.SIGINT else "")
    assert not machine.reports.exists()
    assert not [pid for pid in reader.pids() if reader.session(pid) == watch.pid]
    assert process.poll() is None

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.events import OffLoopback, RegistryRequest, Trouble
from pytest_ocrepro.history import History
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.proctext import parse_net_tcp
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import NoInput, Process, until
from pytest_ocrepro.stage.provider import Provider
from pytest_ocrepro.stage.registry import Registry
from pytest_ocrepro.stage.sandbox import ALLOWED, Sandbox, make_sandbox, remove_leftovers
from pytest_ocrepro.stage.subject import resolve
from pytest_ocrepro.stage.supervisor import Supervisor

REGISTRY = "http://127.0.0.1:4873/"
WAIT_S = 20.0
CANARY = "canary-3b1f"
PLANTED = (
    "OPENCODE_CONFIG",
    "OPENCODE_CONFIG_CONTENT",
    "OPENCODE_DB",
    "OPENCODE_SERVER_PASSWORD",
    "OPENCODE_ANYTHING",
    "GITHUB_TOKEN",
    "NPM_TOKEN",
    "ANTHROPIC_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "npm_config_registry",
    "npm_config_userconfig",
    "npm_config_cache",
    "npm_config__auth",
    "NPM_CONFIG_REGISTRY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "GIT_CONFIG_GLOBAL",
    "GIT_DIR",
    "NODE_OPTIONS",
    "BUN_OPTIONS",
    "LD_PRELOAD",
    "PYTHONPATH",
    "SSH_AUTH_SOCK",
    "SHELL",
    "USER",
    MARKER,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def make(*, git: bool = True, binary: Path = Path("/bin/true")) -> Sandbox:
    return make_sandbox(binary=binary, registry_url=REGISTRY, mark="1-a.1", marker=MARKER, git=git)


@pytest.fixture
def sandbox(here: Path) -> Iterator[Sandbox]:
    one = make()
    yield one
    one.remove()
    assert list(here.iterdir()) == []


# -- its end


def test_of_a_link_in_its_place_the_link_alone_goes(here: Path, tmp_path: Path) -> None:
    one, other = make(), tmp_path / "of-somebody-else"
    (other / "inside").mkdir(parents=True)
    for folder in (other, other / "inside"):
        folder.chmod(0o755)
    one.root.rename(here / "moved")
    one.root.symlink_to(other)
    one.remove()
    assert not os.path.lexists(one.root)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (other, other / "inside")] == [0o755, 0o755]


def test_a_link_that_bears_our_name_is_no_leftover_of_ours(here: Path, tmp_path: Path) -> None:
    """Anyone may make one in a temporary directory for everybody."""
    session, other = "4711-0123456789ab", tmp_path / "of-somebody-else"
    made = make_sandbox(binary=Path("/bin/true"), registry_url=REGISTRY, mark=f"{session}.1", marker=MARKER)
    other.mkdir(mode=0o755)
    planted = here / f"ocrepro-{session}.99-x"
    planted.symlink_to(other)
    remove_leftovers(session)
    assert not made.root.exists(), "what is ours goes"
    assert planted.is_symlink()
    assert stat.S_IMODE(other.stat().st_mode) == 0o755


# -- the environment


def test_nothing_of_the_user_passes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLANTED:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("PATH", f"/{CANARY}/bin")
    environment = make().environment()
    assert [name for name, value in environment.items() if CANARY in value] == []
    absent = {"ALL_PROXY", "XDG_RUNTIME_DIR", "OPENCODE_DB", "NODE_OPTIONS", "USER", "GIT_DIR", "NPM_CONFIG_REGISTRY"}
    assert not absent & environment.keys()


def test_allowed_variables_pass_and_only_they(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle of the test above can fail: what is on the list does pass."""
    bare = make().environment().keys() - set(ALLOWED)
    for name in ALLOWED:
        monkeypatch.setenv(name, CANARY)
    environment = make().environment()
    assert {name for name, value in environment.items() if value == CANARY} == set(ALLOWED)
    assert environment.keys() == bare | set(ALLOWED)


def test_every_place_to_write_is_under_the_root(sandbox: Sandbox) -> None:
    environment = sandbox.environment()
    places = {name: value for name, value in environment.items() if value.startswith("/")}
    outside = [name for name, value in places.items() if not Path(value.split(":")[0]).is_relative_to(sandbox.root)]
    assert sorted(outside) == sorted({"SHELL"} | ({"SSL_CERT_FILE", "NIX_SSL_CERT_FILE", "TZ"} & places.keys()))
    for name in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        assert list(Path(environment[name]).iterdir()) == []
    assert stat.S_IMODE(sandbox.root.stat().st_mode) == stat.S_IRWXU


def test_proxies_and_registry_are_ours(sandbox: Sandbox) -> None:
    environment = sandbox.environment()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "npm_config_registry"):
        assert environment[name] == REGISTRY
    assert environment["NO_PROXY"] == environment["no_proxy"] == "127.0.0.1,localhost,::1"
    assert Path(environment["npm_config_globalconfig"]).is_relative_to(sandbox.root)
    assert environment[MARKER] == "1-a.1"


def test_extra_variables_win(sandbox: Sandbox) -> None:
    assert sandbox.environment(TERM="xterm")["TERM"] == "xterm"
    assert sandbox.environment()["TERM"] == "dumb"


def test_path_has_the_build_first_and_git_where_it_is(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "git").write_text("#!/bin/sh\n")
    (elsewhere / "git").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "elsewhere")
    box = make(binary=Path("/bin/true"))
    first, *rest = box.environment()["PATH"].split(":")
    assert Path(first, "opencode").resolve() == Path("/bin/true").resolve()
    assert rest == ["/usr/local/bin", "/usr/bin", "/bin", str(elsewhere)]


# -- the files


def test_project_has_git_or_not(here: Path) -> None:
    with_git, without = make(), make(git=False)
    environment = with_git.environment()
    argv = ["git", "-C", str(with_git.project.root), "status", "--porcelain"]
    told = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert told.stdout == "?? README.md\n"
    assert not (without.project.root / ".git").exists()


def test_own_home_starts_with_copies(sandbox: Sandbox) -> None:
    sandbox.data.mkdir()
    (sandbox.data / "auth.json").write_text("{}")
    home = sandbox.own_home("data", "worker", copy=("auth.json", "absent.json"))
    assert home == sandbox.root / "worker/data"
    assert [path.name for path in (home / "opencode").iterdir()] == ["auth.json"]
    with pytest.raises(StageError, match=r"^cannot make .*/worker/data: File exists; "):
        sandbox.own_home("data", "worker")


def test_lock_keys_name_every_configuration_directory(sandbox: Sandbox) -> None:
    sandbox.project.add_plugin()
    sandbox.project.write("inner/.opencode/plugin/x.js", "")
    sandbox.project.write("node_modules/a/.opencode/x", "")
    sandbox.own_home("config", "worker")
    root, project = sandbox.root, sandbox.project.root
    wanted = (
        root / "config/opencode",
        project / ".opencode",
        project / "inner/.opencode",
        root / "home/.opencode",
        root / "worker/config/opencode",
    )
    assert sorted(sandbox.lock_keys()) == sorted(f"npm-install:{folder}" for folder in wanted)


def test_configuration_is_json(sandbox: Sandbox) -> None:
    sandbox.configure({"share": "disabled"})
    assert json.loads(Path(sandbox.environment()["OPENCODE_CONFIG"]).read_text()) == {"share": "disabled"}


# -- disks


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "No such file or directory; make it, or set TMPDIR to a directory that is there"),
        ("file", "Not a directory; make it, or set TMPDIR to a directory that is there"),
    ],
)
def test_temporary_directory_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    with pytest.raises(StageError) as caught:
        make()
    assert str(caught.value) == f"cannot make a sandbox in {tmp_path / name}: {words}"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "Permission denied; set TMPDIR to a directory that you may write to"),
        (errno.EROFS, "Read-only file system; set TMPDIR to a directory that you may write to"),
        (errno.EDQUOT, "Disk quota exceeded; free some space there, or set TMPDIR"),
        (errno.EMFILE, "Too many open files; raise the limit of open files (ulimit -n)"),
        (errno.EIO, "Input/output error; look at that place, or set TMPDIR to another"),
    ],
)
def test_advice_fits_what_is_wrong_with_the_temporary_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Root may write everywhere, so the kernel's answers are given by hand."""

    def refused(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    with pytest.raises(StageError) as caught:
        make()
    assert str(caught.value) == f"cannot make a sandbox in {here}: {words}"


def test_no_temporary_directory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none_usable)
    with pytest.raises(
        StageError,
        match=r"^cannot make a sandbox in the temporary directory: No usable .*set TMPDIR to .* there$",
    ):
        make()


def test_full_disk_leaves_nothing_half_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(
        StageError, match=r"^cannot write .*README.md: No space left on device; free some space there"
    ):
        make()
    assert list(here.iterdir()) == []


# -- removal


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """Root may delete whatever it likes: be somebody else for a while, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="ocrepro-test-") as place:
        if os.geteuid():
            yield Path(place)
            return
        os.chown(place, 65534, 65534)
        os.seteuid(65534)
        try:
            yield Path(place)
        finally:
            os.seteuid(0)


def test_remove_takes_read_only_directories_with_it(as_nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(as_nobody))
    box = make()
    deep = box.root / "npm/a/b"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    kept = as_nobody / "kept"
    kept.mkdir(mode=0o500)
    (box.root / "npm/link").symlink_to(kept)
    for folder in (deep, deep.parent, box.root):
        folder.chmod(0o500 if folder != deep.parent else 0)
    with pytest.raises(PermissionError):
        (box.root / "x").touch()  # the obstacle is one
    box.remove()
    assert [path.name for path in as_nobody.iterdir()] == ["kept"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o500, "a link was followed"
    box.remove()


WRITER = """
import itertools, os, sys
os.chdir(sys.argv[1])
print("up", flush=True)
for n in itertools.count():
    try:
        os.makedirs(f"{sys.argv[1]}/cache/{n % 50}", exist_ok=True)
        open(f"{sys.argv[1]}/cache/{n % 50}/{n}", "w").close()
    except OSError:
        pass
"""


def test_remove_while_somebody_still_writes_does_not_raise(sandbox: Sandbox) -> None:
    argv = [sys.executable, "-I", "-c", WRITER, str(sandbox.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "up\n"
        sandbox.remove()
        writer.kill()
    sandbox.remove()
    assert not sandbox.root.exists()


# -- the real binary


@pytest.mark.real
def test_a_real_run_is_hermetic(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build = resolve(None, ["1.18.34"])[0]
    for name in set(PLANTED) - {"LD_PRELOAD"}:  # the loader of our own supervisor would complain
        monkeypatch.setenv(name, CANARY)
    history, reader, supervisor = History(), Reader(), Supervisor(ledger=tmp_path / "ledger")
    registry, provider = Registry(history), Provider(history)
    box = make_sandbox(binary=Path(build.path), registry_url=registry.url, mark=f"{supervisor.mark}.1", marker=MARKER)
    box.configure({**provider.config(), "autoupdate": False, "share": "disabled"})
    before = set(Path("/tmp").iterdir())
    argv = ["opencode", "run", "-m", "bogus/x", "hi"]
    run = Process("run", argv, supervisor=supervisor, history=history, output=box.output, stdin=NoInput())
    try:
        run.start(box.environment(), str(box.project.root))
        seen = [] if (environ := reader.environ(run.pid)) is None else [environ]
        remotes: set[str] = set()

        def over() -> bool:
            remotes.update(remotes_of(reader, run.pid))
            return not run.alive

        until(over, timeout_s=60.0, what="the run's end", every_s=0.005)
        swept = supervisor.sweep(f"{supervisor.mark}.1")
    finally:
        supervisor.close()
        provider.close()
        registry.close()
    assert run.exit_code == 1
    assert "Error" in run.output
    assert seen == [box.environment()]
    assert CANARY not in str(seen)
    assert {address.rpartition(":")[0] for address in remotes} <= {"127.0.0.1", "[::1]"}
    assert not [event for event in history.of_type(OffLoopback) if "127.0.0.1" in event.destination]
    assert all(event.reply == "not-found" for event in history.of_type(RegistryRequest))
    assert (swept.leaked, history.of_type(Trouble)) == ([], [])
    assert box.database.exists(), "it has written where it was told to"
    assert {path.name for path in set(Path("/tmp").iterdir()) - before if path.name.startswith("opencode")} == set()
    box.remove()
    assert list(here.iterdir()) == []


def remotes_of(reader: Reader, pid: int) -> set[str]:
    """Whom the TCP sockets of a process are connected to, or trying to be."""
    own = {target[8:-1] for _, target in reader.fd_links(pid) if target.startswith("socket:[")}
    return {row.remote for row in parse_net_tcp(reader.net(pid)) if str(row.inode) in own and row.state != "LISTEN"}


def test_leftovers_of_a_killed_session_go_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    dead, other = "4711-0123456789ab", "4712-0123456789ab"
    for name in (f"ocrepro-{dead}.1-x", f"ocrepro-{dead}.2-y", f"ocrepro-{other}.1-z", "ocrepro-mine"):
        (tmp_path / name / "deep").mkdir(parents=True)
    remove_leftovers("*")
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(dead)
    assert {path.name for path in tmp_path.iterdir()} == {f"ocrepro-{other}.1-z", "ocrepro-mine"}

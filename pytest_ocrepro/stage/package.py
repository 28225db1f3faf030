"""A package as an npm registry serves it: its document, and the tarball that the document names.

The same files give the same bytes, so that a hash in one trial is that of the next one.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

ENTRY = "export default async () => ({})\n"  # as a plugin of opencode may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of one package. ``files``: path -> text, package.json included."""

    name: str
    version: str
    files: Mapping[str, str]

    @property
    def tarball_path(self) -> str:
        """Where its tarball is, below the registry's root."""
        return f"/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"

    @property
    def tarball(self) -> bytes:
        """As ``npm pack`` lays one out: everything below ``package/``."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, text in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"package/{path}")
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))
        return gzip.compress(packed.getvalue(), mtime=0)

    def document(self, registry_url: str) -> bytes:
        """What the registry says of the package; ``registry_url`` ends with a slash."""
        data = self.tarball
        dist = {
            "tarball": registry_url.rstrip("/") + self.tarball_path,
            "integrity": f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}",
            "shasum": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        }
        version = {**json.loads(self.files["package.json"]), "dist": dist}
        told = {"name": self.name, "dist-tags": {"latest": self.version}, "versions": {self.version: version}}
        return json.dumps(told).encode()


def package(name: str, version: str, files: Mapping[str, str] | None = None) -> Package:
    """A package without dependencies: these files, an entry point where they have none, and its package.json."""
    told = {"name": name, "version": version, "type": "module", "main": "index.js"}
    return Package(
        name=name,
        version=version,
        files={"index.js": ENTRY, **(files or {}), "package.json": json.dumps(told, indent=1)},
    )


def reply_to(path: str, packages: Mapping[str, Package], registry_url: str) -> tuple[bytes, str] | None:
    """Body and content type for a path of the registry; None: it has no such thing."""
    wanted = unquote(path.partition("?")[0])
    for one in packages.values():
        if wanted == one.tarball_path:
            return one.tarball, "application/octet-stream"
    found = packages.get(wanted.strip("/"))
    return (found.document(registry_url), "application/json") if found else None

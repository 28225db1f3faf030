"""A stand-in for npm: ``view PACKAGE versions dist-tags``, ``view PACKAGE@V dist`` and ``pack PACKAGE@V``.

STAND_IN_NPM names its registry: ``<version>.tgz`` files, ``plan.json`` (what goes wrong), ``asked`` (one line a call,
with our pid), ``gate`` (a FIFO: pack waits until somebody has opened it for writing and closed it).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

REGISTRY = Path(os.environ["STAND_IN_NPM"])


def integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def fail(code: str, summary: str) -> None:
    print(json.dumps({"error": {"code": code, "summary": summary, "detail": ""}}))
    print(f"npm error code {code}\nnpm error {summary}", file=sys.stderr)
    sys.exit(1)


def misbehave(plan: dict[str, str], command: str) -> None:
    trouble = plan.get(command, "")
    if trouble == "hang":
        subprocess.Popen(["sleep", "60"])
        signal.pause()
    if trouble == "noise":
        print("<html>a captive portal</html>")
        sys.exit(0)
    if trouble:
        fail(trouble, plan.get("summary", f"request failed, reason: {trouble}"))


def view(plan: dict[str, str], name: str) -> None:
    package, _, version = name.partition("@")
    if version:
        told = plan.get("told") or integrity((REGISTRY / f"{version}.tgz").read_bytes())
        print(json.dumps({"integrity": told, "shasum": "0", "tarball": f"http://127.0.0.1/{package}.tgz"}))
        return
    versions = sorted(path.name.removesuffix(".tgz") for path in REGISTRY.glob("*.tgz"))
    tags = {"latest": plan["latest"]} if "latest" in plan else {}
    print(json.dumps({"versions": versions if len(versions) != 1 else versions[0], "dist-tags": tags}))


def pack(plan: dict[str, str], name: str, destination: Path, cache: Path) -> None:
    package, _, version = name.partition("@")
    data = (REGISTRY / f"{version}.tgz").read_bytes()
    (cache / "_cacache/tmp").mkdir(parents=True)
    (cache / "_cacache/tmp/part").write_bytes(data)
    if (REGISTRY / "gate").exists():
        (REGISTRY / "gate").read_bytes()
    kept = data[: len(data) // 2] if plan.get("cut") else data
    filename = f"{package}-{version}.tgz"
    (destination / filename).write_bytes(kept)
    print(json.dumps([{"filename": filename, "integrity": plan.get("packed") or integrity(data)}]))


def main() -> None:
    signal.alarm(60)  # a test that failed half-way must not leave us behind
    plan = json.loads((REGISTRY / "plan.json").read_text()) if (REGISTRY / "plan.json").exists() else {}
    command, *rest = [word for word in sys.argv[1:] if not word.startswith("--")] or ["--version"]
    flags = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
    with (REGISTRY / "asked").open("a") as log:
        log.write(f"{command} {' '.join(rest)} {os.getpid()}\n")
    misbehave(plan, command)
    if command == "view":
        view(plan, rest[0])
    elif command == "pack":
        pack(plan, rest[0], Path(flags["pack-destination"]), Path(flags["cache"]))
    else:
        print("11.0.0")


main()

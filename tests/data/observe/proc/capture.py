"""Prints what proc(5) says of one process, as a case for this folder.

Run it as ``python capture.py PID [HIDDEN SHOWN]... > proc.txt``.
Each file begins with a line ``== name``; a link is ``== name -> target``. HIDDEN paths are written as SHOWN.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/proc")
OF_PROCESS = ("stat", "status", "io", "cmdline", "net/tcp", "net/tcp6", "net/unix")
OF_THREAD = ("stat", "status", "wchan", "syscall", "schedstat")


def parts(pid: int) -> Iterator[str]:
    process = ROOT / str(pid)
    own = {line.split()[9] for line in (process / "net/tcp").read_text().splitlines()[1:]}
    sockets = {path.readlink().name.strip("socket:[]") for path in (process / "fd").iterdir()}
    names = [process / name for name in OF_PROCESS]
    names += [task / name for task in sorted((process / "task").iterdir()) for name in OF_THREAD]
    names += sorted((process / "fdinfo").iterdir())
    for name in names:
        text = name.read_text(errors="replace").replace("\0", "\\0")
        if "/net/" in str(name):
            lines = text.splitlines(keepends=True)
            text = "".join(line for line in lines if lines[0] == line or own & sockets & set(line.split()))
        yield f"== {name.relative_to(ROOT)}\n{text}" + ("" if text.endswith("\n") else "\\\n")
    for link in sorted((process / "fd").iterdir()):
        yield f"== {link.relative_to(ROOT)} -> {link.readlink()}\n"
    inodes = {str(path.stat().st_ino) for path in (process / "fd").iterdir() if path.exists()}
    locks = (ROOT / "locks").read_text().splitlines(keepends=True)
    yield "== locks\n" + "".join(line for line in locks if line.split(":")[-1].split()[0] in inodes)


def main() -> None:
    text = "".join(parts(int(sys.argv[1])))
    for hidden, shown in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        text = text.replace(hidden, shown)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

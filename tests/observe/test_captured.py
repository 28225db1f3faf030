"""What proc(5) says on several kernels, read as a whole: a new folder below tests/data/observe/proc is a new case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_ocrepro.judge.threads import groups
from pytest_ocrepro.observe.locks import file_locks
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.proctext import parse_net_tcp, parse_net_unix

DATA = Path(__file__).parents[1] / "data" / "observe" / "proc"
CASES = sorted(path.parent for path in DATA.glob("*/proc.txt"))


def unpack(text: str, root: Path) -> None:
    """Files and links of a capture, below ``root``; a backslash at the end of a file takes the newline away."""
    for section in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        head, _, body = section.partition("\n")
        name, _, target = head.partition(" -> ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        else:
            path.write_bytes(body.removesuffix("\\\n").replace("\\0", "\0").encode())


def told(case: Path, root: Path) -> dict[str, Any]:
    about = msgspec.json.decode((case / "about.json").read_bytes())
    unpack((case / "proc.txt").read_text(), root)
    reader = Reader(str(root), machine=about["machine"])
    missing: list[str] = []
    process = reader.read_process(about["pid"], role="first", is_subject=True, full=True, missing=missing)
    assert process is not None
    records = {
        "process": process,
        "threads": [group.words for group in groups(process)],
        "locks": reader.locks(missing),
        "file_locks": file_locks(reader, [process], missing),
        "tcp": parse_net_tcp(reader.net(about["pid"])),
        "unix": parse_net_unix(reader.net_unix(about["pid"])),
        "missing": missing,
    }
    as_stored: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(records))
    return as_stored


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_captured_kernel_is_read_as_expected(case: Path, tmp_path: Path) -> None:
    assert told(case, tmp_path) == msgspec.json.decode((case / "expected.json").read_bytes())


def test_there_are_captures_of_several_kernels_and_machines() -> None:
    machines = {msgspec.json.decode((case / "about.json").read_bytes())["machine"] for case in CASES}
    assert len(CASES) >= 5
    assert machines >= {"x86_64", "aarch64"}

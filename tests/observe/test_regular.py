from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_ocrepro.observe.regular import open_regular


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"words"


@pytest.mark.parametrize("kind", ["pipe", "link", "directory", "device", "absent"])
def test_whatever_else_is_there_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    place, before = tmp_path / "place", len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "file").write_bytes(b"words")
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "link":
            place.symlink_to(tmp_path / "file")
        case "directory":
            place.mkdir()
        case "device":
            place = Path("/dev/zero")
    with pytest.raises(OSError, match=r"."):
        open_regular(place)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_ocrepro.observe.regular import open_regular, read_small


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"words"


def put(place: Path, kind: str) -> Path:
    """Something of this kind, in this place or elsewhere."""
    (place.parent / "file").write_bytes(b"words")
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "link":
            place.symlink_to(place.parent / "file")
        case "directory":
            place.mkdir()
        case "device":
            return Path("/dev/zero")
    return place


@pytest.mark.parametrize("kind", ["pipe", "link", "directory", "device", "absent"])
def test_whatever_else_is_there_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    place, before = put(tmp_path / "place", kind), len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"."):
        open_regular(place)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_small_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    assert read_small(tmp_path / "file", 5) == b"words"
    assert read_small(tmp_path / "file", 4) is None
    os.truncate(tmp_path / "file", 1 << 40)  # sparse: a whole read of it would not come back
    assert read_small(tmp_path / "file", 1 << 16) is None


@pytest.mark.parametrize("kind", ["pipe", "link", "directory", "device", "absent"])
def test_what_is_no_small_file_is_not_there(tmp_path: Path, kind: str) -> None:
    assert read_small(put(tmp_path / "place", kind), 64) is None

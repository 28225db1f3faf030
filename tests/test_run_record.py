from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pytest_ocrepro.run_record import file_system, in_words


@pytest.mark.parametrize("folder", ["/", "/tmp", "/proc/self"])
def test_the_file_system_is_the_one_that_df_tells(folder: str) -> None:
    told = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=True)
    assert file_system(Path(folder)) == told.stdout.split()[-1]


@pytest.mark.parametrize(
    ("mounts", "told"),
    [
        ([("/", "ext4"), ("/", "overlay"), ("/else", "nfs4")], "overlay"),  # the later one hides the other
        ([("/", "ext4"), ("/a", "nfs4"), ("/a/bc", "tmpfs")], "nfs4"),
        ([], ""),
    ],
)
def test_the_innermost_mount_counts(
    monkeypatch: pytest.MonkeyPatch, mounts: list[tuple[str, str]], told: str
) -> None:
    found = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: found)
    assert file_system(Path("/a/b")) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, ""),
        ((), ""),
        ("known", "known"),
        (("1.14.48", "1.18.34"), "1.14.48, 1.18.34"),
        (("1.18.34",), "1.18.34"),
        (False, "no"),
        (True, "yes"),
        (0, "0"),
    ],
)
def test_options_are_told_in_words_and_not_as_python_writes_them(value: object, told: str) -> None:
    assert in_words(value) == told

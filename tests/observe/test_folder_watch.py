from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from pytest_ocrepro.observe.folder_watch import FolderWatch
from pytest_ocrepro.observe.holders import Happened
from pytest_ocrepro.observe.procfs import Reader


def made(name: str) -> Happened:
    return Happened(made=True, name=name)


def removed(name: str) -> Happened:
    return Happened(made=False, name=name)


def test_the_order_of_what_happened_is_kept(tmp_path: Path) -> None:
    with closing(FolderWatch()) as watch:
        assert watch.watch(tmp_path)
        assert not watch.watch(tmp_path), "it is watched already"
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "inner").touch()
        (tmp_path / "a.breaker").mkdir()
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b").rename(tmp_path / "c")
        expected = [made("a"), made("a.breaker"), removed("a"), made("b"), removed("b"), made("c")]
        assert watch.drain() == {str(tmp_path): expected}
        assert watch.drain() == {str(tmp_path): []}


def test_a_folder_that_comes_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with closing(FolderWatch()) as watch:
        assert not watch.watch(folder)
        assert watch.drain() == {}
        folder.mkdir()
        assert watch.watch(folder)
        folder.rmdir()
        assert watch.drain() == {}, "what happened in a folder that is gone is not known"
        folder.mkdir()
        assert watch.watch(folder), "it is another folder now"
        (folder / "x").touch()
        assert watch.drain() == {str(folder): [made("x")]}


def test_several_folders(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with closing(FolderWatch()) as watch:
        for folder in (one, two):
            folder.mkdir()
            watch.watch(folder)
        (two / "x").touch()
        assert watch.drain() == {str(one): [], str(two): [made("x")]}


def test_events_that_the_kernel_dropped_are_not_nothing(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with closing(FolderWatch()) as watch:
        watch.watch(tmp_path)
        one, two = tmp_path / "one", tmp_path / "two"
        one.touch()
        for _ in range(limit // 2 + 2):  # two events each, all different from the one before
            one.rename(two)
            two.rename(one)
        assert watch.drain() == {}
        one.unlink()
        assert watch.drain() == {str(tmp_path): [removed("one")]}


def test_without_inotify_nothing_is_known_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMore:
        def inotify_init1(self, _: int) -> int:
            ctypes.set_errno(24)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: NoMore())
    with closing(FolderWatch()) as watch:
        assert watch.error == "inotify: Too many open files"
        assert not watch.watch(tmp_path)
        assert watch.drain() == {}


def test_closing_gives_the_descriptor_back() -> None:
    def watches() -> int:
        return [target for _, target in Reader().fd_links(os.getpid())].count("anon_inode:inotify")

    before = watches()
    watch = FolderWatch()
    assert watches() == before + 1
    watch.close()
    watch.close()
    assert watches() == before
    assert watch.drain() == {}

"""What happens to the entries of a few folders, in the kernel's own order (inotify(7)); nobody is disturbed by it."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

from pytest_ocrepro.observe.holders import Happened
from pytest_ocrepro.platforms import has_proc

# include/uapi/linux/inotify.h
_MADE: Final = 0x00000100 | 0x00000080  # IN_CREATE, IN_MOVED_TO
_REMOVED: Final = 0x00000200 | 0x00000040  # IN_DELETE, IN_MOVED_FROM
_FOLDER_ONLY: Final = 0x01000000
_LOST: Final = 0x00004000  # IN_Q_OVERFLOW: the kernel dropped events
_ENDED: Final = 0x00008000  # IN_IGNORED: the folder itself is gone
_HEAD: Final = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_READ_BYTES: Final = 65536


class FolderWatch:
    """Tells what has happened in folders since it was asked last. Not thread-safe.

    Where the kernel gives no watch (max_user_instances of inotify(7) is often 128), ``drain`` knows nothing and
    ``error`` says why.
    """

    def __init__(self) -> None:
        self.error = ""
        self._folders: dict[int, str] = {}
        self._fd = -1
        if not has_proc():
            self.error = "inotify: this system has none: how a lock directory changed hands is not told"
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def watch(self, folder: Path) -> bool:
        """Look at this folder from now on; True when that begins now. One that is not there is left out."""
        path = str(folder)
        if self._fd < 0 or path in self._folders.values():
            return False
        flags = _MADE | _REMOVED | _FOLDER_ONLY
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(flags))
        if number < 0:
            return False
        self._folders[number] = path
        return True

    def drain(self) -> dict[str, list[Happened]]:
        """Folder -> what has happened there; a folder that is not watched, or whose events were lost, is left out."""
        found: dict[str, list[Happened]] = {path: [] for path in self._folders.values()}
        while data := self._read():
            at = 0
            while at < len(data):
                number, mask, _, length = _HEAD.unpack_from(data, at)
                name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0").decode(errors="replace")
                at += _HEAD.size + length
                self._take(found, number, mask, name)
        return found

    def close(self) -> None:
        """Give the watches back. Safe to call again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._folders.clear()

    def _take(self, found: dict[str, list[Happened]], number: int, mask: int, name: str) -> None:
        if mask & _LOST:
            found.clear()
            return
        path = self._folders.get(number, "")
        if mask & _ENDED:
            self._folders.pop(number, None)
            found.pop(path, None)
        elif path in found and mask & (_MADE | _REMOVED):
            found[path].append(Happened(made=bool(mask & _MADE), name=name))

    def _read(self) -> bytes:
        if self._fd < 0:
            return b""
        try:
            return os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return b""

    def _checked(self, answer: int) -> int:
        if answer < 0:
            self.error = f"inotify: {os.strerror(ctypes.get_errno())}"
        return answer

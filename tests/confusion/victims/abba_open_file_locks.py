"""The same with two byte locks of open file descriptions (F_OFD_SETLKW), which the kernel looks for no cycle in."""

import fcntl
import os
import struct

from acting import PROJECT, WORD, begin, hold, wait_for

F_OFD_SETLKW = 38


def take(name: str) -> None:
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(os.open(PROJECT / name, os.O_RDWR | os.O_CREAT), F_OFD_SETLKW, lock)


begin()
other = "two" if WORD == "one" else "one"
take(f"{WORD}.lock")
hold(WORD)
wait_for(other)
take(f"{other}.lock")

"""One handler waits in the kernel for a lock that somebody else has."""

import fcntl

from acting import PROJECT, begin, serve


def handle(path: str) -> str:
    if path == "/lock":
        with (PROJECT / "whole").open("w") as whole:
            fcntl.flock(whole, fcntl.LOCK_EX)
    return "{}"


begin()
serve(handle)

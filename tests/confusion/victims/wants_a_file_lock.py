"""Waits in the kernel for a file lock, then answers."""

import fcntl

from acting import PROJECT, answer, begin

begin()
whole = (PROJECT / "whole").open("w")
fcntl.flock(whole, fcntl.LOCK_EX)
answer()

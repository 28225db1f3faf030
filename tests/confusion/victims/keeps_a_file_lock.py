"""Holds a file lock for so many seconds ("for-ever": until it is killed)."""

import fcntl
import signal
import time

from acting import PROJECT, WORD, begin, hold

begin()
whole = (PROJECT / "whole").open("w")
fcntl.flock(whole, fcntl.LOCK_EX)
hold("locked")
if WORD == "for-ever":
    signal.pause()
time.sleep(float(WORD))

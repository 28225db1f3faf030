"""One has the lock directory and waits for a file lock, the other the other way round."""

import fcntl

from acting import PROJECT, WORD, hold, start, take_lock, wait_for, wait_for_lock

start()
whole = (PROJECT / "whole").open("w")
if WORD == "one":
    take_lock()
    hold("one")
    wait_for("two")
    fcntl.flock(whole, fcntl.LOCK_EX)
else:
    fcntl.flock(whole, fcntl.LOCK_EX)
    hold("two")
    wait_for("one")
    wait_for_lock()

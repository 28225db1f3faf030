"""Two processes, each with the lock that the other waits for: one byte lock (F_SETLKW), one of flock(2).

Two byte locks would not do: the kernel sees that cycle itself and answers EDEADLK (fcntl(2)).
"""

import fcntl

from acting import PROJECT, WORD, begin, hold, wait_for

begin()
bytes_of, whole = (PROJECT / "bytes").open("w"), (PROJECT / "whole").open("w")
if WORD == "one":
    fcntl.lockf(bytes_of, fcntl.LOCK_EX)
    hold("one")
    wait_for("two")
    fcntl.flock(whole, fcntl.LOCK_EX)
else:
    fcntl.flock(whole, fcntl.LOCK_EX)
    hold("two")
    wait_for("one")
    fcntl.lockf(bytes_of, fcntl.LOCK_EX)

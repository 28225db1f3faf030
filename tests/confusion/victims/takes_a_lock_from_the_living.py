"""Two in one lock: the first is slow to show a sign of life, and the second takes its lock as a stale one."""

import contextlib
import time

from acting import WORD, answer, hold, log, release_lock, start, take_lock, wait_for, wait_for_lock

start()
if WORD == "first":
    take_lock(quiet_for_s=61)
    hold("locked")
    wait_for("taken")
else:
    wait_for("locked")
    wait_for_lock()
    hold("taken")
time.sleep(6)
with contextlib.suppress(FileNotFoundError):
    release_lock()
log("all LSPs are disabled")
answer()

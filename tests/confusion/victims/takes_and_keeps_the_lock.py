"""Takes the lock directory, and then does nothing for so many seconds ("for-ever": until it is killed)."""

import signal
import time

from acting import WORD, answer, hold, log, release_lock, start, wait_for_lock

start()
wait_for_lock()
hold(f"locked-{WORD}")
if WORD == "for-ever":
    signal.pause()
time.sleep(float(WORD))
release_lock()
log("all LSPs are disabled")
answer()

"""Meets a lock directory whose holder is dead, or has lent its pid to somebody else; waits until it is stale.

The prompt: how many seconds ago the lock was taken, and its pid ("own": this process' own).
"""

from acting import WORD, answer, log, release_lock, start, take_lock, wait_for_lock

start()
age_s, _, pid = WORD.partition(" ")
take_lock(pid=0 if pid == "own" else int(pid), age_s=float(age_s))
wait_for_lock()
release_lock()
log("all LSPs are disabled")
answer()

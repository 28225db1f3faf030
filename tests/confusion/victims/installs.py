"""Installs its plugin behind the lock directory, then answers."""

from acting import answer, install, log, release_lock, start, wait_for_lock

start()
wait_for_lock()
install()
release_lock()
log("all LSPs are disabled")
answer()

"""Has had the lock directory for long, and has shown no sign of life for so many seconds."""

import signal

from acting import WORD, hold, start, take_lock

start()
take_lock(quiet_for_s=float(WORD))
hold("locked")
signal.pause()

"""Takes a whole core for so many seconds."""

import os
import time

from acting import WORD, hold, wait_for

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
wait_for("starved")
end = time.monotonic() + float(WORD)
while time.monotonic() < end:
    pass
hold("neighbour-gone")

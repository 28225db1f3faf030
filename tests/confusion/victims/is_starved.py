"""Gets next to nothing of its core, because a neighbour has it; when the neighbour ends it goes on."""

import os
import time

from acting import WORD, answer, begin, hold

begin()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.nice(19)
hold("starved")
spent = time.process_time() + float(WORD)
while time.process_time() < spent:
    pass
answer()

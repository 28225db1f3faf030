"""Gets next to nothing of its core because a neighbour has it; when the neighbour has ended it goes on."""

import os

from acting import PROJECT, answer, begin, hold

begin()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.nice(10)
hold("starved")
while not (PROJECT / "neighbour-gone").exists():
    pass
answer()

"""Waits for a tool that computes, says nothing, and ends."""

import subprocess

from acting import WORD, answer, begin

begin()
work = (
    f"import time\nend = time.monotonic() + {WORD}\nwhile time.monotonic() < end: sum(range(1000)); time.sleep(0.01)"
)
subprocess.run(["python3", "-c", work], check=True)
answer()

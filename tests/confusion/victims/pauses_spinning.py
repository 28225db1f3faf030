"""Computes for a while without a word, and goes on."""

import time

from acting import WORD, answer, begin

begin()
end = time.monotonic() + float(WORD)
while time.monotonic() < end:
    pass
answer()

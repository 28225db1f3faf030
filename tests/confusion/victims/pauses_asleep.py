"""Does nothing for a while (one thread, in a timed sleep), and goes on."""

import time

from acting import WORD, answer, begin

begin()
time.sleep(float(WORD))
answer()

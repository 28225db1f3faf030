"""Says what went wrong, after so many seconds."""

import sys
import time

from acting import WORD, begin

begin()
time.sleep(float(WORD))
sys.exit("Error: Model not found: bogus/nope-1.")

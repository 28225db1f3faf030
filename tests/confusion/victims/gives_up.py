"""Has a limit of its own for the model's answer, and tells when it is over."""

import sys

from acting import WORD, ask, begin

begin()
try:
    ask(timeout_s=float(WORD))
except TimeoutError:
    sys.exit("Error: the model did not answer in time")

"""One handler computes, for so many seconds or for ever, and nobody else is served meanwhile."""

import math
import time

from acting import WORD, begin, serve


def handle(path: str) -> str:
    if path == "/spin":
        end = time.monotonic() + (math.inf if WORD == "for-ever" else float(WORD))
        while time.monotonic() < end:
            pass
    return "{}"


begin()
serve(handle)

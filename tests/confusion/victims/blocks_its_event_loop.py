"""One handler waits for somebody else, for so many seconds or for ever, and with it everybody."""

import threading

from acting import WORD, begin, serve


def handle(path: str) -> str:
    if path == "/block":
        threading.Event().wait(None if WORD == "for-ever" else float(WORD))
    return "{}"


begin()
serve(handle)

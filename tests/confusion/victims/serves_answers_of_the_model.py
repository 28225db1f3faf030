"""A prompt comes back when the model has answered; the loop goes on meanwhile, since a thread waits for it."""

import threading

from acting import ask, begin, serve


def handle(path: str) -> str | None:
    if path != "/session/ses_1/message":
        return "{}"
    threading.Thread(target=ask).start()
    return None


begin()
serve(handle)

"""The loopback npm registry, and the proxy that whoever wants to leave the loopback interface ends up at.

Answers 404 at once unless told otherwise. A stalled registry reads the request and answers nothing.
"""

from __future__ import annotations

import threading

from pytest_ocrepro.history import FaultHealed, FaultInjected, History, OffLoopback, RegistryRequest, now_ns
from pytest_ocrepro.stage.loopback import NOBODY, Asker, Handler, LoopbackServer

NOT_FOUND, STALL, RESET, REFUSE = "not-found", "stalled", "reset", "refused"


class Registry:
    """The server. ``url`` is what npm calls a registry, with the slash at its end."""

    def __init__(self, history: History, *, asker: Asker = NOBODY) -> None:
        self._history = history
        self._asker = asker
        self._mode = NOT_FOUND
        self._released = threading.Event()
        self._server = LoopbackServer(_handler_for(self), "ocrepro-registry")
        self.address = self._server.address
        self.url = f"http://{self.address}/"

    def stall(self, *, seconds: float | None = None) -> None:
        """Accept, read the request, and answer nothing: for good, or 404 after so many seconds."""
        self._released = threading.Event()
        if seconds is not None:
            timer = threading.Timer(seconds, self._released.set)
            timer.daemon = True
            timer.start()
        self._become(
            STALL,
            "silent: accepts connections and never answers" if seconds is None else f"slow: answers {seconds:g} s late",
            for_good=seconds is None,
        )

    def reset(self) -> None:
        """Close every connection with RST after its request."""
        self._become(RESET, "resets every connection")

    def refuse(self) -> None:
        """Refuse every connection from now on; cannot be healed."""
        self._become(REFUSE, "refuses every connection")
        self._server.refuse()

    def heal(self) -> None:
        """Answer again, those who wait included."""
        if self._mode != NOT_FOUND:
            self._mode = NOT_FOUND
            self._history.append(FaultHealed(at_ns=now_ns(), fault="registry"))
        self._released.set()

    def close(self) -> None:
        """Stop."""
        self._released.set()
        self._server.close()

    def _become(self, mode: str, detail: str, *, for_good: bool = False) -> None:
        self._mode = mode
        self._history.append(
            FaultInjected(
                at_ns=now_ns(),
                fault="registry",
                detail=detail,
                address=self.address,
                silent_for_good=for_good,
            )
        )

    # called by the handler

    def note(self, client: str, path: str) -> tuple[str, threading.Event]:
        """Record a request; what to do with it."""
        mode, released = self._mode, self._released
        self._history.append(RegistryRequest(at_ns=now_ns(), pid=self._asker(client), path=path[:300], reply=mode))
        return mode, released

    def note_off_loopback(self, client: str, destination: str) -> None:
        """Record somebody who wanted to leave the loopback interface."""
        self._history.append(OffLoopback(at_ns=now_ns(), pid=self._asker(client), destination=destination[:300]))


def _handler_for(registry: Registry) -> type[Handler]:
    class Answers(Handler):
        def do_GET(self) -> None:
            self._drain()
            if self.path.startswith("http"):
                return self._refuse_to_proxy()
            mode, released = registry.note(self.client, self.path)
            if mode == STALL and not self.hold(released):
                self.close_connection = True
                return None
            if mode == RESET:
                return self.reset()
            return self.answer(404, b'{"error":"not found"}')

        do_POST = do_PUT = do_HEAD = do_GET

        def do_CONNECT(self) -> None:
            self._refuse_to_proxy()

        def _refuse_to_proxy(self) -> None:
            registry.note_off_loopback(self.client, self.path)
            self.close_connection = True
            self.answer(403, b'{"error":"no traffic off loopback in a trial"}')

        def _drain(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))

    return Answers

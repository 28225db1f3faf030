"""The loopback npm registry, and the proxy that whoever wants to leave the loopback interface ends up at.

Answers 404 at once for what nobody has published here. A stalled registry reads the request and answers nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from pytest_ocrepro.events import FaultHealed, FaultInjected, OffLoopback, RegistryRequest, Trouble
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.loopback import NOBODY, Asker, Handler, LoopbackServer
from pytest_ocrepro.stage.package import Package, package, reply_to

NOT_FOUND, STALL, RESET, REFUSE, SERVED = "not-found", "stalled", "reset", "refused", "served"


class Registry:
    """The server. ``url`` is what npm calls a registry, with the slash at its end."""

    def __init__(self, history: History, *, asker: Asker = NOBODY) -> None:
        self._history = history
        self._asker = asker
        self._lock = threading.Lock()
        self._mode = NOT_FOUND
        self._delay_s = math.inf
        self._only = ""
        self._packages: dict[str, Package] = {}
        self._released = threading.Event()  # one from healing to healing
        self._closing = threading.Event()
        self._server = LoopbackServer(_handler_for(self), "ocrepro-registry", trouble=self._tell)
        self.address = self._server.address
        self.url = f"http://{self.address}/"

    def stall(self, *, seconds: float | None = None, only: str = "") -> None:
        """Accept, read each request, and answer nothing: for good, or 404 so many seconds later.

        ``only``: whoever asks for another path than one that ends so is answered as ever.
        """
        what = (
            "silent: accepts connections and never answers"
            if seconds is None
            else f"slow: answers {seconds:g} s late"
        )
        self._become(
            STALL,
            f"{what}, asked for {only}" if only else what,
            delay_s=math.inf if seconds is None else seconds,
            only=only,
        )

    def reset(self) -> None:
        """Close every connection with RST after its request."""
        self._become(RESET, "resets every connection")

    def refuse(self) -> None:
        """Refuse every connection (ECONNREFUSED), and reset those that are open at their next request."""
        self._become(REFUSE, "refuses every connection")

    def publish(self, name: str, version: str, files: Mapping[str, str] | None = None) -> None:
        """Have a package without dependencies, of these files (path -> text); the latest version is the one kept."""
        with self._lock:
            self._packages = {**self._packages, name: package(name, version, files)}

    def requests(self) -> list[RegistryRequest]:
        """All requests so far."""
        return self._history.of_type(RegistryRequest)

    def heal(self) -> None:
        """Answer again, at the same address, those who wait included."""
        self._server.listen()
        with self._lock:
            broken = self._mode != NOT_FOUND
            self._mode = NOT_FOUND
            released, self._released = self._released, threading.Event()
        released.set()
        if broken:
            self._history.append(FaultHealed(at_ns=now_ns(), fault="registry"))

    def close(self) -> None:
        """Stop; whoever waits is broken off."""
        self._closing.set()
        self._server.close()

    def _become(self, mode: str, detail: str, *, delay_s: float = math.inf, only: str = "") -> None:
        with self._lock:
            self._mode, self._delay_s, self._only = mode, delay_s, only
        if mode == REFUSE:
            self._server.refuse()
        else:
            self._server.listen()
        self._history.append(
            FaultInjected(
                at_ns=now_ns(),
                fault="registry",
                detail=detail,
                address=self.address,
                silent_for_good=mode == STALL and delay_s == math.inf and not only,
            )
        )

    def _tell(self, what: str) -> None:
        self._history.append(Trouble(at_ns=now_ns(), what=f"registry: {what}"))

    # called by the handler

    def note(self, client: str, path: str) -> tuple[str, float, threading.Event]:
        """Record a request; what to do with it: the mode, the delay of a stall, and what ends it."""
        with self._lock:
            mode = self._mode if path.partition("?")[0].endswith(self._only) else NOT_FOUND
            delay_s, released = self._delay_s, self._released
        reply = SERVED if mode == NOT_FOUND and self.has(path) else mode
        self._history.append(
            RegistryRequest(
                at_ns=now_ns(), pid=self._asker(client), path=self._history.excerpt(path, 300), reply=reply
            )
        )
        return mode, delay_s, released

    def has(self, path: str) -> tuple[bytes, str] | None:
        """Body and content type of what was published, or None."""
        with self._lock:
            packages = self._packages
        return reply_to(path, packages, self.url)

    @property
    def closing(self) -> threading.Event:
        """Set when the trial is over."""
        return self._closing

    def note_off_loopback(self, client: str, destination: str) -> None:
        """Record somebody who wanted to leave the loopback interface."""
        self._history.append(
            OffLoopback(at_ns=now_ns(), pid=self._asker(client), destination=self._history.excerpt(destination, 300))
        )


def _handler_for(registry: Registry) -> type[Handler]:
    class Answers(Handler):
        def do_GET(self) -> None:
            self.body()
            path = self.path.removeprefix(f"http://{registry.address}")  # a client that proxies loopback, too
            if not path.startswith("/"):
                return self._refuse_to_proxy()
            mode, delay_s, released = registry.note(self.client, path)
            if mode == STALL and not self.hold(released, registry.closing, timeout_s=delay_s):
                self.close_connection = True
                return None
            if registry.closing.is_set() or mode in (RESET, REFUSE):
                return self.reset()
            found = registry.has(path)
            return self.answer(200, *found) if found else self.answer(404, b'{"error":"not found"}')

        do_POST = do_PUT = do_HEAD = do_PATCH = do_DELETE = do_OPTIONS = do_GET

        def do_CONNECT(self) -> None:
            self._refuse_to_proxy()

        def _refuse_to_proxy(self) -> None:
            registry.note_off_loopback(self.client, self.path)
            self.close_connection = True
            self.answer(403, b'{"error":"no traffic off loopback in a trial"}')

    return Answers

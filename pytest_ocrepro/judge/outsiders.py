"""What our own servers, faults and signals say about a process at the instant of one snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_ocrepro.events import FaultHealed, FaultInjected, ProviderReply, RegistryRequest
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.judge.life import Life, asked, stopped_by_us
from pytest_ocrepro.readings import Snapshot

OPEN_REPLIES = ("begun", "continued", "stalled")  # after any other word a request is over


class ServerWait(Record, frozen=True, kw_only=True):
    """A request that one of our servers has not answered. ``fault``: what the scenario did to the server."""

    request: str
    model: str = ""
    fact: str
    age_s: float
    quiet_s: float = 0.0  # since the last piece of an answer
    address: str = ""
    fault: FaultInjected | None = None


class Outsiders:
    """The history up to the end of a snapshot, asked about the scenario's own doings."""

    def __init__(self, history: History, snapshot: Snapshot) -> None:
        self._now_ns = snapshot.ended_ns
        self._past = History.of(event for event in history if event.at_ns <= snapshot.ended_ns)
        self._sockets = snapshot.sockets

    def fault(self, name: str) -> FaultInjected | None:
        """The fault of this name that is in force."""
        current: FaultInjected | None = None
        for event in self._past:
            if isinstance(event, FaultInjected) and event.fault == name:
                current = event
            elif isinstance(event, FaultHealed) and event.fault == name:
                current = None
        return current

    def suspension(self, life: Life | None, pid: int) -> tuple[bool, bool]:
        """Whether we suspended it, and whether the scenario declared that it will not resume it."""
        ours = life is not None and stopped_by_us(self._past, life, self._now_ns)
        fault = self.fault(f"SIGSTOP to {life.started.role}") if life else None
        return ours, ours and fault is not None and fault.pid == pid and fault.silent_for_good

    def socket_to(self, pid: int, address: str) -> str:
        """The process' connection to an address, in words; empty when it has none."""
        found = [
            one for one in self._sockets if one.pid == pid and one.state == "ESTABLISHED" and one.remote == address
        ]
        if not address or not found:
            return ""
        queue = found[0].rx_queue_bytes
        told = "unknown" if queue is None else f"{queue} bytes"
        return f"fd {found[0].fd} is ESTABLISHED to {address}, receive queue {told}"

    def provider_waits(self, life: Life) -> Iterator[ServerWait]:
        """Requests that the provider has not finished; the fault belongs only to one that fell silent."""
        fault = self.fault("provider")
        replies: dict[int, str] = {}
        pieces_ns: dict[int, int] = {}
        for event in self._past.of_type(ProviderReply):
            replies[event.request] = event.what
            if event.what != "stalled":
                pieces_ns[event.request] = event.at_ns
        for request in asked(self._past, life):
            what = replies.get(request.request, "")
            if what and what not in OPEN_REPLIES:
                continue
            age_s = (self._now_ns - request.at_ns) / 1e9
            state = {"": "not answered", "stalled": "silent"}.get(what, "begun and not finished")
            yield ServerWait(
                request=str(request.request),
                model=request.model,
                fact=f"our own log: request {request.request} is {state} for {age_s:.1f} s",
                age_s=age_s,
                quiet_s=(self._now_ns - pieces_ns.get(request.request, request.at_ns)) / 1e9,
                address=fault.address if fault else "",
                fault=fault if what == "stalled" else None,
            )

    def registry_wait(self, life: Life) -> ServerWait | None:
        """The oldest request that a registry fault has held since it was injected."""
        fault = self.fault("registry")
        held = [
            event
            for event in self._past.of_type(RegistryRequest)
            if life.owns(event) and event.reply == "stalled" and fault is not None and event.at_ns >= fault.at_ns
        ]
        if not held or fault is None:
            return None
        age_s = (self._now_ns - held[0].at_ns) / 1e9
        fact = f"our own log: {held[0].path} unanswered for {age_s:.1f} s"
        return ServerWait(request=held[0].path, fact=fact, age_s=age_s, address=fault.address, fault=fault)

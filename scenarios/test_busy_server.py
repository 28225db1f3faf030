"""A server whose event loop is at work: what its health check says meanwhile (anomalyco/opencode#29762)."""

import socket
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple

import pytest

from pytest_ocrepro import NotReachedError, Server, Trial, bash, for_ever, held, late, prompt_body, text

ISSUES = ("anomalyco/opencode#29762", "openchamber/openchamber#1294")
COMMIT = (
    "sh",
    "-c",
    "git add -A && git -c user.name=a -c user.email=a@b commit -q -m first",
)
WRITE = (
    "python3 -c \"import json; json.dump([{'n': %d * i} for i in range(60000)], open('big.json', 'w'), indent=1)\""
)
LONG = " ".join(f"w{number}" for number in range(600))
WARM_UP, BEGIN = "the turn before", "begin the work"
SESSIONS = 6
LATE_S = 5.0  # what one wrapper allowed
IDLE_S = 1.0  # within which an idle server answers, unless the machine itself is too slow to tell
PATIENCE_S = 60.0
LIMIT_S = 20.0


class Told(NamedTuple):
    """One health check of a server, and those of an idle server beside it meanwhile."""

    seconds: float
    failure: str  # why it was no answer at all; a late one is none of these
    idle_s: float | None  # the slowest of the idle server's; None: it has not answered
    at_work: bool  # the turns were not over behind it


def health(server: Server) -> tuple[float, str]:
    """(seconds, why it is no answer)."""
    answer = server.call("GET", "/global/health", purpose="health", timeout_s=30, quiet=True)
    lost = not answer.accepted and not answer.timed_out
    return answer.seconds, (answer.error or f"status {answer.status}") if lost else ""


def health_of_both(pool: ThreadPoolExecutor, server: Server, idle: Server) -> tuple[float, str, float | None]:
    """The health of a server, and the slowest answer of the idle one until that came."""
    asked: Future[tuple[float, str]] = pool.submit(health, server)
    beside = [health(idle)]
    while not wait([asked], timeout=0.2).done:
        beside.append(health(idle))
    failed = any(failure for _, failure in beside)
    return *asked.result(), None if failed else max(seconds for seconds, _ in beside)


def health_meanwhile(ocrepro: Trial, server: Server, sessions: list[str], *, requests: int) -> None:
    """Ask for the health again and again until the turns are over; no answer may be late or missing.

    What an idle server is slow in, too, is the machine's doing. A turn before them has loaded what a server loads but
    once. ``requests``: of the model, by all turns.
    """
    idle = ocrepro.serve(role="idle-server")
    path = f"/session/{server.new_session()}/message"
    server.call("POST", path, prompt_body(WARM_UP), purpose="the turn before", timeout_s=PATIENCE_S)
    told: list[Told] = []
    with ThreadPoolExecutor(1) as pool:

        def over() -> bool:
            seconds, failure, idle_s = health_of_both(pool, server, idle)
            asked = sum(BEGIN in request.last_text for request in ocrepro.provider.requests() if not request.title)
            at_work = asked < requests or any(server.busy(session) for session in sessions)
            told.append(Told(seconds, failure, idle_s, at_work))
            return bool(failure) or not at_work

        for session in sessions:
            server.prompt(session, BEGIN)
        with suppress(NotReachedError):  # a loop that is blocked does not end them: what was told until then counts
            ocrepro.wait_until(over, what="the end of the turns", timeout_s=PATIENCE_S)
    judge(ocrepro, server, told)


def judge(ocrepro: Trial, server: Server, told: Sequence[Told]) -> None:
    """Say what the health checks have told."""
    lost = next((one.failure for one in told if one.failure), "")
    slow = [one for one in told if one.seconds > LATE_S]
    its_own = any(one.idle_s is not None and one.idle_s <= IDLE_S for one in slow)
    measured = any(one.at_work for one in told) and not told[-1].at_work
    slowest = max(told, key=lambda one: one.seconds)
    beside = "nothing" if slowest.idle_s is None else f"within {slowest.idle_s:.2f} s"
    said = f"the slowest of {len(told)} answers took {slowest.seconds:.2f} s, an idle server said {beside} meanwhile"
    alive = "lives" if server.process.alive else f"has ended with {server.process.exit_code}"
    ocrepro.claim(
        f"the health check answers within {LATE_S:g} s while it works",
        held=False if lost or its_own else None if slow or not measured else True,
        because=f"no answer: {lost}; the server {alive}"
        if lost
        else said + ("" if measured or slow else "; the turns were not seen at work and over"),
        finding="no-health" if lost else "late-health" if its_own else "",
    )


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="soak",
    timing=True,
    title="health check while a large file is compared",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "1/1"},
)
def test_health_while_a_large_file_is_compared(ocrepro: Trial) -> None:
    """A tool that rewrites a file of 1.5 MB must not keep the server from answering others.

    Refuted by health checks that are all answered within 5 s until the turn is over; one that an idle server beside
    it is as slow to answer tells nothing. What we found: from 1.14.34 on one check has no answer for the 30 s that it
    waits, though the call needs nothing of the session; up to 1.3.2 each has.
    """
    ocrepro.spawn(["sh", "-c", WRITE % 1], role="writer").wait_for_end()
    ocrepro.spawn(list(COMMIT), role="git").wait_for_end()
    ocrepro.provider.script(for_ever(text("done")), when=WARM_UP)
    ocrepro.provider.script(bash(WRITE % 7), for_ever(text("done")))
    server = ocrepro.serve()
    health_meanwhile(ocrepro, server, [server.new_session()], requests=2)


@pytest.mark.ocrepro(
    issue="anomalyco/opencode#49095",
    profile="ci",
    timing=True,
    title="health check beside six fast sessions",
)
def test_health_beside_fast_sessions(ocrepro: Trial) -> None:
    """Six sessions that are answered as fast as can be must not keep the server from answering others.

    Refuted by health checks that are all answered within 5 s until each of the six has had its turn; one that an idle
    server beside it is as slow to answer tells nothing.
    """
    ocrepro.provider.script(for_ever(text(LONG)))
    server = ocrepro.serve()
    health_meanwhile(ocrepro, server, [server.new_session() for _ in range(SESSIONS)], requests=SESSIONS)


def read_until(line: socket.socket, wanted: bytes, *, what: str) -> None:
    """Read from a stream until these bytes have come. Raises NotReachedError."""
    line.settimeout(LIMIT_S)
    seen = b""
    with suppress(TimeoutError):
        while wanted not in seen and (some := line.recv(1 << 16)):
            seen += some
    if wanted not in seen:
        raise NotReachedError(f"{what} was not told within {LIMIT_S:g} s; see {seen[-200:]!r}")


@pytest.mark.ocrepro(issue="anomalyco/opencode#15149", profile="ci", title="listener of events that goes")
def test_listener_of_events_that_goes(ocrepro: Trial) -> None:
    """A server must answer as before when a listener of its events has broken off in the middle of a turn.

    It goes when it was told of a turn whose answer is held. Refuted by that turn's end, and by a new session whose
    prompt is answered. What we found: each build tried does both.
    """
    barrier = ocrepro.provider.barrier()
    ocrepro.provider.script(held(barrier, text(LONG)), for_ever(text(LONG)))
    server = ocrepro.serve()
    session = server.new_session()
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as line:
        line.sendall(b"GET /event HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        read_until(line, b"data:", what="the first event")
        server.prompt(session, "begin")
        barrier.wait_for_arrival()
        read_until(line, session.encode(), what="an event of the session")
    ocrepro.expect(server.call("GET", f"/session/{session}", purpose="the session")).to_be_accepted()
    barrier.open()
    idle = server.wait_until_idle(session, LIMIT_S)
    ocrepro.claim(
        "the turn ends without its listener",
        held=idle,
        because="the session is idle" if idle else f"the session is not idle {LIMIT_S:g} s behind its answer",
        finding="" if idle else "stuck-busy",
    )
    made = server.call("POST", "/session", {}, purpose="a new session")
    if ocrepro.expect(made).to_be_accepted():
        path = f"/session/{made.json['id']}/message"
        answer = server.call("POST", path, prompt_body("go on"), purpose="a prompt", timeout_s=30)
        ocrepro.expect(answer).to_be_answered()


@pytest.mark.ocrepro(
    issue=(*ISSUES, "anomalyco/opencode#49095", "anomalyco/opencode#15149"), profile="ci", timing=True, control=True
)
def test_health_of_a_server_at_rest(ocrepro: Trial) -> None:
    """Control: one short answer of a model that thinks for a second."""
    ocrepro.provider.script(for_ever(late(1.0, text("done"))))
    server = ocrepro.serve()
    health_meanwhile(ocrepro, server, [server.new_session()], requests=1)

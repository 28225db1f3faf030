"""What do we call a server: by the calls that it owes an answer to.

A server without an open call owes nothing. An open call has its caller's timeout for a deadline; until then, and at
it, the same is asked as of any process: no step, two looks, the same chain. What the call waits for is told apart by
its session (a question that nobody answers), by the server's chain (a lock, the provider), and by the event loop: a
blocked or spinning one accepts nobody, while behind one that answers a probe the call alone is lost.
"""

from __future__ import annotations

from itertools import takewhile

from pytest_ocrepro.events import HEALTH_PROBE, HttpAsked, HttpCall
from pytest_ocrepro.history import History
from pytest_ocrepro.judge import waitgraph
from pytest_ocrepro.judge.foreign import BLIND, clients_of, is_blind, unanswered
from pytest_ocrepro.judge.judgement import Grade, Record, Verdict
from pytest_ocrepro.judge.life import Life
from pytest_ocrepro.judge.living import (
    STILL_S,
    STOPPED,
    SUSPENDED_BY_OTHERS,
    Living,
    Named,
    View,
    at_deadline,
    early,
    suspended,
    with_chain,
)
from pytest_ocrepro.judge.progress import looks_of, pair_of, progress_of, spent_s
from pytest_ocrepro.judge.sessions import open_questions, session_in
from pytest_ocrepro.judge.signs import event_loop_of, outside_of_its_loop
from pytest_ocrepro.readings import Snapshot

REFUSED = 400  # and above: a status that says no
NOBODY_WAITS = "nobody is seen to wait for it"
OWES_NOTHING = "it owes nothing that can be seen"


class Call(Record, frozen=True, kw_only=True):
    """One call to a server: ``end_ns`` when its answer or its timeout came, None while it is open."""

    method: str
    path: str
    begun_ns: int
    timeout_s: float
    end_ns: int | None = None
    status: int = 0
    timed_out: bool = False

    @property
    def words(self) -> str:
        """As a user would write it."""
        return f"{self.method} {self.path}"


def calls(history: History, life: Life) -> list[Call]:
    """The calls of the scenario to this server, in the order in which they were made; probes of ours left out."""
    mine = [event for event in history if _is_of(event, life)]
    ended = {event.number: event for event in mine if isinstance(event, HttpCall) and event.number}
    found = [_ended(event) for event in mine if isinstance(event, HttpCall)]
    found += [
        Call(method=event.method, path=event.path, begun_ns=event.at_ns, timeout_s=event.timeout_s)
        for event in mine
        if isinstance(event, HttpAsked) and event.number and event.number not in ended
    ]
    return sorted(found, key=lambda call: call.begun_ns)


def serving(history: History, life: Life, cut_ns: int) -> Living:
    """The server as it was at ``cut_ns``: by the call that was open then, or had just timed out."""
    if life.started.foreign:
        return _foreign(history, life, cut_ns)
    made = [call for call in calls(history, life) if call.begun_ns <= cut_ns]
    latest = max(made, key=lambda call: call.end_ns or cut_ns, default=None)
    by_the_user = _by_the_user(history, life, latest, cut_ns) if latest else None
    if by_the_user is not None:
        return by_the_user
    if latest is None or not (latest.timed_out or latest.end_ns is None):
        return _by_its_backlog(history, life, cut_ns) or Living(named=_by_answers(made))
    return owing(history, life, latest, cut_ns)


def owing(history: History, life: Life, call: Call, cut_ns: int) -> Living:
    """The server while it owes an answer to this call."""
    by_the_user = _by_the_user(history, life, call, cut_ns)
    if by_the_user is not None:
        return by_the_user
    view = _view(history, life, call, min(cut_ns, _owed_until(history, life, call) or cut_ns))
    facts = (
        f"it owes an answer to {call.words} for {(view.cut_ns - call.begun_ns) / 1e9:.1f} s",
        f"no progress for {view.quiet_s:.1f} s; the last step: {view.last}",
        *([view.rest.words] if view.rest else []),
        *filter(None, (_loop(view), _elsewhere(history, view, call), _probed(history, life, call))),
    )
    named = suspended(history, view) or _named(history, view, call)
    return Living(named=named, facts=facts, chain=waitgraph.in_words(view.graph, view.chain))


def _is_of(event: object, life: Life) -> bool:
    if not isinstance(event, HttpCall | HttpAsked) or event.purpose == HEALTH_PROBE:
        return False
    return event.role == life.started.role and life.started.at_ns <= event.at_ns < life.to_ns


def _ended(event: HttpCall) -> Call:
    return Call(
        method=event.method,
        path=event.path,
        begun_ns=event.at_ns - round(event.seconds * 1e9),
        timeout_s=event.timeout_s,
        end_ns=event.at_ns,
        status=event.status,
        timed_out=event.timed_out,
    )


def _by_the_user(history: History, life: Life, call: Call, cut_ns: int) -> Living | None:
    """Its session waits for the user. Our own log shows it: no looks are needed, and other work does not matter."""
    asked = [one for one in open_questions(history, life, cut_ns) if one.session == session_in(call.path)]
    if not asked or not (call.status >= REFUSED or call.timed_out or call.end_ns is None):
        return None
    became = f"was refused ({call.status})" if call.status >= REFUSED else "is not answered"
    why = f"{call.words} {became}: its session waits for an answer to its question"
    age_s = (cut_ns - asked[0].seen_ns) / 1e9
    fact = f"GET /question listed {asked[0].question or 'it'} {age_s:.1f} s before; no reply, reject or abort since"
    words = f"session {asked[0].session} waits for an answer to its question, which nobody gives [proved: {fact}]"
    return Living(named=(Verdict.WAITING_FOR_INPUT, Grade.PROVED, why), chain=(words,))


def _by_answers(made: list[Call]) -> Named:
    missing = list(dict.fromkeys(call.words for call in made if call.status <= 0))
    none_to = f"; none to {', '.join(missing)}"[:200] if missing else ""
    got = sum(call.status > 0 for call in made)
    return Verdict.ALIVE, Grade.PROVED if got else Grade.WEAK, f"it answered {got} of {len(made)} calls{none_to}"


def _foreign(history: History, life: Life, cut_ns: int) -> Living:
    """One that nobody of ours has called: what it owes is seen by who is connected to it."""
    if is_blind(history, life, cut_ns):
        return Living(named=(Verdict.INCONCLUSIVE, Grade.WEAK, BLIND))
    looks = [look for look in looks_of(history, life) if look.started_ns <= cut_ns]
    if not looks:
        return Living(named=(Verdict.INCONCLUSIVE, Grade.WEAK, "no full look at it"))
    found = _suspended(history, life, looks[-1]) or _by_its_backlog(history, life, cut_ns)
    return found or _by_its_clients(history, life, looks[-1], cut_ns)


def _suspended(history: History, life: Life, look: Snapshot) -> Living | None:
    reading = life.reading(look)
    if reading is None or reading.state not in STOPPED:
        return None
    queued = sum(one.rx_queue_bytes or 0 for one in look.sockets if one.pid == life.pid and one.state == "LISTEN")
    facts = (f"{queued} connection(s) wait to be accepted",) if queued else ()
    graph = waitgraph.build(history, look)
    chain = waitgraph.in_words(graph, waitgraph.chain_from(graph, f"pid:{life.pid}"))
    return Living(named=(Verdict.ALIVE, Grade.WEAK, SUSPENDED_BY_OTHERS), facts=facts, chain=chain)


def _by_its_backlog(history: History, life: Life, cut_ns: int) -> Living | None:
    """Nobody of ours called, but somebody's connection waits to be accepted. Of others the user's deadline rules."""
    looks = [look for look in looks_of(history, life) if look.started_ns <= cut_ns]
    stuck = list(takewhile(lambda look: _backlog(look, life), reversed(looks)))
    if not stuck:
        return None
    begun_ns = stuck[-1].started_ns - (round(_waiting_s(stuck[-1], life) * 1e9) if life.started.foreign else 0)
    waited_s = (stuck[0].started_ns - begun_ns) / 1e9
    if waited_s < STILL_S:
        return None
    timeout_s = life.started.deadline_s if life.started.foreign else waited_s
    call = Call(method="accept", path="a connection", begun_ns=begun_ns, timeout_s=timeout_s)
    view = _view(history, life, call, cut_ns)
    facts = (f"connections wait to be accepted for {waited_s:.1f} s", _loop(view))
    return Living(named=_named(history, view, call), facts=facts, chain=waitgraph.in_words(view.graph, view.chain))


def _waiting_s(look: Snapshot, life: Life) -> float:
    """How long the oldest connection in its backlog has waited, as far as the kernel tells."""
    return max((one.waiting_s or 0.0 for one in look.sockets if one.pid == life.pid), default=0.0)


def _by_its_clients(history: History, life: Life, look: Snapshot, cut_ns: int) -> Living:
    """By the requests that have come in on its connections and that nothing has gone out for."""
    clients = clients_of(life.pid, look)
    waiting = [one for one in clients if unanswered(one)]
    if waiting:
        oldest = max(waiting, key=lambda one: one.received_ago_s or 0.0)
        peer = next((one for one in look.processes if one.id.pid == oldest.peer_pid), None)
        who = f"{peer.role} (pid {peer.id.pid})" if peer else oldest.remote
        begun_ns = look.started_ns - round((oldest.received_ago_s or 0.0) * 1e9)
        call = Call(method="the request", path=f"of {who}", begun_ns=begun_ns, timeout_s=life.started.deadline_s)
        return owing(history, life, call, cut_ns)
    if any(unanswered(one) is None for one in clients):
        why = f"{len(clients)} connection(s) of clients; whether it owes them an answer cannot be told"
        return Living(named=(Verdict.INCONCLUSIVE, Grade.WEAK, why))
    none = f"no request on {len(clients)} connection(s) of clients is without an answer" if clients else NOBODY_WAITS
    return Living(named=(Verdict.ALIVE, Grade.WEAK, f"{none}: {OWES_NOTHING}"))


def _view(history: History, life: Life, call: Call, cut_ns: int) -> View:
    last_ns, what = progress_of(history, life, cut_ns)
    if last_ns < call.begun_ns:
        last_ns, what = call.begun_ns, f"it was sent {call.words}"
    since_ns = last_ns if life.started.foreign else call.begun_ns
    left_s = call.timeout_s - (cut_ns - since_ns) / 1e9
    view = View(
        life=life,
        cut_ns=cut_ns,
        quiet_s=(cut_ns - last_ns) / 1e9,
        last=what,
        late=left_s <= 0 or call.timed_out,
        left_s=max(0.0, left_s),
        deadline_s=call.timeout_s,
        spent_s=spent_s(history, life.pid, last_ns, cut_ns),
        pair=pair_of(history, life, last_ns, cut_ns),
    )
    return with_chain(history, view)


def _named(history: History, view: View, call: Call) -> Named:
    if not view.late:
        return early(view)
    verdict, grade, why = at_deadline(view)
    if verdict is Verdict.LIVELOCK:
        return verdict, grade, f"its event loop spins: {why}"
    if verdict is not Verdict.STALLED:
        return verdict, grade, why
    if _loop(view) or _elsewhere(history, view, call):
        return verdict, grade, "its event loop is blocked in a call that nobody here is seen to answer"
    if _answers_others(history, view.life, call):
        return verdict, grade, "its event loop runs and it waits for nobody: nobody is going to answer this call"
    return verdict, grade, why


def _backlog(snapshot: Snapshot, life: Life) -> str:
    reading = life.reading(snapshot)
    return event_loop_of(snapshot, reading) if reading else ""


def _loop(view: View) -> str:
    """What shows at both looks that its event loop does not run; empty where it does or cannot be told."""
    if view.pair is None or not _backlog(view.pair.before, view.life):
        return ""
    return _backlog(view.pair.after, view.life)


def _elsewhere(history: History, view: View, call: Call) -> str:
    """The same without a backlog, since it had accepted the one who asks: it sleeps elsewhere, and answers nobody."""
    probe = _probe_of(history, view.life, call)
    readings = [view.life.reading(look) for look in (view.pair.before, view.pair.after)] if view.pair else []
    places = {outside_of_its_loop(reading) if reading else "" for reading in readings}
    if probe is None or not probe.timed_out or len(places) != 1 or "" in places:
        return ""
    return f"its main thread is in {places.pop()} at both looks, and not in its event loop"


def _probe_of(history: History, life: Life, call: Call) -> HttpCall | None:
    probes = (
        event
        for event in history.of_type(HttpCall)
        if event.purpose == HEALTH_PROBE and event.role == life.started.role
    )
    return next((event for event in probes if call.end_ns is not None and event.at_ns >= call.end_ns), None)


def _owed_until(history: History, life: Life, call: Call) -> int | None:
    """The end of the call, or that of the probe behind it where that was in vain too; None while the call is open."""
    probe = _probe_of(history, life, call)
    return probe.at_ns if probe is not None and probe.timed_out else call.end_ns


def _probed(history: History, life: Life, call: Call) -> str:
    probe = _probe_of(history, life, call)
    if probe is None:
        return ""
    answer = f"answered {probe.status}" if probe.status > 0 else "was not answered either"
    return f"a health probe right after it {answer}, after {probe.seconds:.1f} s"


def _answers_others(history: History, life: Life, call: Call) -> bool:
    probe = _probe_of(history, life, call)
    return probe is not None and probe.status > 0

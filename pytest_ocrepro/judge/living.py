"""What do we call a process that has not ended: by evidence, at the first moment the evidence is there.

Before the deadline hung needs all of: an obligation that is outstanding; no step since before two full snapshots;
the same chain at both, on which everybody rests; and no way out that is seen: each wait leads to a cycle, to a dead
holder whose lock nothing breaks in time, or to a root that the scenario declared silent for good. At the deadline
quiet for long enough is enough. A process that is suspended, starved, at work, or that waits for somebody who is only
slow is not hung.
"""

from __future__ import annotations

from itertools import takewhile

from pytest_ocrepro.events import FaultHealed, ProviderReply, ProviderRequest, SignalSent
from pytest_ocrepro.history import History
from pytest_ocrepro.judge import waitgraph
from pytest_ocrepro.judge.foreign import BLIND, TOOL_RUNS, is_blind
from pytest_ocrepro.judge.judgement import Edge, Grade, Graph, Node, Record, Verdict
from pytest_ocrepro.judge.life import Life, asked, life_of, stopped_by_us, suspended_s
from pytest_ocrepro.judge.progress import (
    BUSY_SHARE,
    IDLE_SHARE,
    QUIET_S,
    Pair,
    Rest,
    pair_of,
    progress_of,
    rest_of,
    share_between,
    spent_s,
    starved_s,
)

STILL_S = 10.0  # so long without a visible step, at the deadline, is a stall; less is a slow process
STILL_SHARE = 0.25  # or this share of a short deadline
REPEATS = 3  # of one request, each answered with an error
STOPPED = ("T", "t")
SUSPENDED_BY_OTHERS = "somebody else has suspended it: that is no hang"
GOES_ON_S = 1.0  # what is seen so soon after a verdict may have happened before it


Named = tuple[Verdict, Grade, str]


class Living(Record, frozen=True, kw_only=True):
    """What a living process is called, the facts behind it, and the chain in words."""

    named: Named
    facts: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()


class View(Record, frozen=True, kw_only=True):
    """One living process at the instant ``cut_ns``, and all that its verdict rests on."""

    life: Life
    cut_ns: int
    quiet_s: float
    last: str
    late: bool
    left_s: float  # to its deadline
    deadline_s: float
    pair: Pair | None = None
    rest: Rest | None = None
    graph: Graph = Graph()
    chain: tuple[Edge, ...] = ()
    spent_s: float = 0.0  # of CPU, since its last step
    stable: bool = False  # the same chain at both looks, and nobody on it made a step or was at work

    @property
    def key(self) -> str:
        """The node of the process in the graph."""
        return f"pid:{self.life.pid}"

    @property
    def root(self) -> Node | None:
        """What the chain ends at."""
        return waitgraph.root_of(self.graph, self.chain)

    @property
    def grade(self) -> Grade:
        """How sure the chain is."""
        if not self.stable or (self.rest is not None and not self.rest.told):
            return Grade.WEAK
        return Grade.STRONG if any(edge.grade == "inferred" for edge in self.chain) else Grade.PROVED

    @property
    def patience_s(self) -> float:
        """So long without a step is no slow process."""
        return max(QUIET_S, min(STILL_S, STILL_SHARE * self.deadline_s))

    @property
    def still(self) -> bool:
        """Quiet for so long that it is no slow process."""
        return self.quiet_s >= self.patience_s


def living(history: History, life: Life, cut_ns: int) -> Living:
    """The process as it was at ``cut_ns``."""
    if life.started.foreign and life.started.obligation and is_blind(history, life, cut_ns):
        return Living(named=(Verdict.INCONCLUSIVE, Grade.WEAK, BLIND))
    if not life.started.obligation:
        return Living(named=(Verdict.ALIVE, Grade.WEAK, "it owes nothing"))
    view = _view(history, life, cut_ns)
    retrying = _retrying(history, view)
    named = suspended(history, view) or retrying or (at_deadline(view) if view.late else early(view))
    silence = f"no {'step' if retrying else 'progress'} for {view.quiet_s:.1f} s; the last step: {view.last}"
    facts = (silence, *([view.rest.words] if view.rest else []))
    return Living(named=named, facts=facts, chain=waitgraph.in_words(view.graph, view.chain))


def went_on(history: History, life: Life, judged_ns: int) -> str:
    """What the process did after it was called hung, before anybody healed, signalled or ended anything."""
    touched = [
        event.at_ns for event in history if isinstance(event, FaultHealed | SignalSent) and event.at_ns > judged_ns
    ]
    until_ns = min(touched, default=2**63)
    at_ns, what = progress_of(history, life, until_ns)
    if at_ns > judged_ns + GOES_ON_S * 1e9:
        return f"{what} {(at_ns - judged_ns) / 1e9:.1f} s later"
    exited = life.exited
    if exited is not None and judged_ns + GOES_ON_S * 1e9 < exited.at_ns <= until_ns:
        return f"exit {exited.code} {(exited.at_ns - judged_ns) / 1e9:.1f} s later"
    return ""


def _view(history: History, life: Life, cut_ns: int) -> View:
    last_ns, last = progress_of(history, life, cut_ns)
    allowed_s = life.started.deadline_s + suspended_s(history, life, cut_ns) + starved_s(history, life, cut_ns)
    since_ns = last_ns if life.started.foreign else life.started.at_ns
    left_s = allowed_s - (cut_ns - since_ns) / 1e9
    view = View(
        life=life,
        cut_ns=cut_ns,
        quiet_s=(cut_ns - last_ns) / 1e9,
        last=last,
        late=life.started.deadline_s > 0 and left_s <= 0,
        left_s=max(0.0, left_s),
        spent_s=spent_s(history, life.pid, last_ns, cut_ns),
        deadline_s=life.started.deadline_s,
        pair=pair_of(history, life, last_ns, cut_ns),
    )
    return with_chain(history, view)


def with_chain(history: History, view: View) -> View:
    """The view with what its two looks say: how it rests, the graph, and the chain from it."""
    pair = view.pair
    rest = rest_of(view.life, pair) if pair else None
    if pair is None or rest is None:
        return view
    graph = waitgraph.build(history, pair.after)
    chain = waitgraph.chain_from(graph, view.key)
    earlier = waitgraph.build(history, pair.before)
    before = waitgraph.chain_from(earlier, view.key)
    same = bool(chain) and [edge.holder for edge in chain] == [edge.holder for edge in before]
    if not chain:  # one that tries again and again is not asleep between two tries at every look
        graph, chain = earlier, before
    share = share_between(history, view.life.pid, view.cut_ns - int(QUIET_S * 1e9), view.cut_ns)
    stable = same and rest.idle and share < IDLE_SHARE and _holders_rest(history, view, chain, pair)
    values = {name: getattr(view, name) for name in View.__struct_fields__}
    return View(**{**values, "rest": rest, "graph": graph, "chain": chain, "stable": stable})


def _holders_rest(history: History, view: View, chain: tuple[Edge, ...], pair: Pair) -> bool:
    """Nobody else on the chain made a step since the first look, or was at work between the two."""
    for pid in waitgraph.processes_on(chain):
        if pid == view.life.pid:
            continue
        life = life_of(history, pid)
        rest = rest_of(life, pair) if life else None
        if life is None or rest is None or not rest.idle:
            return False
        if progress_of(history, life, view.cut_ns)[0] > pair.before.started_ns:
            return False
    return True


def suspended(history: History, view: View) -> Named | None:
    """A suspended process is no hung one, whoever suspended it."""
    reading = view.life.reading(view.pair.after) if view.pair else None
    ours = stopped_by_us(history, view.life, view.cut_ns)
    if not ours and (reading is None or reading.state not in STOPPED):
        return None
    verdict = Verdict.INCONCLUSIVE if view.late else Verdict.ALIVE
    return verdict, Grade.WEAK, "the scenario has suspended it: that is no hang" if ours else SUSPENDED_BY_OTHERS


def early(view: View) -> Named:
    """Before the deadline: hung only when nothing that is seen could let it go on in time."""
    rest, root = view.rest, view.root
    if rest is None or view.quiet_s < QUIET_S:
        return Verdict.ALIVE, Grade.WEAK, "too little time without a step to say anything"
    if rest.starved:
        return Verdict.ALIVE, Grade.WEAK, "it waits for a core: the machine is slow"
    if not rest.idle:
        return Verdict.ALIVE, Grade.WEAK, "it is at work"
    if not rest.told:
        return Verdict.ALIVE, Grade.WEAK, "what its threads are in is not told on this system: only time can tell"
    ours = not view.life.started.foreign  # what somebody else has piped into his, he may yet write
    if ours and root is not None and root.kind == "input" and view.stable and len(_ways_of(view)) == 1:
        return Verdict.WAITING_FOR_INPUT, view.grade, root.label
    if view.stable and waitgraph.has_no_way_out(view.graph, view.key, view.left_s):
        cycle = waitgraph.cycle_on(view.chain)
        if cycle:
            return Verdict.DEADLOCK, view.grade, f"a cycle of {len(cycle) - 1}, with no way out for any of them"
        return Verdict.BLOCKED, view.grade, f"everything waits: {_last_link(view)}"
    return Verdict.ALIVE, Grade.WEAK, _may_go_on(view)


def _last_link(view: View) -> str:
    """The chain's last link in words, and when it would end by itself where that is known."""
    labels = {node.key: node.label for node in view.graph.nodes}
    ends = [edge.ends_in_s for edge in view.chain if edge.ends_in_s is not None]
    link = waitgraph.sentence(view.chain[-1], labels)
    told = not ends or " itself in " in link
    return link if told else f"{link}; it would end by itself in about {min(ends):.0f} s, after its deadline"


def _ways_of(view: View) -> list[Edge]:
    return [edge for edge in view.graph.edges if edge.waiter == view.key]


def _may_go_on(view: View) -> str:
    ends = [edge.ends_in_s for edge in view.chain if edge.ends_in_s is not None]
    if ends:
        return f"the wait ends by itself in at most about {min(ends):.0f} s"
    return "nothing proves that it will not go on"


def at_deadline(view: View) -> Named:
    """At its deadline: quiet for long enough is enough."""
    rest, root = view.rest, view.root
    if not view.still:
        return Verdict.OVERRAN, Grade.STRONG, f"at the deadline its last step was {view.quiet_s:.1f} s ago"
    if rest is None:
        return Verdict.INCONCLUSIVE, Grade.WEAK, "no two comparable looks at it since its last step"
    if any(edge.verb == TOOL_RUNS for edge in view.chain):
        return Verdict.INCONCLUSIVE, Grade.WEAK, "a tool of it runs, and nobody knows how long that is to take"
    if root is not None and waitgraph.has_no_way_out(view.graph, view.key, 0.0):
        return _rooted(view, root)
    if not rest.idle and view.spent_s >= BUSY_SHARE * view.patience_s:  # however slow the machine is
        why = f"busy for {view.quiet_s:.1f} s without a step, with {view.spent_s:.1f} s of CPU, at the deadline"
        return Verdict.LIVELOCK, Grade.STRONG, why
    if rest.starved:
        return Verdict.INCONCLUSIVE, Grade.WEAK, "it waits for a core: the machine is slow"
    if rest.cpu_share >= BUSY_SHARE:
        return Verdict.LIVELOCK, Grade.STRONG, f"busy for {view.quiet_s:.1f} s without a step, at the deadline"
    if root is not None:
        return _rooted(view, root)
    sure = Grade.STRONG if rest.idle and rest.told else Grade.WEAK
    return Verdict.STALLED, sure, "at the deadline; no chain could be shown"


def _rooted(view: View, root: Node) -> Named:
    cycle = waitgraph.cycle_on(view.chain)
    if cycle:
        return Verdict.DEADLOCK, view.grade, f"at the deadline, a cycle of {len(cycle) - 1}"
    if root.kind == "input":
        return Verdict.WAITING_FOR_INPUT, view.grade, root.label
    return Verdict.BLOCKED, view.grade, f"at the deadline everything waits: {_last_link(view)}"


def _retrying(history: History, view: View) -> Named | None:
    """At the deadline, the same request again and again, each time with an error: steps, but no progress."""
    words = {event.request: event.what for event in history.of_type(ProviderReply) if event.at_ns <= view.cut_ns}
    over = [one for one in asked(history, view.life, view.cut_ns) if one.request in words]
    repeated = list(takewhile(lambda one: words[one.request] == "error" and _alike(one, over[-1]), reversed(over)))
    if not view.late or len(repeated) < REPEATS:
        return None
    if pair_of(history, view.life, repeated[-1].at_ns, view.cut_ns) is None:
        return None
    period_s = (repeated[0].at_ns - repeated[-1].at_ns) / 1e9 / (len(repeated) - 1)
    why = f"it asked {len(repeated)} times and got an error each time, about every {period_s:.1f} s, to the deadline"
    return Verdict.LIVELOCK, Grade.PROVED, why


def _alike(one: ProviderRequest, other: ProviderRequest) -> bool:
    return (one.path, one.model, one.last_text) == (other.path, other.model, other.last_text)

"""When each process reached which milestone, and how its watching ended: times, some of which have an open end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_ocrepro.events import MilestoneReached, ProviderReply, Swept
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.judge.life import Life, asked, is_legacy, lives, next_milestone
from pytest_ocrepro.readings import MILESTONES


class Reached(Record, frozen=True, kw_only=True):
    """A milestone, first seen so many seconds after the start of the process (late by a sample at most)."""

    milestone: str
    seconds: float


class Passage(Record, frozen=True, kw_only=True):
    """One subject's way. It was watched for ``watched_s`` from its start; ``awaited``: what it had not reached then.

    ``by_itself``: it ended of its own, so that it never will; else the end is open: we ended it, or it lived on.
    """

    role: str
    pid: int
    reached: tuple[Reached, ...]
    watched_s: float
    by_itself: bool
    awaited: str = ""


class Observed(Record, frozen=True):
    """A time to something. Not ``reached``: it had not come by then; ``never``: it cannot come any more."""

    seconds: float
    reached: bool
    never: bool = False


class Curve(Record, frozen=True, kw_only=True):
    """The share that has reached something: ``steps`` of (seconds, share from there on), ``open_ends`` in seconds."""

    steps: tuple[tuple[float, float], ...]
    open_ends: tuple[float, ...]


def passages(history: History) -> tuple[Passage, ...]:
    """Those of all subjects, in the order of their starts."""
    last_ns = max((event.at_ns for event in history), default=0)
    until_ns = min((event.at_ns for event in history.of_type(Swept)), default=last_ns)
    return tuple(_passage(history, life, until_ns) for life in lives(history) if life.started.is_subject)


def share_reached(observed: Sequence[Observed]) -> Curve:
    """1 - S of Kaplan and Meier (1958): one with an open end counts among those at risk until then.

    One that never can come stays at risk for good: the share then is of all, not only of those that could still.
    """
    left = 1.0
    steps = []
    for at in sorted({one.seconds for one in observed if one.reached}):
        at_risk = sum(one.never or one.seconds >= at for one in observed)
        left *= 1 - sum(one.reached and one.seconds == at for one in observed) / at_risk
        steps.append((at, 1 - left))
    open_ends = sorted(one.seconds for one in observed if not one.reached and not one.never)
    return Curve(steps=tuple(steps), open_ends=tuple(open_ends))


def _passage(history: History, life: Life, until_ns: int) -> Passage:
    end = life.exited or life.gone
    end_ns = min(end.at_ns, until_ns) if end else until_ns
    by_itself = end is not None and not (life.exited is not None and life.exited.ours)
    first: dict[str, float] = {}
    for milestone, at_ns in _told(history, life):
        if at_ns <= end_ns or by_itself:  # what one that has ended logged is read after its end
            seconds = max(0.0, (min(at_ns, end_ns) - life.started.at_ns) / 1e9)
            first[milestone] = min(first.get(milestone, seconds), seconds)
    furthest = max(first, key=MILESTONES.index, default="started")
    return Passage(
        role=life.started.role,
        pid=life.pid,
        reached=tuple(Reached(milestone=name, seconds=round(first[name], 3)) for name in MILESTONES if name in first),
        watched_s=round(max(0.0, (end_ns - life.started.at_ns) / 1e9), 3),
        by_itself=by_itself,
        awaited=next_milestone(furthest, legacy=is_legacy(history, life)),
    )


def _told(history: History, life: Life) -> Iterator[tuple[str, int]]:
    for event in history.of_type(MilestoneReached):
        if life.owns(event) and event.milestone in MILESTONES:
            yield event.milestone, event.at_ns
    requests = {event.request: event.at_ns for event in asked(history, life)}
    for at_ns in requests.values():
        yield "model-asked", at_ns
    for reply in history.of_type(ProviderReply):
        if reply.request in requests and reply.what == "finished":
            yield "model-answered", reply.at_ns

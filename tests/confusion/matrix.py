"""What was expected of each process of each run, what it was called, and the table of both.

A run is scored from its history alone, so that any judge can be put to the same test as ours. A process is judged at
every full snapshot, as the harness does it, and at the end of the run; the first time that it is called hung counts.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from pytest_ocrepro.events import SnapshotTaken
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import ProcessJudgement, Verdict
from pytest_ocrepro.judge.life import Life, lives

Judge = Callable[[History, Life], ProcessJudgement]
RIGHT = 0.99  # of the hung ones: verdict and root cause


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One process of one run. ``root``: whether the expected root cause was told; ``seconds`` until the verdict."""

    case: str
    role: str
    expected: Verdict
    judged: Verdict
    root: bool
    told: str
    seconds: float
    bundle: str = ""

    @property
    def right(self) -> bool:
        """Verdict and root cause."""
        return self.judged is self.expected and self.root


def score(case: str, role: str, wanted: tuple[Verdict, str], history: History, judge: Judge, *, bundle: str) -> Score:
    """Judge the process with this role as the harness would have done."""
    expected, root = wanted
    judged = _judged(history, role, judge)
    told = root_of(judged)
    return Score(
        case=case,
        role=role,
        expected=expected,
        judged=judged.verdict,
        root=re.search(root, told) is not None,
        told=told,
        seconds=judged.seconds,
        bundle=bundle,
    )


def _judged(history: History, role: str, judge: Judge) -> ProcessJudgement:
    life = _life(history, role)
    assert life is not None, f"no process has the role {role}"
    at_the_end = judge(history, life)
    if life.started.obligation == "serve" and at_the_end.verdict.hung:
        return at_the_end  # of a server that is hung the harness waits for the end of the call, and for a probe
    return next((one for one in _at_each_look(history, role, judge) if stops_the_watch(one)), at_the_end)


def _at_each_look(history: History, role: str, judge: Judge) -> Iterator[ProcessJudgement]:
    for known in looks(history):
        life = _life(known, role)
        if life is not None:
            yield judge(known, life)


def stops_the_watch(judged: ProcessJudgement) -> bool:
    """As the harness decides it."""
    return judged.verdict.hung or judged.verdict is Verdict.WAITING_FOR_INPUT


def looks(history: History) -> Iterator[History]:
    """What was known at each full snapshot."""
    events = tuple(history)
    for at, event in enumerate(events):
        if isinstance(event, SnapshotTaken) and event.snapshot.full:
            yield History.of(events[: at + 1])


def _life(history: History, role: str) -> Life | None:
    return next((life for life in lives(history) if life.started.role == role), None)


def root_of(judged: ProcessJudgement) -> str:
    """The root cause as it is told: the last link of the chain, or all of a cycle, or the reason."""
    heads = [_without_pids(link.split(" [")[0]) for link in judged.chain]
    if judged.verdict is Verdict.DEADLOCK:
        return f"cycle: {', '.join(heads)}"
    named = bool(heads) and (judged.verdict.hung or judged.verdict is Verdict.WAITING_FOR_INPUT)
    return heads[-1] if named else _without_pids(judged.because[-1])


def _without_pids(text: str) -> str:
    """Roles stay; a number that stands for itself becomes ``#``, that of a found process (``sleep-812``) too."""
    return re.sub(r"(?<=\bpid )\d+|(?<=\w-)\d+\b", "#", re.sub(r" \(pid \d+\)", "", text))


def faults(scores: Iterable[Score]) -> list[str]:
    """What is wrong with a judge that scored so; empty when it is good enough to be believed."""
    all_of_them = list(scores)
    hung = [one for one in all_of_them if one.expected.hung]
    healthy = [one for one in all_of_them if not one.expected.hung]
    found = [f"a healthy process was called hung: {describe(one)}" for one in healthy if one.judged.hung]
    for name, group in (("hung", hung), ("healthy", healthy)):
        wrong = [one for one in group if not one.right]
        if len(wrong) > (1 - RIGHT) * len(group):
            found.append(f"of {len(group)} {name} ones {len(wrong)} were judged wrongly: {describe(wrong[0])}")
    return found


def describe(one: Score) -> str:
    """One line."""
    return f"{one.case} ({one.role}): {one.expected} expected, {one.judged} after {one.seconds:.1f} s: {one.told}"


def table(scores: Iterable[Score]) -> str:
    """The confusion matrix, then a line a case."""
    all_of_them = list(scores)
    return "\n".join([*_matrix(all_of_them), "", *_by_case(all_of_them)])


def _matrix(scores: list[Score]) -> Iterator[str]:
    counts = Counter((one.expected, one.judged) for one in scores)
    columns = [one for one in Verdict if any(judged is one for _, judged in counts)]
    yield f"{'expected':18}" + "".join(f"{_short(one):>12}" for one in columns) + f"{'root right':>14}"
    for row in Verdict:
        own = [one for one in scores if one.expected is row]
        if own:
            cells = "".join(f"{counts[row, column] or '.':>12}" for column in columns)
            yield f"{row:18}{cells}{f'{sum(one.root for one in own)}/{len(own)}':>14}"


def _short(verdict: Verdict) -> str:
    return {"waiting-for-input": "input", "inconclusive": "inconcl."}.get(verdict, verdict.value)


def _by_case(scores: list[Score]) -> Iterator[str]:
    yield f"{'case':34}{'role':10}{'expected':18}{'right':>12}{'median s':>10}"
    for case, role in dict.fromkeys((one.case, one.role) for one in scores):
        own = [one for one in scores if (one.case, one.role) == (case, role)]
        counted = f"{sum(one.right for one in own)}/{len(own)}"
        seconds = statistics.median(one.seconds for one in own)
        yield f"{case:34}{role:10}{own[0].expected:18}{counted:>12}{seconds:>10.1f}"

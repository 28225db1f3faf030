"""Progress: for each scenario that reproduced, how long each of its subjects took to each milestone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.judge.passage import Observed, Passage, share_reached
from pytest_ocrepro.publish.counting import Entry, scenario_of, version_key
from pytest_ocrepro.publish.document import Block, Paragraph, Part, Picture, Text, said, seconds, sheet
from pytest_ocrepro.publish.pictures.survival import Group, Panel, percent_of, survival
from pytest_ocrepro.publish.text import clip
from pytest_ocrepro.readings import MILESTONES

MOST_PARTS = 12
MOST_ROLES = 4
MOST_PANELS = 8

CAPTION = (
    "Solid red: trials that reproduced; dashed green: the others of the same scenario and version. A tick is an open "
    "end: there we ended the process, or stopped looking, and it had not got there (Kaplan-Meier). One that ended by "
    "itself before will never get there and keeps the curve down."
)


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """All passages of one role: those of trials that reproduced, and the others'."""

    role: str
    bad: tuple[Passage, ...]
    good: tuple[Passage, ...]


def progress_times(entries: Sequence[Entry]) -> list[Part]:
    """A part a (scenario, version) that reproduced and whose trials tell times.

    The first that can be compared with trials which did not reproduce is open.
    """
    trials: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.result.passages:
            trials[scenario_of(entry.result), entry.result.version].append(entry)
    telling = [group for group in trials.values() if any(entry.says is Result.REPRODUCED for entry in group)]
    telling.sort(key=lambda group: (scenario_of(group[0].result), version_key(group[0].result.version)))
    both = [number for number, group in enumerate(telling) if any(one.says is Result.NOT_SEEN for one in group)]
    parts = [_part(group, opened=number in both[:1]) for number, group in enumerate(telling[:MOST_PARTS])]
    return [part for part in parts if part.blocks]


def _part(group: Sequence[Entry], *, opened: bool) -> Part:
    first = group[0].result
    bad = sum(entry.says is Result.REPRODUCED for entry in group)
    good = sum(entry.says is Result.NOT_SEEN for entry in group)
    return Part(
        title=clip(first.title, 160),
        note=f"opencode {first.version or '(unknown)'} · {bad} reproduced, {good} did not",
        opened=opened,
        blocks=tuple(block for times in _by_role(group) for block in _drawn(times)),
    )


def _by_role(group: Sequence[Entry]) -> list[Times]:
    found: dict[str, tuple[list[Passage], list[Passage]]] = defaultdict(lambda: ([], []))
    for entry in group:
        if entry.says is not Result.INCONCLUSIVE:
            for passage in entry.result.passages:
                found[passage.role][entry.says is Result.NOT_SEEN].append(passage)
    times = [Times(role=role, bad=tuple(bad), good=tuple(good)) for role, (bad, good) in found.items() if bad]
    return times[:MOST_ROLES]


def _drawn(times: Times) -> Iterator[Block]:
    panels = [_panel(times, milestone) for milestone in _milestones(times)]
    if not panels:
        return
    end_s = max((one.watched_s for one in (*times.bad, *times.good)), default=0.0) or 1.0
    title = f"{times.role}: share that has reached each milestone, by seconds since its start"
    yield Paragraph(text=said(title), css="strong")
    yield Picture(svg=survival(panels, end_s, title), title=title)
    heads = [
        "milestone",
        "trials",
        "#n",
        "#reached in the end",
        "#median s",
        "#open ends",
        "#ended before, by itself",
    ]
    table = sheet(f"{times.role}: times to each milestone", heads, list(_rows(times, panels)))
    yield Part(title=f"{times.role}, as a table", note="the same facts", blocks=(table,))


def _milestones(times: Times) -> list[str]:
    """Those that somebody reached, and the first that those which reproduced did not."""
    reached = {step.milestone for one in (*times.bad, *times.good) for step in one.reached}
    awaited = {one.awaited for one in times.bad} - {""}
    wanted = [name for name in MILESTONES[1:] if name in reached | awaited]
    return wanted[-MOST_PANELS:]


def _panel(times: Times, milestone: str) -> Panel:
    groups = [("reproduced", "bad", times.bad), ("others", "good", times.good)]
    return Panel(
        milestone=milestone,
        groups=tuple(
            Group(name=name, css=css, n=len(all_), curve=share_reached([_observed(one, milestone) for one in all_]))
            for name, css, all_ in groups
            if all_
        ),
    )


def _observed(passage: Passage, milestone: str) -> Observed:
    """Who is past a milestone has reached it: not every one is told by every log."""
    later = MILESTONES[MILESTONES.index(milestone) :]
    at = min((step.seconds for step in passage.reached if step.milestone in later), default=None)
    if at is None and milestone == "ended" and passage.by_itself:
        at = passage.watched_s
    return Observed(passage.watched_s if at is None else at, at is not None, at is None and passage.by_itself)


def _rows(times: Times, panels: Sequence[Panel]) -> Iterator[tuple[Text, ...]]:
    for panel in panels:
        for group in panel.groups:
            median = next((at for at, share in group.curve.steps if share >= 0.5), None)  # noqa: PLR2004 - a half
            passages = times.bad if group.css == "bad" else times.good
            never = sum(_observed(one, panel.milestone).never for one in passages)
            yield (
                said(panel.milestone),
                said(group.name),
                said(group.n),
                said(percent_of(group.curve)),
                said(seconds(median)),
                said(len(group.curve.open_ends)),
                said(never),
            )

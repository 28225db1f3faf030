"""Danger windows as the page tells them: a picture and its table for each scenario that swept an offset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median, quantiles

from pytest_ocrepro.publish.counting import Entry, plural, scenario_of
from pytest_ocrepro.publish.danger_window import DangerWindow, danger_windows
from pytest_ocrepro.publish.document import Block, Paragraph, Part, Picture, Words, said, seconds, sheet
from pytest_ocrepro.publish.pictures.window import Passed, window
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.text import clip

MOST_WINDOWS = 8
CAPTION = (
    "A point an offset: failed/n, with its 95 % interval as a band; red points failed at least once. Grey: when the "
    "first process passed a milestone (line: median, band: the middle half)."
)


def window_parts(entries: Iterable[Entry]) -> list[Part]:
    """A part a scenario and version that swept; none where nothing did. The one that failed most is open."""
    results = [entry.result for entry in entries if entry.result.offset is not None]
    found = sorted(danger_windows(results), key=lambda one: -one.failed)[:MOST_WINDOWS]
    return [_part(one, results, opened=number == 0) for number, one in enumerate(found)]


def _part(one: DangerWindow, results: Sequence[TrialResult], *, opened: bool) -> Part:
    mine = [result for result in results if (scenario_of(result), result.version) == (one.scenario, one.version)]
    passed = milestones_of(one.after, mine)
    title = f"Failure rate of {one.title} on {one.version} against its offset after {one.after}"
    picture = Picture(svg=window(one.rows, one.low_ms, one.high_ms, title, passed), title=title, caption=CAPTION)
    lag = "" if one.lag_ms is None else f" The next process started at most {one.lag_ms:.0f} ms later than asked."
    rows = [
        (
            said(f"{row.offset_ms:g}"),
            said(row.failed),
            said(row.n),
            said(f"{100 * row.low:.0f}-{100 * row.high:.0f} %"),
        )
        for row in one.rows
    ]
    blocks: list[Block] = [
        Paragraph(text=said(Words(clip(one.headline), "strong"), f".{lag}")),
        picture,
        Part(
            title="The window as a table",
            note="the same facts",
            blocks=(
                sheet(f"Trials by offset after {one.after}", ["#offset ms", "#failed", "#n", "#95 % interval"], rows),
                sheet(
                    "Milestones of the first process",
                    ["milestone", "#median s", "#from s", "#to s"],
                    [
                        (said(p.name), *(said(seconds(at / 1e3)) for at in (p.median_ms, p.low_ms, p.high_ms)))
                        for p in passed
                    ],
                ),
            ),
        ),
    ]
    return Part(
        title=clip(one.title, 160),
        note=f"opencode {one.version or '(unknown)'} · {plural(one.n, 'trial')}",
        opened=opened,
        blocks=tuple(blocks),
    )


def milestones_of(after: str, results: Iterable[TrialResult]) -> list[Passed]:
    """Of the process from whose start the offset is counted; none where it is counted from something else."""
    role = after.removeprefix("the start of ") if after.startswith("the start of ") else None
    times: dict[str, list[float]] = {}
    for result in results:
        for passage in result.passages:
            if passage.role == role:
                for step in passage.reached:
                    times.setdefault(step.milestone, []).append(step.seconds * 1e3)
    return [_passed(name, found) for name, found in times.items()]


def _passed(name: str, times_ms: list[float]) -> Passed:
    low, _, high = quantiles(times_ms, n=4, method="inclusive") if len(times_ms) > 1 else (times_ms * 3)
    return Passed(name=name, low_ms=low, median_ms=median(times_ms), high_ms=high)

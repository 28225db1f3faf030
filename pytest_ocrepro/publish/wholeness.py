"""Whether a run got to its end, and each of the runs that one was merged of; in a sentence, and part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.publish.counting import Entry, plural
from pytest_ocrepro.publish.records import RunInfo

TOLD = 3  # runs that a sentence names; the others are added up


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """One run of those in a merged run. ``here``: its trials in the merged run; ``planned``: None where unknown."""

    run_id: str
    started: str
    plugin_version: str
    system: str
    here: int
    planned: int | None

    @property
    def missing(self) -> int:
        """Trials that were to be run, and are not here."""
        return max((self.planned or 0) - self.here, 0)


def portions(frame: RunInfo, entries: Sequence[Entry]) -> tuple[Portion, ...]:
    """What each run has brought into a merged one; of any other run nothing."""
    here = Counter(entry.result.run_id for entry in entries)
    return tuple(
        Portion(
            run_id=part.run_id,
            started=part.started,
            plugin_version=part.plugin_version,
            system=next((fact.value for fact in part.machine if fact.name == "system"), ""),
            here=here[part.run_id],
            planned=part.planned,
        )
        for part in frame.parts
    )


def shortfall(frame: RunInfo, entries: Sequence[Entry], *, unread: int = 0) -> str:
    """How a run that did not get to its end is told; "" where nothing is missing, as far as is known.

    ``unread``: trials that are stored and cannot be read, which were begun all the same; of a merged run nobody knows
    whose they are, so they excuse each.
    """
    torn = sum(entry.torn for entry in entries)
    never = _of_merged(portions(frame, entries), unread) if frame.parts else _of_one(frame, len(entries) + unread)
    said = "; ".join([*never, *([f"{plural(torn, 'trial')} ended before the verdict"] if torn else [])])
    what = "Of these runs not all was run" if frame.parts else "This run was cut short"
    return f"{what}: {said}. What follows tells of the rest alone." if said else ""


def _of_one(frame: RunInfo, begun: int) -> Iterator[str]:
    never = max((frame.planned or 0) - begun, 0)
    if never:
        was = "was" if never == 1 else "were"
        yield f"of {plural(frame.planned or 0, 'planned trial')} {never} {was} never begun"


def _of_merged(parts: Sequence[Portion], unread: int) -> Iterator[str]:
    short = sorted((part for part in parts if part.missing > unread), key=lambda part: -part.missing)
    for part in short[:TOLD]:
        yield f"of {plural(part.planned or 0, 'trial')} planned in run {part.run_id} {part.missing} not here"
    if short[TOLD:]:
        lost = sum(part.missing for part in short[TOLD:])
        yield f"of {plural(len(short) - TOLD, 'more run')} {plural(lost, 'trial')} not here"

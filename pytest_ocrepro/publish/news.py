"""What one run shows and an earlier one did not, each with the text for a bug tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.cases import cases
from pytest_ocrepro.publish.comparison import Change, Direction, compare_paths
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.issue import page_note, told


class News(msgspec.Struct, frozen=True, kw_only=True):
    """``scenarios``: what is new shows in them; ``worse``: some rate rose beyond chance."""

    scenarios: tuple[str, ...]
    worse: bool


def news(first: Path, second: Path) -> News:
    """A rate that rose beyond chance, a scenario that reproduced and was not there, a signature that was not.

    Each version is compared with itself and with the others: last night's newest may not be tonight's. Raises
    UsageError.
    """
    found = [compare_paths([first], [second], across=across) for across in (False, True)]
    changes = [change for one in found for change in one.changes if not change.control]
    heard: dict[str, set[str]] = {}
    for change in changes:
        if change.first is not None:
            heard.setdefault(change.scenario, set()).update(kind.name for kind in change.first.signatures)
    new = [change.scenario for change in changes if _is_new(change, heard)]
    return News(scenarios=tuple(dict.fromkeys(new)), worse=any(one.worse for one in found))


def issue_texts(told_new: News, run: RunDir) -> Iterator[str]:
    """Of each piece of news the issue text, from the evidence of the second run. Raises BundleError."""
    note = page_note(run)
    for case in cases(entries_in(run)):
        if case.scenario in told_new.scenarios:
            yield told(run, case, page=note).text


def _is_new(change: Change, heard: Mapping[str, set[str]]) -> bool:
    if change.second is None or not change.second.k:
        return False
    unheard = {kind.name for kind in change.second.signatures} - heard.get(change.scenario, set())
    return change.direction is Direction.WORSE or change.scenario not in heard or bool(unheard)

"""Between which versions a scenario changed from seen to not seen, or back, and where to read what changed there."""

from __future__ import annotations

import itertools
import re

import msgspec

from pytest_ocrepro.publish.counting import Row

FEWEST = 3  # trials on both sides; fewer say nothing of a change
_PUBLISHED = re.compile(r"\d+\.\d+\.\d+")


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions that were tried, next to each other. ``url``: the changes between them, "" where unknown."""

    before: str
    after: str
    brought: bool
    url: str

    @property
    def in_words(self) -> str:
        """What the two cells say; no more is claimed, for a rate may have fallen and not gone."""
        if self.brought:
            return f"not seen on {self.before}, seen on {self.after}"
        return f"seen on {self.before}, not seen on {self.after}"


def turns(row: Row) -> tuple[Turn, ...]:
    """The turns of a scenario, oldest first, among the versions with enough trials that could tell."""
    told = [cell for cell in row.cells if cell and cell.n >= FEWEST]
    return tuple(
        Turn(
            before=one.version,
            after=other.version,
            brought=other.k > 0,
            url=_changes(one.version, other.version),
        )
        for one, other in itertools.pairwise(told)
        if (one.k > 0) != (other.k > 0)
    )


def _changes(before: str, after: str) -> str:
    if not (_PUBLISHED.fullmatch(before) and _PUBLISHED.fullmatch(after)):
        return ""
    return f"https://github.com/anomalyco/opencode/compare/v{before}...v{after}"

"""The results of one scenario's trials in the order in which they were run: drift and warm-up show here."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.pictures.svg import svg

MOST_BARS = 120
_BAR, _HEIGHT = 5, 26
# of the height: a result is told by it, and not by its colour alone
_TOPS = {Result.REPRODUCED: 0.0, Result.INCONCLUSIVE: 0.4, Result.NOT_SEEN: 0.75}


def outcomes(results: Sequence[Result]) -> str:
    """A bar a trial, high where it reproduced; of very many, a bar for several, each part as high as its share."""
    title = f"{sum(one is Result.REPRODUCED for one in results)} of {len(results)} trials reproduced, in order"
    if len(results) <= MOST_BARS:
        parts = [_bar(number, _TOPS[one], 1.0, one) for number, one in enumerate(results)]
        return svg("outcomes", max(1, len(results)) * _BAR, _HEIGHT, title, parts)
    parts = []
    for number in range(MOST_BARS):
        some = results[number * len(results) // MOST_BARS : (number + 1) * len(results) // MOST_BARS]
        top = 0.0
        for kind in (Result.NOT_SEEN, Result.INCONCLUSIVE, Result.REPRODUCED):
            share = sum(one is kind for one in some) / len(some)
            if share:
                parts.append(_bar(number, top, top + share, kind))
            top += share
    return svg("outcomes", MOST_BARS * _BAR, _HEIGHT, title, parts)


def _bar(number: int, top: float, bottom: float, kind: Result) -> str:
    y, height = top * _HEIGHT, (bottom - top) * _HEIGHT
    return f'<rect x="{number * _BAR}" y="{y:.1f}" width="{_BAR - 1}" height="{height:.1f}" class="bar {kind}"/>'

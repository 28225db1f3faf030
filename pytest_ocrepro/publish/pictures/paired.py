"""Two rates a row, one above the other, each with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.rates import wilson
from pytest_ocrepro.publish.pictures.svg import box, label, svg
from pytest_ocrepro.publish.text import cut

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 1120, 400, 260, 26, 46


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One row: k of n on either side, None where that side has no conclusive trial; ``css``: worse, better or ""."""

    label: str
    note: str
    first: tuple[int, int] | None
    second: tuple[int, int] | None
    told: str
    css: str = ""


def paired(pairs: Sequence[Pair], title: str) -> str:
    """The first side hollow and above, the second filled."""
    bottom = _TOP + _ROW * len(pairs)
    parts = [*_axis(bottom)]
    for number, pair in enumerate(pairs):
        parts += _pair(pair, _TOP + _ROW * number)
    return svg("paired", _WIDTH, bottom + 24, title, parts)


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share


def _axis(bottom: float) -> Iterator[str]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(share)
        yield f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom:.1f}" class="grid"/>'
        yield label(x, bottom + 16, f"{100 * share:.0f} %", "small", anchor="middle")


def _pair(pair: Pair, y: float) -> Iterator[str]:
    yield f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" class="rule"/>'
    yield label(0, y + 19, cut(pair.label, 50), "strong")
    yield label(0, y + 35, cut(pair.note, 58), "small")
    yield from _side("A", pair.first, y + 15, "first")
    yield from _side("B", pair.second, y + 34, f"second {pair.css}".strip())
    yield label(_WIDTH, y + 27, cut(pair.told, 28), f"small told {pair.css}".strip(), anchor="end")


def _side(name: str, rate: tuple[int, int] | None, y: float, css: str) -> Iterator[str]:
    yield label(_LEFT - 10, y + 4, name, "small", anchor="end")
    if rate is None or not rate[1]:
        yield label(_x(0) + 4, y + 4, "no conclusive trial", "small")
        return
    k, n = rate
    ends = wilson(k, n)
    hint = f"{name}: {k}/{n}, {100 * ends.low:.0f} to {100 * ends.high:.0f} %"
    yield box(_x(0), y - 4, max(_x(k / n) - _x(0), 1), 8, f"share {css}", hint)
    yield f'<path d="M{_x(ends.low):.1f} {y - 5:.1f}v10m0-5H{_x(ends.high):.1f}m0-5v10" class="whisker"/>'
    yield label(_x(1) + 10, y + 4, f"{k}/{n}", "small")

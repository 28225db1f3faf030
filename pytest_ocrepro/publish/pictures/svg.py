"""What all pictures are drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_ocrepro.publish.text import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable


def svg(kind: str, width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """The whole picture of ``parts``; it shrinks with the page, and is scrolled where it would get too small."""
    return (
        f'<svg class="picture {kind}" role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="min-width:{min(width, 720):.0f}px;max-width:{width:.0f}px" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escaped(title)}</title>{"".join(parts)}</svg>'
    )


def label(x: float, y: float, text: str, css: str, *, anchor: str = "start") -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escaped(text)}</text>'


def box(x: float, y: float, width: float, height: float, css: str, title: str = "", fill: str = "") -> str:
    """A rectangle of at least a pixel; ``title`` is shown where the pointer rests."""
    hint = f"<title>{escaped(title)}</title>" if title else ""
    paint = f' fill="{fill}"' if fill else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" '
        f'class="{css}"{paint}>{hint}</rect>'
    )

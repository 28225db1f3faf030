"""Text of the subject on its way into Markdown: it stays text, on one line, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_ocrepro.publish.text import cut, flat, visible

MOST_CHARACTERS = 400  # of one cell
PARTS = "\u200b"

# What GitHub's Markdown could take for markup, a link, an emoji, a formula or HTML. CommonMark lets every ASCII
# punctuation character be escaped.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>()#|~&$!@:]")


def escaped(text: str, most: int = MOST_CHARACTERS) -> str:
    """Visible, on one line, cut to ``most`` characters, and with nothing left that Markdown would act on.

    A tracker looks for mentions and cross-references in what Markdown has made, where the escape is gone: a space
    without width parts the sign from the name.
    """
    return _SPECIAL.sub(r"\\\g<0>", cut(flat(text), most)).replace("@", f"@{PARTS}").replace("#", f"#{PARTS}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str) -> str:
    """A block of code, with a fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{visible(text)}\n{fence}"

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
# The same with its surroundings: within a word an underscore is none of it, nor is a bracket that nothing opens.
_ACTING = re.compile(r"[\\`*\[<#|~&$@]|(?<!\w)_|_(?!\w)|^(?:[>=+-]|\d+(?=[.)] ))|:(?=[\w+-]+:)")
# What a tracker calls or links, found where the escapes are gone.
_CALLING = re.compile(r"[@#]|\bGH(?=-\d)|\bwww(?=\.)|:(?=//)", re.IGNORECASE)


def escaped(text: str, most: int = MOST_CHARACTERS) -> str:
    """Visible, on one line, cut to ``most`` characters, and with nothing left that Markdown would act on.

    A tracker looks for mentions and cross-references in what Markdown has made, where the escape is gone: a space
    without width parts the sign from the name.
    """
    return _SPECIAL.sub(r"\\\g<0>", cut(flat(text), most)).replace("@", f"@{PARTS}").replace("#", f"#{PARTS}")


def prose(text: str, most: int = MOST_CHARACTERS) -> str:
    """As ``escaped``, but only where Markdown would act, so that a sentence can be read as it is, too."""
    return _CALLING.sub(f"\\g<0>{PARTS}", _ACTING.sub(_escape, cut(flat(text), most)))


def code(text: str, most: int = MOST_CHARACTERS) -> str:
    """Visible, on one line, as a span of code; "" stays ""."""
    shown = cut(flat(text), most)
    ticks = "`" * (_longest_run(shown) + 1)
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{ticks}{room}{shown}{room}{ticks}" if shown else ""


def cell(text: str, most: int = MOST_CHARACTERS) -> str:
    """As code, for a table: there a bar ends the cell even in code, unless it is escaped (GFM, tables)."""
    return code(text, most).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """A block of code, with a fence that is longer than any in it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def folded(title: str, *parts: str) -> str:
    """Parts behind a line that opens them; ``title`` is ours. The empty lines let GitHub read Markdown in it."""
    return "\n\n".join([f"<details><summary>{title}</summary>", *parts, "</details>"])


def _escape(found: re.Match[str]) -> str:
    """A number before a dot would begin a list; there the dot is what can be escaped."""
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)

"""What a trial's part of the page is made of: a few kinds of blocks, drawn alike by the template and by the script.

The template draws them into the page itself; those of further trials travel as compressed JSON and are drawn by the
page's script when somebody asks for them. Both know the kinds below and nothing of trials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from pytest_ocrepro.publish.text import clip

MAX_VOICES = 10
LEVELS = ("debug", "info", "warn", "error", "other")
UNKNOWN = "–"  # noqa: RUF001 - a dash stands for "not known"


class Words(msgspec.Struct, frozen=True, omit_defaults=True, rename={"text": "t", "css": "c", "href": "h"}):
    """A piece of text. ``css``: class names of the style sheet; ``href``: a fragment, or an issue's address."""

    text: str
    css: str = ""
    href: str = ""


Text = tuple[str | Words, ...]


class Block(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag=str.lower):
    """Base of all blocks."""

    @property
    def kind(self) -> str:
        """The name of its kind, by which it is drawn."""
        return str(self.__struct_config__.tag)


class Heading(Block, frozen=True, kw_only=True):
    """A heading within a trial."""

    text: str


class Paragraph(Block, frozen=True, kw_only=True):
    """One paragraph."""

    text: Text
    css: str = ""


class Verbatim(Block, frozen=True, kw_only=True):
    """Text with its own line breaks. ``folded``: a summary behind which it is hidden."""

    text: str
    folded: str = ""


class Bullets(Block, frozen=True, kw_only=True):
    """A list."""

    items: tuple[Text, ...]


class Sheet(Block, frozen=True, kw_only=True):
    """A table. A head that begins with ``#`` is of a column of numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """One link of a chain: who waits; ``grade`` "" where the sentence has no edge."""

    waiter: str
    verb: str = ""
    grade: str = ""
    holder: str = ""


class Chain(Block, frozen=True, kw_only=True):
    """Who waits for whom, the root last."""

    links: tuple[Link, ...]


class Picture(Block, frozen=True, kw_only=True):
    """An SVG of ours, text escaped already. ``title`` says it in words."""

    svg: str
    title: str
    caption: str = ""


class Line(msgspec.Struct, frozen=True, rename={"at": "a", "who": "w", "level": "l", "text": "t"}):
    """One line of a logbook. ``at`` in seconds on the trial's clock, "" where it is not known."""

    at: str
    who: int
    level: str
    text: str


class Logbook(Block, frozen=True, kw_only=True):
    """Lines of several processes on one clock, with filters. ``who`` of a line counts in ``voices``.

    There are as many voices as the style sheet has filters at most, and no level but ``LEVELS``.
    """

    caption: str
    voices: tuple[str, ...]
    levels: tuple[str, ...]
    lines: tuple[Line, ...]


class Part(Block, frozen=True, kw_only=True):
    """Blocks behind a summary. ``id``: where a fragment leads to."""

    title: str
    note: str = ""
    id: str = ""
    opened: bool = False
    blocks: tuple[Block, ...]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trial's part of the page."""

    anchor: str
    result: str
    glyph: str
    title: str
    note: str
    blocks: tuple[Block, ...]


def said(*pieces: str | Words | float | None) -> Text:
    """Pieces of text in a row; None is shown as a dash, numbers as they are, empty pieces are left out."""
    shown = (UNKNOWN if piece is None else piece for piece in pieces)
    return tuple(piece if isinstance(piece, (str, Words)) else f"{piece}" for piece in shown if piece != "")


def mono(text: str | None, most: int = 400) -> Words:
    """Text of a machine: paths, identifiers."""
    return Words(UNKNOWN if text is None else clip(text, most), "mono")


def soft(text: str) -> Words:
    """An aside."""
    return Words(text, "small soft")


def seconds(value: float | None, digits: int = 2) -> str:
    """``4.10``, or a dash."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def lines_of(facts: Iterable[str], most: int = 400) -> Text:
    """Facts under one another in one cell."""
    shown = [clip(fact, most) for fact in facts]
    return ("\n".join(shown),) if shown else ()


def sheet(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Text]]) -> Sheet:
    """A table of these rows."""
    return Sheet(caption=caption, heads=tuple(heads), rows=tuple(tuple(row) for row in rows))


_ISSUE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]{0,38})/([A-Za-z0-9._-]{1,100})#([0-9]{1,9})")


def issue_url(issue: str) -> str:
    """Where an issue like ``owner/name#12`` is; empty for anything else, which is then shown as text."""
    found = _ISSUE.fullmatch(issue)
    return "https://github.com/{}/{}/issues/{}".format(*found.groups()) if found else ""


def issues(names: Iterable[str]) -> Text:
    """Links to issues, with commas."""
    links = [Words(name, href=url) if (url := issue_url(name)) else name for name in names]
    return tuple(piece for link in links for piece in (", ", link))[1:]

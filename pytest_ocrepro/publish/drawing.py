"""Blocks as HTML. templates/report.js draws the same kinds for trials that travel compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from markupsafe import Markup

from pytest_ocrepro.publish.document import (
    Block,
    Bullets,
    Chain,
    Heading,
    Logbook,
    Paragraph,
    Part,
    Picture,
    Sheet,
    Text,
    Trial,
    Verbatim,
    Words,
)
from pytest_ocrepro.publish.text import escaped


def trial(one: Trial, *, opened: bool = False) -> Markup:
    """A trial as a foldable part of the page."""
    glyph = f'<span class="{one.result}"><span class="glyph" aria-hidden="true">{one.glyph}</span></span>'
    summary = f'{glyph}<h3>{escaped(one.title)}</h3> <span class="small soft">{escaped(one.note)}</span>'
    attributes = f'class="trial {one.result}" id="{escaped(one.anchor)}"{" open" if opened else ""}'
    body = "\n".join(map(block, one.blocks))
    return Markup(f"<details {attributes}>\n<summary>{summary}</summary>\n{body}\n</details>")  # noqa: S704 - escaped


def block(one: Block) -> str:
    """One block."""
    return _DRAWN[type(one)](one)


def section(one: Part) -> Markup:
    """A part of the page itself, and not of a trial: its heading is one higher."""
    return Markup(_part(one, level=3))  # noqa: S704 - escaped


def words(text: Text) -> str:
    """Text with its marks."""
    return "".join(escaped(piece) if isinstance(piece, str) else _marked(piece) for piece in text)


def _marked(piece: Words) -> str:
    css = f' class="{escaped(piece.css)}"' if piece.css else ""
    if not piece.href:
        return f"<span{css}>{escaped(piece.text)}</span>"
    rel = "" if piece.href.startswith("#") else ' rel="noreferrer noopener"'
    return f'<a href="{escaped(piece.href)}"{css}{rel}>{escaped(piece.text)}</a>'


def _heading(one: Heading) -> str:
    return f"<h4>{escaped(one.text)}</h4>"


def _paragraph(one: Paragraph) -> str:
    return f'<p class="{one.css}">{words(one.text)}</p>' if one.css else f"<p>{words(one.text)}</p>"


def _verbatim(one: Verbatim) -> str:
    text = f'<pre tabindex="0">{escaped(one.text)}</pre>'
    if not one.folded:
        return text
    return f'<details><summary class="small">{escaped(one.folded)}</summary>{text}</details>'


def _bullets(one: Bullets) -> str:
    return '<ul class="tight">' + "".join(f"<li>{words(item)}</li>" for item in one.items) + "</ul>"


def _sheet(one: Sheet) -> str:
    numeric = [head.startswith("#") for head in one.heads]
    heads = "".join(
        f'<th scope="col"{_N[number]}>{escaped(head.removeprefix("#"))}</th>'
        for head, number in zip(one.heads, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(f"<td{_N[n]}>{words(cell)}</td>" for cell, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in one.rows
    )
    none = f'<tr><td colspan="{len(one.heads)}">none</td></tr>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(one.caption[:80])}">'
        f'<table class="sheet"><caption>{escaped(one.caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{rows or none}\n</tbody></table></div>"
    )


_N = {True: ' class="n"', False: ""}


def _chain(one: Chain) -> str:
    parts: list[str] = []
    before = ""
    for link in one.links:
        if not parts or link.waiter != before:
            parts.append(f'<li><span class="link">{escaped(link.waiter)}</span></li>')
        before = link.holder
        if link.holder:
            badge = f'<span class="badge {escaped(link.grade)}">{escaped(link.grade)}</span>'
            arrow = f'<span class="arrow">{escaped(link.verb)} → {badge}</span>'
            parts.append(f'<li>{arrow}<span class="link">{escaped(link.holder)}</span></li>')
    return f'<ol class="chain" aria-label="Who waits for whom, the root last">{"".join(parts)}</ol>'


def _picture(one: Picture) -> str:
    caption = f"<figcaption>{escaped(one.caption)}</figcaption>" if one.caption else ""
    return f'<figure tabindex="0">{one.svg}{caption}</figure>'


def _logbook(one: Logbook) -> str:
    voices = "".join(
        f'<label><input type="checkbox" class="v{n}" checked> {escaped(voice)}</label>'
        for n, voice in enumerate(one.voices)
    )
    levels = "".join(
        f'<label><input type="checkbox" class="l-{escaped(level)}" checked> {escaped(level)}</label>'
        for level in one.levels
    )
    lines = "\n".join(
        f'<li class="v{line.who} l-{escaped(line.level)}"><i>{escaped(line.at)}</i>'
        f"<b>{escaped(one.voices[line.who])}</b> <span>{escaped(line.text)}</span></li>"
        for line in one.lines
    )
    return (
        f'<div class="logbook"><fieldset><legend>{escaped(one.caption)}</legend>{voices}{levels}</fieldset>'
        f'<ol tabindex="0" aria-label="{escaped(one.caption)}">\n{lines}\n</ol></div>'
    )


def _part(one: Part, level: int = 4) -> str:
    note = f' <span class="soft small">{escaped(one.note)}</span>' if one.note else ""
    where = f' id="{escaped(one.id)}"' if one.id else ""
    head = f'<details class="part"{where}{" open" if one.opened else ""}>'
    title = f"<h{level}>{escaped(one.title)}</h{level}>"
    return f"{head}<summary>{title}{note}</summary>\n{_all(one.blocks)}\n</details>"


def _all(blocks: Iterable[Block]) -> str:
    return "\n".join(map(block, blocks))


_DRAWN: dict[type[Block], Callable[..., str]] = {
    Heading: _heading,
    Paragraph: _paragraph,
    Verbatim: _verbatim,
    Bullets: _bullets,
    Sheet: _sheet,
    Chain: _chain,
    Picture: _picture,
    Logbook: _logbook,
    Part: _part,
}

"""What the page says first: the clearest case, how often it happens, and what a reader can take away of it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import msgspec
from markupsafe import Markup

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish import drawing, trace
from pytest_ocrepro.publish.claim_blocks import parted
from pytest_ocrepro.publish.counting import DUMP, Cell, Entry, Row, clarity, scenario_of, shows
from pytest_ocrepro.publish.pictures.outcomes import outcomes
from pytest_ocrepro.publish.trial_document import first_look
from pytest_ocrepro.publish.trial_view import View, seconds_told

ORDERED = 3  # trials; fewer have no order that tells anything
TRACE_BYTES = 1_500_000  # a larger one would push the page towards what cannot be attached

Reader = Callable[[Entry], View | None]


class Companion(msgspec.Struct, frozen=True, kw_only=True):
    """Another trial to look at beside the clearest."""

    label: str
    anchor: str


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A file that travels in the page."""

    label: str
    name: str
    href: str
    size_bytes: int


class FirstScreen(msgspec.Struct, frozen=True, kw_only=True):
    """The clearest case. ``lead``: its sentence, ``rest``: what follows; ``rate``: k of n in words.

    ``n``: trials that could tell; ``seconds``: after which it was judged so.

    ``order``: the picture of all outcomes of its scenario on its version, where there are enough to show an order.
    """

    entry: Entry
    lead: str
    rest: str
    blocks: tuple[Markup, ...]
    rate: str
    n: int
    seconds: float
    order: Markup
    companions: tuple[Companion, ...]
    trace: Download | None


def clearest_of(entries: Sequence[Entry], read: Reader) -> View | None:
    """The trial that shows most in the shortest time, and can be read."""
    for entry in sorted(filter(shows, entries), key=clarity):
        view = read(entry)
        if view is not None:
            return view
    return None


def first_screen(view: View, entries: Sequence[Entry], rows: Sequence[Row], kept: frozenset[str]) -> FirstScreen:
    """``kept``: the anchors of all trials whose evidence the page holds."""
    cell = _cell_of(view.entry, rows)
    alike = [entry for entry in entries if _cell_key(entry) == _cell_key(view.entry)]
    in_order = sorted(alike, key=lambda entry: (entry.info.started if entry.info else "", entry.result.trial))
    said = [entry.says for entry in in_order]
    lead, rest = parted(view.entry.result.reason)
    return FirstScreen(
        entry=view.entry,
        lead=lead,
        rest=rest,
        blocks=tuple(Markup(drawing.block(one)) for one in first_look(view, uid="first")),  # noqa: S704 - escaped
        rate=Rate(k=cell.k, n=cell.n).in_words() if cell and scenario_of(view.entry.result) != DUMP else "",
        n=cell.n if cell else 0,
        seconds=seconds_told(view),
        order=Markup(outcomes(said) if len(said) >= ORDERED else ""),  # noqa: S704 - numbers alone
        companions=tuple(_companions(view.entry, alike, entries, kept)),
        trace=_trace(view),
    )


def _cell_key(entry: Entry) -> tuple[str, str]:
    return scenario_of(entry.result), entry.result.version


def _cell_of(entry: Entry, rows: Sequence[Row]) -> Cell | None:
    cells = (cell for row in rows if row.scenario == scenario_of(entry.result) for cell in row.cells)
    return next((cell for cell in cells if cell and cell.version == entry.result.version), None)


def _companions(
    clearest: Entry, alike: Sequence[Entry], entries: Sequence[Entry], kept: frozenset[str]
) -> list[Companion]:
    found = []
    bad = [entry for entry in alike if entry.says is Result.REPRODUCED and entry.anchor in kept]
    bad.sort(key=lambda entry: entry.result.seconds_to_verdict)
    typical = bad[len(bad) // 2] if bad else clearest
    if typical is not clearest:
        found.append(Companion(label="a typical one", anchor=typical.anchor))
    twins = [*alike, *(entry for entry in entries if scenario_of(entry.result) == scenario_of(clearest.result))]
    twins += [entry for entry in entries if set(entry.result.issue) & set(clearest.result.issue)]
    twin = next((entry for entry in twins if entry.says is Result.NOT_SEEN and entry.anchor in kept), None)
    if twin is not None:
        found.append(Companion(label="one that went well", anchor=twin.anchor))
    return found


def _trace(view: View) -> Download | None:
    content = trace.encode(view.stored)
    if len(content) > TRACE_BYTES:
        return None
    return Download(
        label="Download trace",
        name=f"{view.entry.anchor.removeprefix('trial-')}.trace.json.gz",
        href=f"data:application/gzip;base64,{base64.b64encode(content).decode()}",
        size_bytes=len(content),
    )

"""The self-contained HTML page of a run.

The page is rebuilt from the bundles at any time. It asks for nothing and carries one script, ours, which its content
security policy names by hash; without it everything of the first screen can still be read. All text goes through
``text.visible`` and is escaped on its way in, and what travels compressed is put in by the script as text alone.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.events import ObservingCost
from pytest_ocrepro.publish import drawing, storage
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.cases import Case, cases
from pytest_ocrepro.publish.counting import (
    GLYPHS,
    WORDS,
    Entry,
    headline,
    matrix,
    place,
    plural,
    tally,
    unjudged,
    versions_of,
)
from pytest_ocrepro.publish.document import Block, issue_url
from pytest_ocrepro.publish.elsewhere import PLACES, command
from pytest_ocrepro.publish.evidence import gather
from pytest_ocrepro.publish.first_screen import clearest_of, first_screen
from pytest_ocrepro.publish.issue import write_issues
from pytest_ocrepro.publish.packing import index, packed
from pytest_ocrepro.publish.progress_times import CAPTION, progress_times
from pytest_ocrepro.publish.records import Fact, Origin, RunInfo, TrialResult
from pytest_ocrepro.publish.redaction import Masked
from pytest_ocrepro.publish.takeaway import takeaways
from pytest_ocrepro.publish.text import clip, visible
from pytest_ocrepro.publish.trial_view import View, view_of
from pytest_ocrepro.publish.turns import turns
from pytest_ocrepro.publish.wholeness import portions, shortfall
from pytest_ocrepro.publish.window_section import window_parts

GOOD_BYTES, MOST_BYTES = 15_000_000, 24_000_000
AT_FIRST = ("system", "file system", "cores", "memory")  # of the machine, what its reader asks first
ROWS = 200  # of the table that is there without the script


def write_report(run: RunDir, compared: Sequence[Block] = ()) -> Path:
    """Render the run and store the page in it, and text and script of each case beside it; returns the page's path.

    ``compared``: what is told of it beside another run set. Raises BundleError where it cannot.
    """
    page = _Page(run, compared)
    path = run.write_page(page.render())
    write_issues(run, page.cases)
    return path


def render(run: RunDir) -> str:
    """The page, as one text. A bundle that cannot be read is named on it with its error; the others are there."""
    return _Page(run).render()


class _Page:
    """Gathers a run and renders it, one history in memory at a time."""

    def __init__(self, run: RunDir, compared: Sequence[Block] = ()) -> None:
        self._run = run
        self._compared = compared
        self._problems: list[str] = []
        self._masked: Counter[str] = Counter()
        self._costs: dict[str, ObservingCost] = {}
        self._entries = sorted(self._gather(), key=place)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The scenarios that reproduced."""
        return cases(self._entries)

    def render(self) -> str:
        taken = takeaways(self._run, self._entries)
        view = clearest_of([taken.clearest], self._view) if taken.clearest else None
        view = view or clearest_of(self._entries, self._view)
        evidence = gather(self._entries, self._view, view.entry if view else None)
        scenarios = matrix(self._entries, evidence.anchors)
        first = first_screen(view, self._entries, scenarios, frozenset(evidence.where)) if view else None
        size_mark = f"size-{secrets.token_hex(16)}"  # no text of the run can hold it
        text = (
            _templates()
            .get_template("report.html.j2")
            .render(
                run=self._run.info,
                headline=headline(scenarios),
                machine=_at_first(self._run.info),
                shortfall=shortfall(self._run.info, self._entries, unread=self._unread()),
                portions=portions(self._run.info, self._entries),
                tally=tally(scenarios),
                controls=[row for row in scenarios if row.control],
                versions=versions_of(self._entries),
                matrix=scenarios,
                first=first,
                taken=taken,
                windows=[drawing.section(part) for part in window_parts(self._entries)],
                compared=[Markup(drawing.block(one)) for one in self._compared],  # noqa: S704 - escaped
                progress=[drawing.section(part) for part in progress_times(self._entries)],
                progress_caption=CAPTION,
                evidence=evidence,
                entries=self._entries[:ROWS],
                index=packed(index(self._entries, evidence.where, _template("pictures.css"))),
                total=len(self._entries),
                problems=[*dict.fromkeys([*self._problems, *taken.problems])],
                masked=[Masked(kind=kind, count=count) for kind, count in sorted(self._masked.items())],
                looking=_looking([*self._costs.values()]),
                size_mark=size_mark,
                script=Markup(script()),  # noqa: S704 - ours
                script_hash=script_hash(),
            )
        )
        return text.replace(size_mark, _size_in_words(len(text.encode())))

    def _unread(self) -> int:
        return max(len(self._run.bundles()) - len(self._entries), 0)

    def _run_of(self, bundle: Path) -> str:
        """The id of the run that it is from."""
        origin = storage.read_optional(bundle / "origin.json", Origin) if self._run.info.parts else None
        return origin.run_id if origin else self._run.info.run_id

    def _gather(self) -> Iterator[Entry]:
        seen = set()
        self._problems += [*self._run.passed_over(), *self._run.info.left_out]
        for path in self._run.bundles():
            try:
                info, result, masked = TrialBundle.peek(path)
                run_id = result.run_id if result else self._run_of(path)
            except BundleError as error:
                self._problems.append(str(error))
                continue
            seen.add(path.name)
            self._masked.update({one.kind: one.count for one in masked})
            yield Entry(result=result or unjudged(run_id, info, path), info=info, path=path)
        for result in self._stray_results(seen):
            yield Entry(result=result)

    def _stray_results(self, seen: set[str]) -> list[TrialResult]:
        try:
            return [r for r in self._run.results() if r.bundle.rpartition("/")[2] not in seen]
        except BundleError as error:
            self._problems.append(str(error))
            return []

    def _view(self, entry: Entry) -> View | None:
        if entry.path is None:
            return None
        try:
            stored = TrialBundle.read(entry.path)
        except BundleError as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
            return None
        self._costs.update((entry.anchor, event) for event in stored.history.of_type(ObservingCost))
        return view_of(entry, stored)


def _at_first(frame: RunInfo) -> list[Fact]:
    """Of the machine, in this order; runs that were merged had a load each, which no line of a header can tell."""
    names = AT_FIRST if frame.parts else (*AT_FIRST, "load average")
    return [fact for name in names for fact in frame.machine if fact.name == name]


def _looking(costs: Sequence[ObservingCost]) -> str:
    """What looking has cost in the trials whose evidence was read, and how often it was; "" where none tells."""
    if not costs:
        return ""
    shares = [cost.share for cost in costs]
    middle, most = (f"{100 * share:.1f} %" for share in (median(shares), max(shares)))
    told = f"median {middle} of one core, at most {most}, in {plural(len(costs), 'trial')} (our CPU time)"
    rates = [cost.seconds / looks for cost in costs if (looks := cost.samples + cost.snapshots)]
    return (
        f"{told}; a look every {median(rates):.2f} s, in the slowest of them every {max(rates):.2f} s"
        if rates
        else told
    )


def _size_in_words(size_bytes: int) -> str:
    """What GitHub takes as an attachment is 25 MB; what still opens at once is less."""
    size = f"{size_bytes / 1e6:.1f} MB"
    if size_bytes > MOST_BYTES:
        return f"{size}, too large to be attached to an issue"
    return f"{size}, attachable" if size_bytes <= GOOD_BYTES else f"{size}, attachable but large"


def script() -> str:
    """The page's one script; the page must hold exactly these bytes, or the policy stops it."""
    return _template("report.js").strip()


def script_hash() -> str:
    """What the content security policy names it by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


@functools.cache
def _template(name: str) -> str:
    return (resources.files("pytest_ocrepro") / "publish" / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,  # for every template, whatever it is called
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(clip=clip, issue_url=issue_url, command=command, turns=turns)
    environment.globals.update(GLYPHS=dict(GLYPHS), WORDS=dict(WORDS), PLACES=PLACES)
    return environment


def _shown(value: Any) -> Any:
    """Every ``{{ ... }}`` of every template passes here before it is escaped."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash stands for "not known"
    if isinstance(value, Markup):
        return value
    return visible(value) if isinstance(value, str) else value

"""What the catalogue covers: each scenario with its reports, its results on our builds, and what it has found.

The list of reports and the counts of our trials are tables beside the scenarios; marks and docstrings are parsed,
never imported. A report is covered only by a scenario, never by a control.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.catalogue import catalogue, mark_of, scenario_functions
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.markdown import table
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.settings import PROFILES
from pytest_ocrepro.tally import Count, cells_of, with_runs
from pytest_ocrepro.versions.releases import in_order

REPORTS = "reports.tsv"
SUBJECTS = "anomalyco/opencode#"
FOUND = "What we found:"
RECIPES, WITH = "test_isolation_recipes.py::test_workers_with_a_recipe", " with "
# Why a report has no scenario; each reason is a word of the table
REASONS = {
    "system": "needs another system: Windows, WSL, NFS, a /tmp without exec",
    "v2": "of version 2, which is not among the builds that we get",
    "foreign": "a fault of another program than opencode",
    "proposal": "a proposal: there is nothing to run",
    "trigger": "nobody says what starts it",
    "days": "needs days, or files of gigabytes",
    "later": "could be built, and is not yet",
}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One report: ``oc#N`` or ``owner/repo#N``, others of the same, its mechanism in our words, why not covered."""

    name: str
    same: tuple[str, ...]
    mechanism: str
    reason: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario that is no control. ``results``: version -> rate of our trials, its parameters taken together.

    ``repeats``: reports of its mark that repeat one of ``covers`` and do not stand there.
    """

    file: str
    test: str
    title: str
    covers: tuple[str, ...]
    profile: str
    results: dict[str, Rate]
    signature: str
    cause: str
    repeats: tuple[str, ...] = ()


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    reports: tuple[Report, ...]
    rows: tuple[Row, ...]
    counts: tuple[Count, ...] = ()

    @property
    def covered(self) -> tuple[Report, ...]:
        """Reports that a scenario names."""
        named = {name for row in self.rows for name in row.covers}
        return tuple(one for one in self.reports if one.name in named)

    @property
    def missing(self) -> tuple[Report, ...]:
        """The others."""
        named = set(self.covered)
        return tuple(one for one in self.reports if one not in named)

    @property
    def versions(self) -> tuple[str, ...]:
        """Those that anything was tried on, oldest first."""
        return tuple(in_order({version for row in self.rows for version in row.results}))


def coverage(folder: Path | None = None, *, results: Iterable[TrialResult] = ()) -> Coverage:
    """Of the shipped catalogue, or of another one; ``results`` of further runs are counted in.

    Raises UsageError where a table or a mark cannot be read.
    """
    where = folder or catalogue()
    counts, _ = with_runs(where, results)
    reports = read_reports(where / REPORTS)
    names = {one: report.name for report in reports for one in (report.name, *report.same)}
    rows = [row for file in sorted(where.glob("test_*.py")) for row in _rows(file, counts, names)]
    return Coverage(reports=reports, rows=tuple(rows), counts=tuple(counts))


def read_reports(file: Path) -> tuple[Report, ...]:
    """The table of reports. Raises UsageError."""
    return tuple(
        Report(name=name, same=tuple(same.split()), mechanism=mechanism, reason=reason)
        for name, same, mechanism, reason in cells_of(file, 4)
    )


def marks_of(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Each scenario of a file, and what its mark says. Raises UsageError."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in scenario_functions(tree):
        yield function.name, _mark(function, tree, file)


def as_markdown(found: Coverage) -> str:
    """The table for the README, below it what is not covered, by reason, and what isolates a worker from what."""
    rows = [
        [
            row.title.replace("|", "/"),
            ", ".join(row.covers),
            *(str(row.results.get(version, "")) for version in found.versions),
            row.cause,
        ]
        for row in found.rows
    ]
    whole = table(["scenario", "reports", *found.versions, "what we found"], rows)
    left = "\n".join(f"- {line}" for line in _left(found))
    recipes = "\n\n".join(_recipes(found.counts))
    return f"{whole}\n\n{_sum(found)} {_repeated(found)}Not covered:\n\n{left}\n" + (
        f"\n{recipes}\n" if recipes else ""
    )


def as_text(found: Coverage) -> str:
    """For a terminal: a block a scenario, then what is not covered."""
    blocks = [
        "\n".join(
            [
                f"{row.title}  ({row.file}::{row.test}, {row.profile})",
                f"  reports: {', '.join(row.covers) or 'none'}",
                *([f"  seen: {_seen(row)}"] if row.results else ["  not tried yet"]),
                *([f"  signature: {row.signature}"] if row.signature else []),
                *([f"  {row.cause}"] if row.cause else []),
            ]
        )
        for row in found.rows
    ]
    left = "\n".join(f"  {line}" for line in _left(found))
    return "\n\n".join([*blocks, f"{_sum(found)} Not covered:\n{left}"])


# --- below: how


def _sum(found: Coverage) -> str:
    count = len(found.rows)
    return (
        f"{len(found.covered)} of {len(found.reports)} reports are covered by {count} scenario{'s' * (count != 1)}."
    )


def _repeated(found: Coverage) -> str:
    """A mark, and with it an issue text, names these as well; the table has the report that they repeat."""
    named = {name for row in found.rows for name in row.repeats}
    told = [f"{name} ({one.name})" for one in found.reports for name in one.same if name in named]
    return f"One that repeats another is counted as that, in brackets: {', '.join(told)}. " if told else ""


def _left(found: Coverage) -> Iterator[str]:
    for reason, why in REASONS.items():
        names = [one.name for one in found.missing if (one.reason or "later") == reason]
        if names:
            yield f"{why} ({len(names)}): {', '.join(names)}"


def _recipes(counts: Sequence[Count]) -> Iterator[str]:
    """A table a version: what a worker has of its own, and how often a mechanism met it nevertheless."""
    told = [one for one in counts if one.scenario.startswith(f"scenarios/{RECIPES}[") and one.rate.n]
    for version in in_order({one.version for one in told}):
        cells = {tuple(one.scenario.split("[")[1][:-1].split(WITH)): one for one in told if one.version == version}
        mechanisms, recipes = (tuple(dict.fromkeys(key[at] for key in cells)) for at in (0, 1))
        rows = [[f"`{recipe}`", *(_met(cells.get((one, recipe))) for one in mechanisms)] for recipe in recipes]
        words = f"A worker of a wrapper on {version} that has this of its own was still met by (k of n trials):"
        yield f"{words}\n\n{table(['its own', *mechanisms], rows)}"


def _met(count: Count | None) -> str:
    return str(count.rate) if count else ""


def _seen(row: Row) -> str:
    return ", ".join(f"{version} {row.results[version].in_words()}" for version in in_order(row.results))


def _rows(file: Path, counts: Sequence[Count], names: Mapping[str, str]) -> Iterator[Row]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in scenario_functions(tree):
        mark = _mark(function, tree, file)
        if mark.get("control") is True:
            continue
        node = f"scenarios/{file.name}::{function.name}"
        own = [one for one in counts if one.scenario.split("[", 1)[0] == node]
        told = [_short(name) for name in _told(mark)]
        signatures = Counter(one.signature for one in own if one.signature)
        yield Row(
            file=file.name,
            test=function.name,
            title=str(mark.get("title") or function.name.removeprefix("test_").replace("_", " ")),
            covers=tuple(dict.fromkeys(names.get(name, name) for name in told)),
            repeats=tuple(name for name in told if names.get(name, name) != name),
            profile=str(mark.get("profile", PROFILES[0])),
            results=_results(own),
            signature=signatures.most_common(1)[0][0] if signatures else "",
            cause=_cause(ast.get_docstring(function) or ""),
        )


def _results(own: Sequence[Count]) -> dict[str, Rate]:
    found: dict[str, Rate] = {}
    for version in in_order({one.version for one in own}):
        rates = [one.rate for one in own if one.version == version]
        found[version] = Rate(k=sum(rate.k for rate in rates), n=sum(rate.n for rate in rates))
    return {version: rate for version, rate in found.items() if rate.n}


def _told(mark: Mapping[str, object]) -> Iterator[str]:
    for word in ("issue", "covers"):
        value = mark.get(word, ())
        yield from (value,) if isinstance(value, str) else map(str, value if isinstance(value, tuple) else ())


def _short(name: str) -> str:
    """As the table of reports has it."""
    return f"oc#{name.removeprefix(SUBJECTS)}" if name.startswith(SUBJECTS) else name


def _cause(docstring: str) -> str:
    """The first sentence of what was found."""
    _, _, found = " ".join(docstring.split()).partition(FOUND)
    sentence = found.strip().split(". ", 1)[0].rstrip(".")
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _mark(function: ast.FunctionDef, tree: ast.Module, file: Path) -> dict[str, object]:
    call = mark_of(function)
    try:
        return {word.arg: _value(word.value, tree) for word in call.keywords if word.arg} if call else {}
    except ValueError as error:
        raise UsageError(f"{file.name}::{function.name}: its mark cannot be read: {error}; write it out") from None


def _value(node: ast.expr, tree: ast.Module) -> object:
    """A literal, a name of the module for one, or a tuple of such with others unpacked into it."""
    if isinstance(node, ast.Name):
        given = [
            one.value
            for one in tree.body
            if isinstance(one, ast.Assign)
            and any(isinstance(to, ast.Name) and to.id == node.id for to in one.targets)
        ]
        if not given:
            raise ValueError(f"{node.id} is given no value in its file")
        return _value(given[-1], tree)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_unpacked(node.elts, tree))
    value: object = ast.literal_eval(node)
    return value


def _unpacked(nodes: Iterable[ast.expr], tree: ast.Module) -> Iterator[object]:
    for node in nodes:
        if not isinstance(node, ast.Starred):
            yield _value(node, tree)
            continue
        inner = _value(node.value, tree)
        yield from inner if isinstance(inner, tuple) else (inner,)

"""Writes what a matrix has seen into the marks of the scenarios, ``known={version: "k/n"}``, and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pytest_ocrepro.catalogue import mark_of, scenario_functions
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.storage import replace
from pytest_ocrepro.versions.releases import in_order

FEWEST = 5  # trials of a cell; fewer would be a list of chances
WIDTH = 118
INDENT = "    "


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """``text`` is the file as it should be; ``notes``: one line for each thing that was not written as seen."""

    text: str
    notes: tuple[str, ...] = ()


def write_known(file: Path, seen: Mapping[str, Mapping[str, Rate]]) -> tuple[bool, tuple[str, ...]]:
    """``seen``: test -> version -> rate. (whether the file was changed, notes). Raises UsageError."""
    try:
        before = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): check its permissions") from None
    written = with_known(before, seen, str(file))
    if written.text != before:
        replace(file, written.text.encode())
    return written.text != before, written.notes


def with_known(text: str, seen: Mapping[str, Mapping[str, Rate]], name: str = "") -> Written:
    """The source of a scenario file with new lists in the marks of these tests.

    An entry with more trials wins; a version that was not tried, or not seen to fail, keeps what it has. Raises
    UsageError where a test has no mark, or one whose list is not written out.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{name} is no Python file ({error}): nothing was written") from None
    notes: list[str] = []
    for function in sorted(scenario_functions(tree), key=lambda one: -one.lineno):  # from below: places stay right
        rates = {version: rate for version, rate in seen.get(function.name, {}).items() if rate.n >= FEWEST}
        mark = mark_of(function)
        if not rates:
            continue
        if mark is None:
            if any(rate.k for rate in rates.values()):
                raise UsageError(f"{name}::{function.name} has no mark ocrepro(...) to write into: add one")
            continue
        old = _old(mark, tree, f"{name}::{function.name}")
        new = _merged(old, rates, function.name, notes)
        if new != old:
            text = _with_mark(text, mark, new)
    return Written(text=text, notes=tuple(notes))


# --- below: how


def _old(mark: ast.Call, tree: ast.Module, where: str) -> dict[str, str]:
    value = next((word.value for word in mark.keywords if word.arg == "known"), None)
    if value is None:
        return {}
    try:
        told = ast.literal_eval(_behind(value, tree))
    except ValueError:
        told = None
    if isinstance(told, dict) and all(isinstance(word, str) for pair in told.items() for word in pair):
        return told
    if isinstance(told, (list, tuple, set)) and all(isinstance(word, str) for word in told):
        return dict.fromkeys(told, "")
    raise UsageError(f"{where}: its known list is not written out in the mark: nothing was written")


def _behind(value: ast.expr, tree: ast.Module) -> ast.expr:
    """What a name of the module stands for; several marks may share one, so it is never written to."""
    if not isinstance(value, ast.Name):
        return value
    given = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == value.id for to in node.targets)
    ]
    return given[-1] if given else value


def _merged(old: dict[str, str], rates: Mapping[str, Rate], test: str, notes: list[str]) -> dict[str, str]:
    new = dict(old)
    for version, rate in rates.items():
        before = _trials(old.get(version, ""))
        if not rate.k and version in old:
            notes.append(f"{test} on {version}: known {old[version] or 'to fail'}, now {rate}; kept, check by hand")
        elif rate.k and rate.n >= before:
            new[version] = str(rate)
        elif rate.k:
            notes.append(f"{test} on {version}: known {old[version]}, now {rate}; the longer series was kept")
    return {version: new[version] for version in in_order(new)}


def _trials(rate: str) -> int:
    _, _, tried = rate.partition("/")
    return int(tried) if tried.isdigit() else 0


def _with_mark(text: str, mark: ast.Call, known: dict[str, str]) -> str:
    """Only the value of ``known`` is replaced; the whole call where that would be too long for its line."""
    lines = text.splitlines(keepends=True)
    start, end = _place(lines, mark.lineno, mark.col_offset), _place(lines, mark.end_lineno, mark.end_col_offset)
    value = next((word.value for word in mark.keywords if word.arg == "known"), None)
    flat = "{" + ", ".join(f'"{version}": "{rate}"' for version, rate in known.items()) + "}"
    if value is not None:
        at = _place(lines, value.lineno, value.col_offset), _place(lines, value.end_lineno, value.end_col_offset)
        changed = text[: at[0]] + flat + text[at[1] :]
    else:
        comma = ", " if mark.args or mark.keywords else ""
        inside = text[start : end - 1].rstrip().removesuffix(",")
        changed = f"{text[:start]}{inside}{comma}known={flat}{text[end - 1 :]}"
    line = changed[changed.rfind("\n", 0, start) + 1 :].partition("\n")[0]
    if len(line) <= WIDTH and mark.lineno == mark.end_lineno:
        return changed
    return text[:start] + _tall(text, lines, mark, known) + text[end:]


def _tall(text: str, lines: list[str], mark: ast.Call, known: dict[str, str]) -> str:
    """The call with an argument a line, as the formatter has it."""

    def source(node: ast.expr) -> str:
        return text[_place(lines, node.lineno, node.col_offset) : _place(lines, node.end_lineno, node.end_col_offset)]

    flat = "{" + ", ".join(f'"{version}": "{rate}"' for version, rate in known.items()) + "}"
    entries = "".join(f'{INDENT * 2}"{version}": "{rate}",\n' for version, rate in known.items())
    told = flat if len(f"{INDENT}known={flat},") <= WIDTH else "{\n" + entries + INDENT + "}"
    words = [f"{word.arg}={source(word.value)}" for word in mark.keywords if word.arg != "known"]
    at = next((number for number, word in enumerate(mark.keywords) if word.arg == "known"), len(words))
    words.insert(at, f"known={told}")
    return f"{source(mark.func)}(\n" + "".join(f"{INDENT}{word},\n" for word in words) + ")"


def _place(lines: list[str], line: int | None, column: int | None) -> int:
    """Offset in characters; ast counts columns in UTF-8 bytes."""
    assert line is not None  # noqa: S101  ast.parse always says where
    before = sum(len(one) for one in lines[: line - 1])
    return before + len(lines[line - 1].encode()[: column or 0].decode())

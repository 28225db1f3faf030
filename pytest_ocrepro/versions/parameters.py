"""The sets of parameters of a scenario: which there are, and a pytest that runs but one of them.

``pytest -p pytest_ocrepro.versions.parameters --ocrepro-one-set=SET`` leaves all others out, before anything is run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_ocrepro.catalogue import Scenario
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.items import without_ours
from pytest_ocrepro.versions.programs import run_bounded

OPTION = "--ocrepro-one-set"
COLLECTED_WITHIN_S = 120.0
_ITEM = re.compile(r"^(?P<file>.*?\.py)::(?P<test>\w+)\[(?P<set>.*)\]$", re.MULTILINE)


def one_by_one(scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Each scenario, one that is parametrized once for each of its sets, in pytest's order. Raises UsageError."""
    open_ones = [one for one in scenarios if one.parametrized and not one.parameters]
    sets = _collected(open_ones) if open_ones else {}
    return tuple(_each(scenarios, sets))


# --- the hooks of that pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The set to be run, as pytest words it; "": the scenario takes none."""
    parser.addoption(OPTION, dest="ocrepro_one_set")


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave the other sets out; refuse a set that is not there."""
    wanted = config.getoption("ocrepro_one_set")
    sets = {item.nodeid: without_ours(item, "") for item in items if "ocrepro" in getattr(item, "fixturenames", ())}
    left_out = [item for item in items if sets.get(item.nodeid, wanted) != wanted]
    if sets and wanted not in sets.values():
        name, shown = items[0].originalname, f"[{wanted}]" if wanted else ""
        there = ", ".join(sorted(f"{name}[{one}]" if one else name for one in set(sets.values())))
        raise pytest.UsageError(f"{name}{shown} is not one scenario: name one of {there}")
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


# --- below: how

_Test = tuple[str, str]  # name of the file, name of the test


def _each(scenarios: Sequence[Scenario], sets: dict[_Test, list[str]]) -> Iterator[Scenario]:
    for one in scenarios:
        if not one.parametrized or one.parameters:
            yield one
            continue
        yield from (msgspec.structs.replace(one, parameters=each) for each in sets[one.file.name, one.test])


def _collected(scenarios: Sequence[Scenario]) -> dict[_Test, list[str]]:
    """The sets of these tests; pytest is asked, for it alone knows what it calls them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    done = run_bounded([*command, *(one.node for one in scenarios)], timeout_s=COLLECTED_WITHIN_S)
    sets: dict[_Test, list[str]] = {}
    for found in _ITEM.finditer(done.out):
        sets.setdefault((Path(found["file"]).name, found["test"]), []).append(found["set"])
    missing = [one.name for one in scenarios if (one.file.name, one.test) not in sets]
    if missing:
        said = done.cut or (done.err.strip() or done.out.strip() or "it said nothing").splitlines()[-1]
        raise UsageError(f"pytest lists no sets of parameters of {', '.join(missing)}: {said}")
    return sets

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.catalogue import all_scenarios, catalogue, find_scenario, scenarios_in
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.versions.parameters import one_by_one

FILE = """
import pytest

@pytest.mark.parametrize("how", ["a word", pytest.param("other", id="x-1.0.0")])
@pytest.mark.parametrize("number", [1, 2])
def test_has_four(ocrepro, how, number):
    pass

def test_has_none(ocrepro):
    pass
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_it.py").write_text(FILE)
    return tmp_path / "test_it.py"


def test_a_scenario_stands_once_for_each_of_its_sets(file: Path) -> None:
    names = [one.name for one in one_by_one(scenarios_in(file))]
    sets = ("1-a word", "1-x-1.0.0", "2-a word", "2-x-1.0.0")
    assert names == [*(f"test_it.py::test_has_four[{one}]" for one in sets), "test_it.py::test_has_none"]
    assert [one_by_one([find_scenario(name)])[0].name for name in names] == names


def test_what_pytest_does_not_list_is_told(file: Path) -> None:
    scenarios = scenarios_in(file)
    file.write_text("import nothing_of_the_kind\n")
    with pytest.raises(
        UsageError, match=r"^pytest lists no sets of parameters of test_it.py::test_has_four: ERROR: "
    ):
        one_by_one(scenarios)


def test_of_the_catalogue_every_parametrized_one_is_known_as_such() -> None:
    """A decorator that is not seen would let a matrix cell be more than one test item."""
    marked = {one.test for one in all_scenarios() if one.parametrized}
    assert {"test_killed_while_it_held_a_lock_directory", "test_workers_with_a_recipe"} <= marked
    assert "test_question_pending" not in marked


def test_the_sets_that_marks_of_the_catalogue_leave_to_the_soak_are_there() -> None:
    """One that is misspelt would run in the smaller profile."""
    sets = {(one.file.name, one.test, one.parameters) for one in one_by_one(all_scenarios())}
    left = {(file.name, *one) for file in catalogue().glob("test_*.py") for one in soaked(file)}
    assert len(left) > 20
    assert left <= sets


def soaked(file: Path) -> Iterator[tuple[str, str]]:
    """(test, set) for each word of ``soak=`` in a mark of this file."""
    functions = (one for one in ast.parse(file.read_text()).body if isinstance(one, ast.FunctionDef))
    for function in functions:
        calls = [decorator for decorator in function.decorator_list if isinstance(decorator, ast.Call)]
        for word in (word for call in calls for word in call.keywords if word.arg == "soak"):
            yield from ((function.name, each) for each in ast.literal_eval(word.value))

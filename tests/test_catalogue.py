from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_ocrepro import catalogue as room
from pytest_ocrepro.errors import UsageError

TWO = """
import pytest
def helper(): ...
def test_without_the_fixture(): ...
@pytest.mark.ocrepro(issue="a/b#1", control=True)
def test_one(ocrepro): ...
@pytest.mark.ocrepro(issue="a/b#1")
def test_two(ocrepro, tmp_path): ...
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_two.py").write_text(TWO)
    (tmp_path / "test_single.py").write_text("def test_alone(ocrepro): ...\n")
    return tmp_path


def test_the_catalogue_is_all_there_and_each_is_found_by_its_name() -> None:
    known = room.all_scenarios()
    assert len({one.file for one in known}) == len(list(room.catalogue().glob("test_*.py")))
    assert any(one.control for one in known)
    assert not all(one.control for one in known)
    for one in known:
        assert room.find_scenario(one.test.removeprefix("test_")) == one
        assert room.find_scenario(one.test) == one
        assert room.find_scenario(one.name) == one
        assert one.name.startswith("scenarios/test_")


def test_a_users_own_scenario_is_named_from_here(here: Path) -> None:
    found = room.find_scenario("test_two.py::test_two")
    assert (found.file, found.name, found.control) == (here / "test_two.py", "test_two.py::test_two", False)
    assert found.node == f"{here}/test_two.py::test_two"
    assert room.find_scenario("test_single.py").test == "test_alone"
    one = room.find_scenario("test_two.py::test_two[a-1]")
    assert (one.test, one.parameters, one.name) == ("test_two", "a-1", "test_two.py::test_two[a-1]")
    assert room.find_scenario(one.name) == one
    assert [(one.test, one.control) for one in room.scenarios_in(here / "test_two.py")] == [
        ("test_one", True), ("test_two", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_two.py", "test_two.py names 2 scenarios: give FILE::TEST, or one of one, two"),
        ("test_two.py::test_three", "names no scenarios: give FILE::TEST, or one of one, two"),
        ("no_such_bug", "there is no scenario no_such_bug: give FILE::TEST, or one of "),
        ("none.py::test_x", "there is no scenario none.py::test_x"),
        ("torn.py", r"torn.py is no Python file \("),
        ("empty.py", "or one of none: it needs a test that takes `ocrepro`"),
    ],
)
def test_what_cannot_be_meant_is_one_line(here: Path, name: str, words: str) -> None:
    (here / "torn.py").write_text("def test_(ocrepro:\n")
    (here / "empty.py").write_text("")
    with pytest.raises(UsageError, match=words) as caught:
        room.find_scenario(name)
    assert not re.search(r"\n", str(caught.value))

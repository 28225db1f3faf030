"""The README's words are run: its example as a user's scenario, its commands' shape, its list of rooms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pytest_ocrepro
from pytest_ocrepro.stage.subject import PINNED, fetch

ROOT = Path(pytest_ocrepro.__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_there_are_two_set_up_commands() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("pytest --ocrepro")
    assert commands[1].endswith("pytest")


def test_every_module_is_in_the_list_of_rooms() -> None:
    rooms = README[README.index("## What's here") :]
    top = [path.stem for path in (ROOT / "pytest_ocrepro").glob("*.py") if path.stem != "__init__"]
    inner = [path.stem for path in (ROOT / "pytest_ocrepro").glob("*/*.py") if path.stem != "__init__"]
    for name in top + inner:
        assert re.search(rf"\b{name}\b", rooms), f"{name} is not in the README's \"What's here\""


def test_every_option_of_the_text_exists(pytester: pytest.Pytester) -> None:
    offered = pytester.runpytest_subprocess("--help").stdout.str()
    for option in set(re.findall(r"--ocrepro[a-z-]*", README)):
        assert option in offered


@pytest.mark.real
def test_the_example_scenario_passes_on_the_pinned_build(pytester: pytest.Pytester) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    build = fetch(PINNED)
    (pytester.path / "test_wrapper.py").write_text(example)
    result = pytester.runpytest_subprocess("--ocrepro", f"--ocrepro-binary={build.path}", "test_wrapper.py")
    result.assert_outcomes(passed=1)
    text = (pytester.path / "reports/latest/results.jsonl").read_text()
    assert text.count('"role":"opencode-') == 3

"""The README's words are run: its example as a user's scenario, its commands' shape, its list of rooms."""

from __future__ import annotations

import ast
import itertools
import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import pytest_ocrepro
from pytest_ocrepro.cli import main
from pytest_ocrepro.publish.bundle import RunDir, RunInfo
from pytest_ocrepro.stage.subject import PINNED, fetch

ROOT = Path(pytest_ocrepro.__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_there_are_two_set_up_commands() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("pytest --ocrepro")
    assert commands[1].endswith("pytest -n 2")


def test_the_first_command_reads_nothing_that_only_the_tests_need() -> None:
    """pytest reads the conftest below ``testpaths`` with ``--ocrepro`` too, without the extra ``test``."""
    tree = ast.parse((ROOT / "tests/conftest.py").read_text())
    plain = [one.names[0].name for one in tree.body if isinstance(one, ast.Import)]
    plain += [one.module or "" for one in tree.body if isinstance(one, ast.ImportFrom)]
    foreign = {name.partition(".")[0] for name in plain} - sys.stdlib_module_names
    assert foreign <= {"pytest", "pytest_ocrepro"}


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


def test_the_steps_of_the_workflow_that_are_ours_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards as artifacts lie when they were downloaded; every ``ocrepro`` of the workflow, in its order."""
    (workflow,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    for name in ("run-1.14.48-1", "run-1.18.34-1"):
        RunDir.create(tmp_path / "shards" / name).write_info(RunInfo(run_id=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    steps = [step for line in re.findall(r"run: (ocrepro .*)", workflow) for step in line.split(" && ")]
    assert [step.split()[1] for step in steps] == ["merge", "github"]
    for step in steps:
        result = CliRunner().invoke(main, step.split()[1:], prog_name="ocrepro")
        assert (result.exit_code, result.stderr) == (0, "")
    (page,) = re.findall(r"path: (\S+/report\.html)", workflow)
    assert (tmp_path / page).is_file()
    assert "Nothing was run" in (tmp_path / "summary.md").read_text()


@pytest.mark.real
def test_the_example_scenario_passes_on_the_pinned_build(pytester: pytest.Pytester) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    build = fetch(PINNED)
    (pytester.path / "test_wrapper.py").write_text(example)
    result = pytester.runpytest_subprocess("--ocrepro", f"--ocrepro-binary={build.path}", "test_wrapper.py")
    result.assert_outcomes(passed=1)
    (line,) = (pytester.path / "reports/latest/results.jsonl").read_text().splitlines()
    roles = [process["role"] for process in json.loads(line)["processes"]]
    assert sum(role.startswith("opencode-") for role in roles) == 3


def test_the_table_of_releases_is_that_of_the_sample() -> None:
    def table(text: str) -> list[str]:
        lines = text.splitlines()
        first = next(at for at, line in enumerate(lines) if line.startswith("| k of n reproduced |"))
        return list(itertools.takewhile(lambda line: line.startswith("|"), lines[first:]))

    shown = table(README)
    assert len(shown) > 70
    assert shown == table((ROOT / "reports/sample/versions.md").read_text())

"""The house rules that a reader relies on: import direction, exclusive rights, names, the wheel's contents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_ocrepro

PACKAGE = Path(pytest_ocrepro.__file__).parent
ROOT = PACKAGE.parent
NAME = "pytest_ocrepro"

# room -> rooms it may import; a module that is not in a folder is its own room
MAY_IMPORT = {
    "errors": set(),
    "readings": set(),
    "events": {"readings"},
    "history": {"events"},
    "judge": {"events", "history", "readings"},
    "observe": {"events", "history", "readings", "errors", "platforms"},
    "stage": {
        "events",
        "history",
        "readings",
        "errors",
        "observe.proctext",
        "observe.readers",
        "observe.regular",
        "versions.programs",
        "versions.releases",
    },
    "versions": {
        "errors",
        "catalogue",
        "items",
        "events",
        "history",
        "readings",
        "schedule",
        "judge",
        "observe.regular",
        "publish",
        "stage.subject",
        "stage.tarball",
    },
    "catalogue": {"errors"},
    "tally": {"errors", "judge", "publish"},
    "coverage": {"catalogue", "tally", "errors", "judge", "publish", "settings", "versions.releases"},
    "baseline": {"errors", "judge", "publish"},
    "looks": {"errors", "judge", "publish.records"},
    "publish": {"judge", "events", "history", "readings", "errors"},
    "expect": {"stage", "judge", "events", "history", "readings", "errors"},
    "roster": {"stage", "observe", "events", "history", "readings", "platforms"},
    "steps": {"stage", "events", "history"},
    "sweeps": {"publish", "judge"},
    "schedule": {"readings", "errors"},
    "conductor": {"schedule", "stage", "events", "history", "errors"},
    "watching": {"roster", "stage", "observe", "judge", "events", "history"},
    "session": {"sweeps", "stage", "observe", "publish", "readings", "errors"},
    "bounded": {"errors"},
    "trial_store": {"publish", "judge.judgement", "errors"},
    "harness": {
        "session",
        "bounded",
        "trial_store",
        "conductor",
        "schedule",
        "expect",
        "intrusion",
        "roster",
        "steps",
        "watching",
        "stage",
        "observe",
        "publish",
        "judge",
        "events",
        "history",
        "readings",
        "errors",
    },
    "strangers": {"roster", "observe", "events", "history", "readings"},
    "intrusion": {"observe", "events", "history"},
    "attach": {"strangers", "intrusion", "observe", "publish", "judge", "events", "history", "readings"},
    "diagnosis": {"attach", "strangers", "observe", "publish", "judge", "events", "history", "errors", "platforms"},
    "proof": {"stage", "publish", "events", "history", "errors"},
    "progress": {"stage"},
    "doctor": {"errors", "platforms", "readings", "observe", "versions", "stage"},
    "settings": {"errors", "looks", "schedule", "stage.cache"},
    "guard": {"harness", "errors"},
    "items": {"catalogue", "settings", "publish", "stage"},
    "sharing": {"settings", "catalogue", "stage", "readings", "errors"},
    "outcome": {"settings", "publish", "judge"},
    "platforms": set(),
    "plugin": {"platforms", "pytest_session", "harness"},
    "scenario_end": {"catalogue", "errors"},
    "run_record": {"settings", "sharing", "stage", "observe.readers", "platforms", "publish"},
    "closing": {"baseline", "proof", "settings", "sharing", "publish", "versions"},
    "interrupts": set(),
    "pytest_session": {
        "closing",
        "interrupts",
        "run_record",
        "scenario_end",
        "outcome",
        "schedule",
        "settings",
        "progress",
        "sharing",
        "tally",  # what our own trials saw, which says what is known
        "guard",
        "items",
        "harness",
        "session",
        "trial_store",
        "publish",
        "judge",
        "stage",
        "observe.readers",  # who we are, for the workers that end with us
        "platforms",
        "readings",
        "versions",
        "errors",
    },
    "cli": {
        "platforms",
        "catalogue",
        "coverage",
        "tally",
        "proof",
        "progress",
        "doctor",
        "diagnosis",
        "publish",
        "stage",
        "versions",
        "errors",
    },
    "__init__": {"harness", "judge", "stage", "errors"},
}
BANNED_NAMES = {"utils", "common", "helpers", "constants", "types", "manager"}


def modules() -> Iterator[Path]:
    yield from sorted(path for path in PACKAGE.rglob("*.py") if "scenarios" not in path.parts)


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def back_edges(room: str, source: str) -> list[str]:
    ours = {name.removeprefix(f"{NAME}.") for name in imports_of(ast.parse(source)) if name.startswith(f"{NAME}.")}
    allowed = MAY_IMPORT[room] | {room}
    within = {name for name in ours for one in allowed if name == one or name.startswith(f"{one}.")}
    around = {name for name in ours for one in allowed if one.startswith(f"{name}.")}
    return sorted(ours - within - around - {"__version__"})


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    assert back_edges(room_of(path), path.read_text()) == []


def test_the_import_rule_finds_a_back_edge() -> None:
    assert back_edges("judge", "from pytest_ocrepro.stage.process import Process\n") != []
    assert back_edges("observe", "import pytest_ocrepro.stage.supervisor\n") != []
    assert back_edges("judge", "from pytest_ocrepro.history import History\n") == []


def calls(path: Path) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


# right -> (what it looks like in the source, who has it and why)
RIGHTS = {
    "start a process": (
        {"subprocess.Popen", "subprocess.run", "os.fork", "os.posix_spawn", "os.system"},
        {
            "stage/supervisor.py",  # its own process
            "stage/keeper.py",  # everything in a sandbox
            "stage/namespace.py",  # the same, inside; and a namespace's init
            "stage/rungs.py",  # one that tries whether it may enter a group
            "stage/executable.py",  # `--version` of a candidate
            "versions/programs.py",  # npm, git, a user's build command, pytest
            "versions/commits.py",  # the user's own build command
            "doctor.py",  # its own self test
            "observe/intrusive.py",  # strace and gdb, only when the user has asked for them
            "attach.py",  # the deputy: it opens the files of processes that are not ours
        },
    ),
    "send a signal": (
        {"os.kill", "os.killpg", "signal.pthread_kill"},
        {"stage/ladder.py", "versions/programs.py"},
    ),
    "use jinja2": ({"jinja2.Environment"}, {"publish/page.py"}),
}


@pytest.mark.parametrize("right", list(RIGHTS))
def test_exclusive_rights(right: str) -> None:
    looks, holders = RIGHTS[right]
    using = {str(path.relative_to(PACKAGE)) for path in modules() if calls(path) & looks}
    assert using <= holders
    assert using, f"nobody is seen to {right}: the rule looks for the wrong words"


def test_only_the_reader_names_proc() -> None:
    naming = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc")
    }
    # releases reads the processor's flags, doctor says what could not be read and how to get it, namespace maps ids
    assert naming <= {
        "observe/procfs.py",
        "observe/procfiles.py",
        "observe/locks.py",
        "judge/waitgraph.py",
        "versions/releases.py",
        "doctor.py",
        "stage/namespace.py",
    }


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not {path.stem for path in modules()} & BANNED_NAMES


def test_public_names_exist_and_are_sorted() -> None:
    for name in pytest_ocrepro.__all__:
        assert getattr(pytest_ocrepro, name) is not None
    assert list(pytest_ocrepro.__all__) == sorted(pytest_ocrepro.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_ocrepro.nothing


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(target), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return next(target.glob("*.whl"))


def test_the_wheel_holds_the_package_and_the_catalogue_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {f"{NAME}/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*") if path.is_file()}
    catalogue = {f"{NAME}/scenarios/{path.name}" for path in (ROOT / "scenarios").iterdir() if path.is_file()}
    wanted = {name for name in package | catalogue if "__pycache__" not in name}
    assert names == wanted
    assert f"{NAME}/py.typed" in names
    assert any(name.endswith(".j2") for name in names)


def test_ci_installs_exact_versions_of_all_that_we_ask_for() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = (PACKAGE.parent / ".ci/constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    named = {re.split("[><=]", one)[0].lower().replace("_", "-") for one in asked} - {"pip"}
    assert named <= {name.lower().replace("_", "-") for name in pinned}
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pinned.values())
    assert "PIP_CONSTRAINT" in (PACKAGE.parent / ".ci/run").read_text()

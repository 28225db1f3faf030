"""What a system cannot have is refused there in one line, and what it can is had: with a faked ``sys.platform``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pytest_ocrepro.platforms import everything_refused, has_proc, scenarios_refused, seen_through

# What other systems do not have goes before anything of ours is imported.
FAKE = """
import sys, {loaded}
for name in {missing!r}:
    sys.modules[name] = None
sys.platform = {system!r}
import os
for name in ("pipe2", "pidfd_open", "setns", "memfd_create", "eventfd"):
    if hasattr(os, name):
        delattr(os, name)
sys.argv = {argv!r}
{run}
"""
OURS = ("-ppytest_ocrepro.plugin", "-pno:cacheprovider", "-s")
PYTEST = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
COMMAND = "from pytest_ocrepro.cli import main; main(prog_name='ocrepro')"
WINDOWS = "pytest-ocrepro does not work on Windows, which has neither /proc nor fcntl; run it under WSL 2"


def on(system: str, run: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    missing = ("fcntl", "pwd", "resource", "termios") if system == "win32" else ()
    loaded = "_pytest.capture, _pytest.pathlib, _pytest.terminal, subprocess, shutil, tempfile, click, psutil"
    code = FAKE.format(missing=missing, system=system, argv=["x", *arguments], run=run, loaded=loaded)
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd, timeout=60, env=alone
    )


def test_linux_and_macos_run_scenarios_and_others_say_why_not() -> None:
    assert [scenarios_refused(system) for system in ("linux", "darwin")] == ["", ""]
    assert [everything_refused(system) for system in ("linux", "darwin", "freebsd14")] == ["", "", ""]
    for system, word in (("win32", "Windows"), ("cygwin", "Windows"), ("freebsd14", "freebsd14")):
        line = scenarios_refused(system)
        assert word in line
        assert "run " in line
        assert "\n" not in line


def test_only_linux_reads_proc() -> None:
    assert [has_proc(system) for system in ("linux", "darwin", "freebsd14")] == [True, False, False]
    assert seen_through("linux") == "proc(5)"
    assert seen_through("darwin").startswith("psutil; unknown here: system calls, wait channels")


def test_pytest_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").touch()
    done = on("win32", PYTEST, "--ocrepro", *OURS, cwd=tmp_path)
    assert done.returncode == 4
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.startswith("ERROR: ocrepro: ")] == [
        line for line in said if WINDOWS in line
    ]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "reports").exists()


def test_a_pytest_without_our_option_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = on("win32", PYTEST, "-q", *OURS, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_says_so_on_windows() -> None:
    done = on("win32", COMMAND, "report", "x")
    assert (done.returncode, done.stderr) == (2, f"ocrepro: {WINDOWS}\n")


def test_stored_runs_are_shown_on_macos(tmp_path: Path) -> None:
    """The published sample's own exports need nothing that Linux alone has."""
    done = on("darwin", COMMAND, "report", str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "macOS" not in done.stderr, "it is the missing run that is refused"
    done = on("darwin", COMMAND, "dump", "--all")
    assert done.stderr == "ocrepro: ocrepro dump reads /proc, which this system does not have; run it on Linux\n"

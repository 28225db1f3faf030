"""What several rooms' tests share: the stand-in subject, and pytest's own pytester."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


def pytest_configure() -> None:
    """What our tests start must not write into the job summary of the job that runs them."""
    os.environ.pop("GITHUB_STEP_SUMMARY", None)


# A stand-in for opencode, for tests of our own parts only. What it does is told by its model name.
STAND_IN = '''
"""stands in for opencode in tests of the harness"""
import os, pathlib, signal, subprocess, sys, time
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("9.9.9")
    sys.exit(0)
what = arguments[arguments.index("-m") + 1] if "-m" in arguments else "answer"
if what == "bogus/x":
    print("Error: Model not found", file=sys.stderr)
    sys.exit(1)
if what == "hang":
    signal.pause()
if what == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "daemon":
    subprocess.Popen([PYTHON, "-c", "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True);"
                      "signal.pause()"], start_new_session=True)
    signal.pause()
if what == "silent":
    sys.exit(0)
if what == "ask":
    import json, urllib.request
    config = json.loads(pathlib.Path(os.environ["OPENCODE_CONFIG"]).read_text())
    url = config["provider"]["mock"]["options"]["baseURL"] + "/chat/completions"
    body = dict(model="m1", stream=True, tools=[dict()], messages=[dict(role="user", content="hi")])
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        print(answer.read().decode())
    sys.exit(0)
'''


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """An executable that calls itself opencode 9.9.9."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(f"PYTHON = {sys.executable!r}  # its own would be found by argv[0]\n{STAND_IN}")
    path = folder / "opencode"
    path.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
    path.chmod(0o755)
    return path

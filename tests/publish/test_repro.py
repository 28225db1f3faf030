from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro.judge.judgement import Result, Verdict
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.plan import Shows, plan
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.repro import LONGEST_LINE, MOST_LINES, repro_script
from pytest_ocrepro.stage.process import until
from tests.data.publish import reproducing

DATA = Path(__file__).parents[1] / "data/publish"

KINDS = {
    "overlap": reproducing.overlap,
    "held-lock": reproducing.held_lock,
    "exclusive": lambda: reproducing.held_lock("EXCLUSIVE"),
    "killed-server": reproducing.killed_server,
    "question": reproducing.pending_question,
}
HOSTILE = "PY\nPY $(touch $OWNED) `touch $OWNED` ' \" \\ \x1b[31m \u202e \x00 </script> {0} {{x}} %s \nPY"


def text_of(trial: StoredTrial) -> str:
    script = repro_script(trial)
    assert script.why_not == ""
    return script.text


def python_in(script: str) -> str:
    _, _, rest = script.partition("<<'PY'")
    body, found, _ = rest.partition("\n")[2].partition("\nPY\n")
    assert found
    return body


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script with a stand-in that is ``well``, ``sick`` or ``dies``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("CHILDREN", str(tmp_path / "children"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", "must not get through")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "must not be used"))

    def go(script: str, health: str) -> subprocess.CompletedProcess[str]:
        opencode = folder / "opencode"
        opencode.write_text(f'#!/bin/sh\nexec {sys.executable} -I {DATA / "sick_opencode.py"} {health} "$@"\n')
        opencode.chmod(0o755)
        path = tmp_path / "repro.sh"
        path.write_text(script)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", str(path)], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return go


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("health", "code"), [("sick", 1), ("well", 0)])
def test_a_script_tells_a_sick_one_from_a_healthy_one(
    kind: str, health: str, code: int, run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run(text_of(KINDS[kind]()), health)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("the bug shows:" in done.stdout) == bool(code)
    assert not (tmp_path / "must not be used").exists()
    left = {path.name for path in tmp_path.iterdir()} - {"bin", "repro.sh", "children"}
    assert left == set(), "its temporary HOME is removed"


@pytest.mark.parametrize("kind", ["overlap", "question"])
def test_what_ends_by_a_signal_or_answers_something_else_tells_nothing(
    kind: str, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert run(text_of(KINDS[kind]()), "dies").returncode == 2


@pytest.mark.parametrize("kind", KINDS)
def test_without_opencode_it_tells_nothing(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    for name in ("bash", "mktemp", "mkdir", "rm", "grep"):
        (folder / name).symlink_to(shutil.which(name) or "/missing")
    environment = {"PATH": str(folder), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [str(folder / "bash"), "-s"],
        input=text_of(KINDS[kind]()),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "No such file or directory: 'opencode'" in done.stderr


def test_a_tool_that_outlives_its_server_is_ended(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert run(text_of(reproducing.killed_server()), "sick").returncode == 1
    pid = int((tmp_path / "children").read_text())
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return
    assert state == "Z", "it sleeps 300 s and has HOME in its environment"


def prints(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def started_below(folder: Path) -> list[str]:
    """Who has this folder in its environment; a process that has ended has none any more."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{folder}".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_script_touches_the_real_home_or_leaves_a_process(
    kind: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    (home / ".local/share/opencode").mkdir(parents=True)
    (home / ".local/share/opencode/opencode.db").write_text("mine")
    (home / ".config").mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = prints(home)
    assert run(text_of(KINDS[kind]()), "sick").returncode == 1
    assert prints(home) == before
    until(lambda: not started_below(tmp_path), timeout_s=20, what="the end of all that the script started")


def test_without_a_temporary_directory_nobody_is_ended(tmp_path: Path) -> None:
    """An empty T would stand for everybody's HOME; kill and rm are only named here, never run."""
    end = next(line for line in text_of(reproducing.overlap()).splitlines() if "end()" in line)
    named = "kill() { echo KILLED; }; rm() { echo REMOVED; }; "
    done = subprocess.run(["bash", "-c", f"{named}{end}"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    done = subprocess.run(
        ["bash", "-c", f"{named}{end}\nT=/nobody/has/this"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "REMOVED\n", "the same line does act where there is a directory"


@pytest.mark.parametrize("kind", KINDS)
def test_where_nobody_would_be_found_again_nothing_is_started(kind: str, tmp_path: Path) -> None:
    elsewhere = text_of(KINDS[kind]()).replace("/proc/self", str(tmp_path / "absent"))
    done = subprocess.run(["bash", "-s"], input=elsewhere, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "this script needs Linux\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_is_short_and_needs_nothing_of_ours(kind: str) -> None:
    script = text_of(KINDS[kind]())
    lines = script.splitlines()
    assert len(lines) <= MOST_LINES < 40
    assert max(map(len, lines)) <= LONGEST_LINE
    assert "ocrepro" not in script
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(ast.parse(python_in(script)))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_hostile_texts_stay_texts(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWNED", str(tmp_path / "owned"))
    file = h.StagedFile(path="a $(touch $OWNED).js", text=HOSTILE)
    furnished = h.SandboxFurnished(at_ns=0, files=(file,), config='{"x": "PY\\n$(touch $OWNED)"}')
    trial = reproducing.overlap(title=HOSTILE, furnished=furnished)
    script = text_of(trial)
    assert not set("\x00\x1b\u202e") & set(script)
    assert [line for line in script.splitlines() if line == "PY"] == ["PY"]
    assert run(script, "sick").returncode == 1
    assert not (tmp_path / "owned").exists()
    assert f"file.write_text({HOSTILE!r})" in script


def test_a_rate_below_one_is_tried_so_often_that_it_would_be_seen(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    trial = reproducing.overlap()
    assert [repro_script(trial, Rate(k=k, n=20)).tries for k in (20, 14, 2)] == [1, 3, 20]
    script = repro_script(trial, Rate(k=14, n=20)).text
    assert "Exit 1: the bug shows in one of 3 tries" in script
    done = run(script, "well")
    assert (done.returncode, done.stdout.count("the bug does not show")) == (0, 3)
    sick = run(script, "sick")
    assert (sick.returncode, sick.stdout.count("the bug shows")) == (1, 1)
    assert run(script, "dies").returncode == 2


def furnished(**more: object) -> h.SandboxFurnished:
    return h.SandboxFurnished(at_ns=0, **more)  # type: ignore[arg-type]


def turns(**more: object) -> h.TurnsScripted:
    turn = h.ScriptedTurn(name="t", words="w", **more)  # type: ignore[arg-type]
    return h.TurnsScripted(at_ns=1, model="m1", turns=(turn,))


def fault(**more: object) -> h.FaultInjected:
    return h.FaultInjected(at_ns=1, detail="d", **more)  # type: ignore[arg-type]


def wrapper() -> h.ProcessStarted:
    return msgspec.structs.replace(reproducing.process("wrapper", obligation="exit"), argv=("python3",))


def with_event(event: h.Event) -> StoredTrial:
    return reproducing.trial([event, *list(reproducing.overlap().history)[1:]])


@pytest.mark.parametrize(
    ("trial", "why"),
    [
        (reproducing.overlap(verdict=Verdict.COMPLETED), "cannot be checked by a short script"),
        (reproducing.overlap(result=Result.NOT_SEEN), "did not reproduce anything"),
        (reproducing.trial(list(reproducing.overlap().history)[1:-1]), "cannot be checked by a short script"),
        (reproducing.overlap(furnished=furnished(left_out=1)), "too much for a short script"),
        (with_event(furnished()), "too much for a short script"),
        (with_event(fault(fault="registry")), "the registry's fault cannot be made by a short script: d"),
        (with_event(fault(fault="network")), "the fault 'network' cannot be made by a short script"),
        (with_event(h.FaultHealed(at_ns=1, fault="registry")), "healed in between"),
        (with_event(wrapper()), "the scenario starts 'wrapper', a program of its own"),
        (with_event(reproducing.process("first", "run", stdin="a file")), "the standard input of 'first' is a file"),
        (
            with_event(reproducing.process("first", "run", environment=("A-B=c",))),
            "a name that is none: 'A-B'",
        ),
        (
            with_event(reproducing.process("first", "run", "the [masked:TOKEN] of it")),
            "a step of it holds [masked:TOKEN]",
        ),
        (
            with_event(h.TurnsScripted(at_ns=0, model="m", turns=(h.ScriptedTurn(name="t", words="[masked:x]"),))),
            "a step of it holds [masked:x]",
        ),
        (with_event(reproducing.process("first", "run", "x" * 500)), "too long for a short script"),
        (
            with_event(h.SignalSent(at_ns=1, pid=1, role="first", signal="SIGUSR1", why="scenario")),
            "sends SIGUSR1",
        ),
        (
            with_event(h.HttpAsked(at_ns=1, role="nobody", method="GET", path="/doc")),
            "does not know the server 'nobody'",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(trial: StoredTrial, why: str) -> None:
    script = repro_script(trial)
    assert script.text == ""
    assert why in script.why_not


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"barrier": "b"}, "holds an answer of the model at a barrier"),
        ({"late_s": 3.0}, "come late or with pauses"),
        ({"pace_s": 3.0}, "come late or with pauses"),
    ],
)
def test_turns_that_a_short_script_cannot_take(changes: dict[str, object], why: str) -> None:
    events = [
        turns(**changes),
        reproducing.process("second", "run", "-m", "mock/m1"),
        reproducing.broken("x", "second"),
    ]
    assert why in repro_script(reproducing.trial(events)).why_not


def test_two_scripts_of_the_model_at_once_are_too_much() -> None:
    second = h.TurnsScripted(at_ns=2, model="m1", when="hi", turns=(h.ScriptedTurn(name="t", words="w"),))
    events = [turns(), second, reproducing.process("second", "run", "-m", "mock/m1", "hi")]
    trial = reproducing.trial([*events, reproducing.broken("x", "second")])
    assert "several scripts at once" in repro_script(trial).why_not


def test_a_configuration_names_the_scripts_own_places(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    config = json.dumps({"mcp": {"x": {"command": ["$PYTHON/bin/python3", "$SANDBOX/project/m.py"]}}})
    script = text_of(reproducing.overlap(furnished=furnished(config=config)))
    seen = tmp_path / "seen.json"
    kept = script.replace(
        "p_first = run(", f"__import__('shutil').copy(T + '/opencode.json', {str(seen)!r}); p_first = run("
    )
    assert kept != script
    assert run(kept, "well").returncode == 0
    program, path = json.loads(seen.read_text())["mcp"]["x"]["command"]
    assert Path(program).name.startswith("python3")
    assert path.startswith(str(tmp_path))
    assert path.endswith("/project/m.py")


def test_a_start_that_is_slow_is_looked_at_when_it_ought_to_be_over() -> None:
    demand = reproducing.broken("it answers within 1 s", "second", finding="slow-start")
    trial = reproducing.trial([reproducing.process("second", "run", "hi"), demand], verdict=Verdict.COMPLETED)
    assert plan(trial).shows is Shows.STILL_RUNS
    assert plan(trial).limit_s == reproducing.process("x", "run").fail_fast_s


def test_a_subagent_says_its_turns_after_the_call_that_starts_it() -> None:
    def told(when: str, *said: h.ScriptedTurn) -> h.TurnsScripted:
        return h.TurnsScripted(at_ns=2, model="m1", when=when, turns=said)

    starts = h.ScriptedTurn(name="t", calls=(("task", '{"prompt": "the work"}'),))
    child = told("the work", h.ScriptedTurn(name="c", words="by the child"))
    other = told("nobody says this", h.ScriptedTurn(name="o", words="never said"))
    events = [told("", starts, h.ScriptedTurn(name="e", words="the end")), child, other]
    process = reproducing.process("second", "run", "-m", "mock/m1", "hi")
    trial = reproducing.trial([*events, process, reproducing.broken("x", "second")])
    found = plan(trial)
    assert [turn.name for turn in found.turns] == ["t", "c", "e"]


def test_an_id_that_the_script_cannot_find_out() -> None:
    events = [*list(reproducing.pending_question().history)[1:-3]]
    events += reproducing.asked("server", "DELETE", "/session/ses_abc/message/msg_elsewhere00", None, {}, 409)
    events += [reproducing.broken("delete is accepted", finding="call-refused")]
    assert "a call names msg_..." in repro_script(reproducing.trial(events)).why_not


def test_of_several_runs_that_race_any_may_show_it() -> None:
    runs = [reproducing.process(role, "run", "-m", "mock/m1") for role in ("first", "second", "third")]
    demands = [
        h.Expectation(
            at_ns=reproducing.at(),
            claim=f"{role} does not die of the database",
            held=role != "second",
            because="b",
            role=role,
            finding="database-error" if role == "second" else "",
        )
        for role in ("first", "second", "third")
    ]
    script = repro_script(reproducing.trial([turns(repeats=True), *runs, *demands]))
    assert "(p_first, p_second, p_third,)" in script.text
    assert script.tries == 5


def test_answers_that_fail_or_never_end(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    silent = reproducing.trial(
        [
            turns(never_ends=True),
            reproducing.process("second", "run", "-m", "mock/m1"),
            reproducing.broken("x", "second"),
        ]
    )
    done = run(text_of(silent), "well")
    assert (done.returncode, "it still runs after 3 s" in done.stdout) == (1, True)
    refused = reproducing.trial(
        [turns(status=429), reproducing.process("second", "run", "-m", "mock/m1"), reproducing.broken("x", "second")]
    )
    done = run(text_of(refused), "well")
    assert "HTTP Error 429" in done.stderr
    assert (done.returncode, "exit 1" in done.stdout) == (0, True)


def _stays(claim: str) -> StoredTrial:
    return reproducing.trial(
        [
            turns(never_ends=True),
            reproducing.process("second", "run", "-m", "mock/m1"),
            reproducing.broken(claim, "second"),
        ]
    )


def _instead(script: str, words: str) -> str:
    """With another program in the place of opencode."""
    start = "p_second = run('opencode', 'run', '-m', 'mock/m1')"
    assert start in script
    return script.replace(start, f"p_second = run('sh', '-c', {words!r})")


def test_who_fails_for_another_reason_shows_nothing(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A build that cannot start has not done what it was asked: no sign that the bug is gone."""
    text = text_of(_stays(f"second {h.COMPLETES}"))
    done = run(_instead(text, "exit 1"), "well")
    assert (done.returncode, "p_second ended with an error (exit 1)" in done.stderr) == (2, True)
    done = run(_instead(text, "exit 0"), "well")
    assert (done.returncode, "the bug does not show" in done.stdout) == (0, True)
    done = run(_instead(text_of(_stays("second answers or fails fast")), "exit 1"), "well")
    assert (done.returncode, "exit 1" in done.stdout) == (0, True)


LOOKS_AGAIN = "python3 -c 'import time; [time.sleep(0.05) for _ in range(6000)]'"


def test_who_is_merely_slow_shows_nothing(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """One that works on after the limit may come to its end; one that only looks again and again will not."""
    done = run(_instead(text_of(_stays("second answers or fails fast")), "while :; do :; done"), "well")
    assert (done.returncode, "it may be slow" in done.stderr) == (2, True)
    done = run(_instead(text_of(_stays("second answers or fails fast")), f"exec {LOOKS_AGAIN}"), "well")
    assert (done.returncode, "it still runs after 3 s" in done.stdout) == (1, True)

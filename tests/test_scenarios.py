"""The catalogue's oracles before a stand-in that behaves, and before one that misbehaves in just that way.

Run by hand: ``pytest tests/test_scenarios.py -m oracle -n 2`` (6 minutes on 2 cores).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pytest_ocrepro
from pytest_ocrepro.catalogue import catalogue
from pytest_ocrepro.errors import NotReachedError
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Judgement, Result
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.subject import Build

ROOT = Path(pytest_ocrepro.__file__).parent.parent
PRETENDER = Path(__file__).parent / "data/scenarios/pretender.py"
QUICKER = {
    "LIMIT_S": 6.0,
    "PATIENCE_S": 8.0,
    "ANSWERED_WITHIN_S": 4.0,
    "TAKEN_UP_WITHIN_S": 3.0,
    "LATE_S": 3.0,
    "IN_A_TURN_S": 6.0,
    "BUSY_S": 0.2,
    "MINUTES_S": 8.0,
    "RUNS": 2,
    "ROUNDS": 3,
}
# file, scenario, its parameters, the flaw that it is there for, and the words of what must catch it
CASES: list[tuple[str, str, dict[str, Any], str, str]] = [
    (
        "endless_stdin",
        "stdin_that_never_ends",
        {},
        "reads-stdin",
        "waits for standard input, whose writer is open and silent",
    ),
    (
        "provider_failures",
        "model_that_falls_silent",
        {"when": "in the middle"},
        "waits-on-silence",
        "waits for an answer of the provider",
    ),
    (
        "provider_failures",
        "model_that_falls_silent",
        {"when": "but for comments"},
        "waits-on-silence",
        "waits for an answer of the provider",
    ),
    (
        "provider_failures",
        "model_that_falls_silent",
        {"when": "in a tool call"},
        "waits-on-silence",
        "waits for an answer of the provider",
    ),
    (
        "provider_failures",
        "model_that_falls_silent_in_a_subagent",
        {"when": "after a tool"},
        "waits-on-silence",
        "waits for an answer of the provider",
    ),
    (
        "provider_failures",
        "model_that_fails_a_subagent",
        {"how": "refuses for ever"},
        "retries",
        "answers or fails fast",
    ),
    (
        "provider_failures",
        "model_that_fails_a_subagent",
        {"how": "is cut in the middle"},
        "retries",
        "gives up, or ends",
    ),
    (
        "provider_failures",
        "model_that_is_silent_for_minutes",
        {"when": "in the middle"},
        "waits-on-silence",
        "the silent request is given up",
    ),
    ("provider_failures", "model_that_refuses_for_ever", {"status": 429}, "retries", "answers or fails fast"),
    ("provider_failures", "model_that_refuses_for_good", {"status": 401}, "retries", "answers or fails fast"),
    ("provider_failures", "connection_that_breaks_once", {"how": "reset"}, "gives-up", "does what it was asked"),
    (
        "untold_failures",
        "answer_that_is_none",
        {"how": "cut in the middle"},
        "exit-0",
        "tells by its exit code that it has no answer",
    ),
    (
        "untold_failures",
        "answer_that_is_none",
        {"how": "out of tokens, nothing said"},
        "exit-0",
        "tells by its exit code that it has no answer",
    ),
    ("untold_failures", "model_that_does_not_exist", {}, "exit-0", "tells by its exit code that it has no answer"),
    ("untold_failures", "session_that_does_not_exist", {}, "exit-0", "tells by its exit code that it has no answer"),
    (
        "untold_failures",
        "refused_tool_and_nothing_said",
        {},
        "exit-0",
        "tells by its exit code that it has no answer",
    ),
    ("clean_stop", "last_answer_and_then_the_end", {"turn": "words"}, "stays", "does what it was asked"),
    ("clean_stop", "answer_without_a_finish", {}, "retries", "gives up, or ends"),
    (
        "cold_start_stampede",
        "runs_at_once_on_an_empty_data_directory",
        {},
        "dies-in-company",
        "does not die of the database",
    ),
    (
        "cold_start_stampede",
        "runs_at_once_on_an_empty_data_directory",
        {},
        "dies-without-a-word",
        "does what it was asked",
    ),
    (
        "cold_start_stampede",
        "runs_at_once_on_a_database_of_an_old_build",
        {},
        "loses-parts",
        "no session, message or part is lost",
    ),
    ("cold_start_stampede", "inventory_commands_at_once", {}, "dies-in-company", "does not die of the database"),
    ("cold_start_stampede", "inventory_commands_at_once", {}, "lists-nothing-at-first", " lists all"),
    ("danger_window", "second_pair_on_an_empty_data_directory", {}, "dies-without-a-word", "does what it was asked"),
    ("write_lock_sweep", "lock_held_in_a_turn", {"point": "behind a tool"}, "dies-locked", "database is locked"),
    (
        "stale_locks",
        "killed_while_it_held_a_lock_directory",
        {"what": "plugin install"},
        "waits-for-the-dead",
        "does what it was asked",
    ),
    (
        "stale_locks",
        "killed_while_git_made_a_snapshot",
        {},
        "keeps-the-lock",
        "no lock of git is left behind the next turn",
    ),
    ("stale_locks", "index_lock_that_is_left", {}, "keeps-the-lock", "the second run makes snapshots too"),
    ("crash_in_bash_tool", "server_killed_while_bash_runs", {}, "orphans", "no tool part stays unfinished"),
    (
        "crash_in_bash_tool",
        "server_killed_while_bash_runs",
        {},
        "fails-turns",
        "a new prompt on the session is answered",
    ),
    (
        "crash_points",
        "server_killed_at_a_point",
        {"point": "in four commands"},
        "orphans",
        "no tool part stays unfinished",
    ),
    ("crash_points", "server_killed_at_a_point", {"point": "in the words"}, "orphans", "no message stays unfinished"),
    (
        "crash_points",
        "server_killed_at_a_point",
        {"point": "in four commands"},
        "calls-stay-open",
        "the model is told a result of each of its calls",
    ),
    (
        "crash_points",
        "server_killed_at_a_point",
        {"point": "in four commands"},
        "fails-turns",
        "a new prompt is answered",
    ),
    (
        "async_prompts",
        "prompt_to_a_busy_session",
        {"turn": "ends"},
        "loses-prompts",
        "the accepted prompt 'prompt two' gets a turn",
    ),
    (
        "async_prompts",
        "prompt_to_a_busy_session",
        {"turn": "is aborted"},
        "ignores-abort",
        "the accepted prompt 'prompt three' gets a turn",
    ),
    ("async_prompts", "prompts_at_the_edge_of_idleness", {}, "loses-the-second", "the accepted prompt"),
    ("async_prompts", "prompt_that_fails", {}, "stays-busy", "the session is idle again"),
    (
        "async_prompts",
        "status_right_after_a_prompt",
        {},
        "idle-early",
        "the status is busy from the answer to the prompt on",
    ),
    (
        "async_prompts",
        "status_right_after_the_answer",
        {},
        "stays-busy",
        "the status is idle once the answer is there",
    ),
    ("shared_data", "two_servers_on_one_session", {}, "two-owners", "one process at a time works on a session"),
    ("shared_data", "two_servers_one_after_the_other", {}, "fails-turns", "prompt is answered"),
    ("shared_data", "runs_beside_an_idle_server", {"project": "with a commit"}, "stays", "does what it was asked"),
    ("shared_data", "snapshots_of_runs_at_once", {}, "loses-snapshots", "each step has its snapshot"),
    (
        "plugins",
        "plugin_that_waits_in_its_start",
        {"plugin": "never returns"},
        "waits-in-plugins",
        "does what it was asked",
    ),
    (
        "plugins",
        "plugin_and_a_registry_that_is_away",
        {"registry": "is silent"},
        "no-bound-for-npm",
        "does what it was asked",
    ),
    ("plugins", "registry_that_resets_to_the_end", {}, "tries-npm-again", "it answers within"),
    ("plugins", "plugin_from_npm_and_a_silent_registry", {}, "no-bound-for-npm", "does what it was asked"),
    ("plugins", "list_of_models_and_a_silent_network", {}, "waits-for-models", "does what it was asked"),
    (
        "subagents",
        "many_subagents_at_once",
        {"children": 8},
        "loses-children",
        "every subagent ran, and its parent went on",
    ),
    (
        "subagents",
        "many_subagents_at_once",
        {"children": 8},
        "one-child-for-all",
        "every subagent ran, and its parent went on",
    ),
    ("subagents", "subagent_over_http", {}, "loses-children", "every subagent ran, and its parent went on"),
    (
        "headless_permission",
        "permission_of_a_subagent",
        {},
        "asks",
        "waits for a permission for its bash tool, which nobody gives",
    ),
    (
        "headless_permission",
        "other_permission_of_a_subagent",
        {"what": "edit"},
        "asks",
        "waits for its own write tool",
    ),
    ("headless_permission", "same_command_again", {}, "doubts-repeats", "no permission is asked for what is allowed"),
    (
        "headless_permission",
        "question_in_a_session_of_the_server",
        {},
        "asks",
        "waits for an answer to its question, which nobody gives",
    ),
    (
        "headless_permission",
        "permission_of_an_attached_run",
        {},
        "asks",
        "waits for a permission for its bash tool, which nobody gives",
    ),
    (
        "headless_permission",
        "permission_that_a_wrapper_is_asked_for",
        {"whose": "a subagent's"},
        "hides-children",
        "the permission is in the list",
    ),
    ("mcp_servers", "mcp_server_that_dies_before_a_question", {}, "locked-up", "delete the message is accepted"),
    ("mcp_servers", "mcp_server_behind_the_end", {"end": "of a run"}, "leaves-stub", "no tool server is left"),
    ("mcp_servers", "mcp_server_behind_the_end", {"end": "of a server"}, "leaves-stub", "no tool server is left"),
    (
        "surviving_descendants",
        "output_that_is_kept_open",
        {"how": "setsid"},
        "waits-for-output",
        "waits for output of sleep",
    ),
    (
        "surviving_descendants",
        "output_that_is_kept_open",
        {"how": "under timeout"},
        "waits-for-output",
        "waits for output of sleep",
    ),
    (
        "surviving_descendants",
        "process_that_a_subagent_leaves",
        {"how": "setsid"},
        "waits-for-output",
        "waits for output of sleep",
    ),
    (
        "surviving_descendants",
        "abort_of_a_command",
        {"command": "that ignores TERM"},
        "ignores-abort",
        "the session is idle",
    ),
    ("surviving_descendants", "shells_that_have_ended", {}, "leaves-zombies", "no dead shell is left"),
    (
        "leftovers",
        "temporary_directory_behind_several_runs",
        {},
        "grows-tmp",
        "the temporary directory does not grow with each run",
    ),
    ("leftovers", "database_with_damaged_pages", {}, "abort-on-damage", "crashed"),
    (
        "leftovers",
        "stored_events_of_a_long_answer",
        {},
        "stores-it-all",
        "the bytes stored for each word do not grow with the answer",
    ),
    ("leftovers", "opencode_beneath_another_one", {}, "stays", "has a child that runs sh"),
    ("provider_failures", "summary_that_shrinks_nothing", {}, "sums-up", "gives up, or ends"),
    (
        "headless_permission",
        "permission_of_a_subagent_with_auto",
        {},
        "asks",
        "waits for a permission for its bash tool, which nobody gives",
    ),
    ("headless_permission", "permission_of_a_subagent_with_auto", {}, "refuses-in-spite-of-auto", "the tool is run"),
    ("headless_permission", "permission_of_a_subagent_without_auto", {}, "permits-unasked", "the tool is not run"),
    ("busy_server", "listener_of_events_that_goes", {}, "lost-listener", "the turn ends without its listener"),
    ("busy_server", "health_beside_fast_sessions", {}, "slow-health", "the health check answers within"),
    ("busy_server", "health_beside_fast_sessions", {}, "dies-at-work", "the health check answers within"),
    ("interactive", "run_beside_an_interactive_program", {"project": "with git"}, "stays", "does what it was asked"),
    ("interactive", "first_prompt_of_an_interactive_program", {}, "ignores-enter", "the model is asked"),
    ("interactive", "first_prompt_of_an_interactive_program", {}, "takes-no-keys", "what is typed is on the screen"),
    ("interactive", "terminal_that_is_closed", {}, "outlives-terminal", "nothing is left of it"),
    (
        "isolation_recipes",
        "workers_with_a_recipe",
        {"mechanism": "install lock", "recipe": "nothing"},
        "waits-for-the-lock",
        "does what it was asked",
    ),
    (
        "isolation_recipes",
        "workers_with_a_recipe",
        {"mechanism": "cold start", "recipe": "nothing"},
        "dies-in-company",
        "does not die of the database",
    ),
    (
        "overlap_factorial",
        "overlapping_start_in_brief",
        {"cell": ("shared homes", "a plugin")},
        "waits-for-the-lock",
        "does what it was asked",
    ),
    (
        "overlap_factorial",
        "overlapping_start",
        {"cell": ("warm data", "own homes", "stdin open")},
        "reads-stdin",
        "waits for standard input, whose writer is open and silent",
    ),
    (
        "overlap_factorial",
        "serial_start_with_an_open_input",
        {"cell": ("warm data", "stdin open")},
        "reads-stdin",
        "waits for standard input, whose writer is open and silent",
    ),
    (
        "installs",
        "second_start_without_a_lock_file",
        {},
        "installs-again",
        "the second start asks the registry nothing",
    ),
    (
        "installs",
        "start_without_a_plugin_and_a_silent_registry",
        {},
        "installs-unasked",
        "it begins its session within",
    ),
    ("acp_clients", "permission_of_a_subagent_over_acp", {}, "hides-children", "the client's turn ends"),
    ("acp_clients", "permission_of_a_subagent_over_acp", {}, "fails-in-company", "the client's turn ends"),
    ("acp_clients", "permission_of_the_session_over_acp", {}, "refuses-all", "what the client permits is run"),
    (
        "language_servers",
        "language_server_behind_the_end",
        {"end": "of a run"},
        "leaves-language-server",
        "no language server is left",
    ),
    (
        "language_servers",
        "language_server_behind_the_end",
        {"end": "of a server"},
        "leaves-language-server",
        "no language server is left",
    ),
]

# file, scenario, its parameters, what keeps the stand-in from coming to its point
NOT_REACHED: list[tuple[str, str, dict[str, Any], str]] = [
    ("mcp_servers", "mcp_server_that_dies_before_a_question", {}, "calls-no-tools"),
    ("write_lock_sweep", "lock_held_in_a_turn", {"point": "behind a tool"}, "writes-later"),
    ("surviving_descendants", "output_that_is_kept_open", {"how": "setsid"}, "runs-nothing"),
    ("surviving_descendants", "process_that_a_subagent_leaves", {"how": "setsid redirected"}, "starts-no-children"),
    ("surviving_descendants", "shells_that_have_ended", {}, "runs-nothing"),
]


@pytest.fixture
def trial_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Trial]]:
    """A trial whose opencode has this flaw; so has the old build that it may ask for."""
    monkeypatch.setattr(Trial, "other_build", lambda trial, _: trial.build.path)
    session = Session(RunDir.create(tmp_path / "reports"))
    made: list[Trial] = []

    def make(flaw: str) -> Trial:
        program = tmp_path / f"bin{len(made)}" / "opencode"
        program.parent.mkdir()
        program.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} -I {PRETENDER} "{flaw}," "$@"\n')
        program.chmod(0o755)
        build = Build(version="9.9.9", path=str(program), sha256="", source="binary")
        made.append(Trial(session, build, TrialInfo(scenario="s", title="t", version="9.9.9"), f"s{len(made)}"))
        return made[-1]

    yield make
    for trial in made:
        trial.finish()
    session.close()


def module_of(file: str) -> ModuleType:
    """A file of the catalogue, with shorter times."""
    spec = importlib.util.spec_from_file_location(f"scenario_{file}", catalogue() / f"test_{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in QUICKER.items():
        if hasattr(module, name):
            setattr(module, name, value)
    return module


def judged(trial: Trial, file: str, test: str, given: dict[str, Any]) -> Judgement:
    """The scenario, played and judged."""
    getattr(module_of(file), f"test_{test}")(trial, **given)
    return trial.finish()[0]


def name_of(case: object) -> str | None:
    return None if isinstance(case, dict) else str(case)


@pytest.mark.oracle
@pytest.mark.parametrize(("file", "test", "given", "flaw", "words"), CASES, ids=name_of)
def test_who_behaves_passes_and_who_has_the_flaw_is_caught(
    trial_of: Callable[[str], Trial],
    file: str,
    test: str,
    given: dict[str, Any],
    flaw: str,
    words: str,
) -> None:
    well = judged(trial_of("behaves"), file, test, given)
    assert (well.result, well.leaked) == (Result.NOT_SEEN, ()), well.reason
    sick = judged(trial_of(flaw), file, test, given)
    assert (sick.result, sick.leaked) == (Result.REPRODUCED, ()), sick.reason
    assert words in sick.reason, sick.reason


@pytest.mark.oracle
@pytest.mark.parametrize(("file", "test", "given", "flaw"), NOT_REACHED, ids=name_of)
def test_who_does_not_come_to_the_point_tells_nothing(
    trial_of: Callable[[str], Trial], file: str, test: str, given: dict[str, Any], flaw: str
) -> None:
    trial, trouble = trial_of(flaw), ""
    try:
        getattr(module_of(file), f"test_{test}")(trial, **given)
    except NotReachedError as error:
        trouble = str(error)
    assert trial.finish(trouble)[0].result is Result.INCONCLUSIVE

"""The catalogue's oracles before a stand-in that behaves, and before one that misbehaves in just that way.

Run by hand: ``pytest tests/test_scenarios.py -m oracle -n 2`` (3 minutes on 2 cores).
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
    "IN_A_TURN_S": 2.0,
    "BUSY_S": 0.2,
    "MINUTES_S": 8.0,
    "RUNS": 2,
    "ROUNDS": 3,
}
# file, scenario, its parameters, the flaw that it is there for
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("endless_stdin", "stdin_that_never_ends", {}, "reads-stdin"),
    ("provider_failures", "model_that_falls_silent", {"when": "in the middle"}, "waits-on-silence"),
    ("provider_failures", "model_that_falls_silent", {"when": "but for comments"}, "waits-on-silence"),
    ("provider_failures", "model_that_falls_silent", {"when": "in a tool call"}, "waits-on-silence"),
    ("provider_failures", "model_that_falls_silent_in_a_subagent", {"when": "after a tool"}, "waits-on-silence"),
    ("provider_failures", "model_that_fails_a_subagent", {"how": "refuses for ever"}, "retries"),
    ("provider_failures", "model_that_fails_a_subagent", {"how": "is cut in the middle"}, "retries"),
    ("provider_failures", "model_that_is_silent_for_minutes", {"when": "in the middle"}, "waits-on-silence"),
    ("provider_failures", "model_that_refuses_for_ever", {"status": 429}, "retries"),
    ("provider_failures", "model_that_refuses_for_good", {"status": 401}, "retries"),
    ("provider_failures", "connection_that_breaks_once", {"how": "reset"}, "gives-up"),
    ("untold_failures", "answer_that_is_none", {"how": "cut in the middle"}, "exit-0"),
    ("untold_failures", "answer_that_is_none", {"how": "out of tokens, nothing said"}, "exit-0"),
    ("untold_failures", "model_that_does_not_exist", {}, "exit-0"),
    ("untold_failures", "session_that_does_not_exist", {}, "exit-0"),
    ("untold_failures", "refused_tool_and_nothing_said", {}, "exit-0"),
    ("clean_stop", "last_answer_and_then_the_end", {"turn": "words"}, "stays"),
    ("clean_stop", "answer_without_a_finish", {}, "retries"),
    ("cold_start_stampede", "runs_at_once_on_an_empty_data_directory", {}, "dies-in-company"),
    ("cold_start_stampede", "runs_at_once_on_an_empty_data_directory", {}, "dies-without-a-word"),
    ("cold_start_stampede", "runs_at_once_on_a_database_of_an_old_build", {}, "loses-parts"),
    ("cold_start_stampede", "inventory_commands_at_once", {}, "dies-in-company"),
    ("cold_start_stampede", "inventory_commands_at_once", {}, "lists-nothing-at-first"),
    ("danger_window", "second_pair_on_an_empty_data_directory", {}, "dies-without-a-word"),
    ("write_lock_sweep", "lock_held_in_a_turn", {"point": "behind a tool"}, "dies-locked"),
    ("stale_locks", "killed_while_it_held_a_lock_directory", {"what": "plugin install"}, "waits-for-the-dead"),
    ("stale_locks", "killed_while_git_made_a_snapshot", {}, "keeps-the-lock"),
    ("stale_locks", "index_lock_that_is_left", {}, "keeps-the-lock"),
    ("crash_in_bash_tool", "server_killed_while_bash_runs", {}, "orphans"),
    ("crash_in_bash_tool", "server_killed_while_bash_runs", {}, "fails-turns"),
    ("crash_points", "server_killed_at_a_point", {"point": "in four commands"}, "orphans"),
    ("crash_points", "server_killed_at_a_point", {"point": "in the words"}, "orphans"),
    ("crash_points", "server_killed_at_a_point", {"point": "in four commands"}, "calls-stay-open"),
    ("crash_points", "server_killed_at_a_point", {"point": "in four commands"}, "fails-turns"),
    ("async_prompts", "prompt_to_a_busy_session", {"turn": "ends"}, "loses-prompts"),
    ("async_prompts", "prompt_to_a_busy_session", {"turn": "is aborted"}, "ignores-abort"),
    ("async_prompts", "prompts_at_the_edge_of_idleness", {}, "loses-the-second"),
    ("async_prompts", "prompt_that_fails", {}, "stays-busy"),
    ("async_prompts", "status_right_after_a_prompt", {}, "idle-early"),
    ("async_prompts", "status_right_after_the_answer", {}, "stays-busy"),
    ("shared_data", "two_servers_on_one_session", {}, "two-owners"),
    ("shared_data", "two_servers_one_after_the_other", {}, "fails-turns"),
    ("shared_data", "runs_beside_an_idle_server", {"project": "with a commit"}, "stays"),
    ("shared_data", "snapshots_of_runs_at_once", {}, "loses-snapshots"),
    ("plugins", "plugin_that_waits_in_its_start", {"plugin": "never returns"}, "waits-in-plugins"),
    ("plugins", "plugin_and_a_registry_that_is_away", {"registry": "is silent"}, "no-bound-for-npm"),
    ("plugins", "registry_that_resets_to_the_end", {}, "tries-npm-again"),
    ("plugins", "plugin_from_npm_and_a_silent_registry", {}, "no-bound-for-npm"),
    ("plugins", "list_of_models_and_a_silent_network", {}, "waits-for-models"),
    ("subagents", "many_subagents_at_once", {"children": 8}, "loses-children"),
    ("subagents", "many_subagents_at_once", {"children": 8}, "one-child-for-all"),
    ("subagents", "subagent_over_http", {}, "loses-children"),
    ("headless_permission", "permission_of_a_subagent", {}, "asks"),
    ("headless_permission", "other_permission_of_a_subagent", {"what": "edit"}, "asks"),
    ("headless_permission", "same_command_again", {}, "doubts-repeats"),
    ("headless_permission", "question_in_a_session_of_the_server", {}, "asks"),
    ("headless_permission", "permission_of_an_attached_run", {}, "asks"),
    ("headless_permission", "permission_that_a_wrapper_is_asked_for", {"whose": "a subagent's"}, "hides-children"),
    ("mcp_servers", "mcp_server_that_dies_before_a_question", {}, "locked-up"),
    ("mcp_servers", "mcp_server_behind_the_end", {"end": "of a run"}, "leaves-stub"),
    ("mcp_servers", "mcp_server_behind_the_end", {"end": "of a server"}, "leaves-stub"),
    ("surviving_descendants", "output_that_is_kept_open", {"how": "setsid"}, "waits-for-output"),
    ("surviving_descendants", "output_that_is_kept_open", {"how": "under timeout"}, "waits-for-output"),
    ("surviving_descendants", "process_that_a_subagent_leaves", {"how": "setsid"}, "waits-for-output"),
    ("surviving_descendants", "abort_of_a_command", {"command": "that ignores TERM"}, "ignores-abort"),
    ("surviving_descendants", "shells_that_have_ended", {}, "leaves-zombies"),
    ("leftovers", "temporary_directory_behind_several_runs", {}, "grows-tmp"),
    ("leftovers", "database_with_damaged_pages", {}, "abort-on-damage"),
    ("leftovers", "stored_events_of_a_long_answer", {}, "stores-it-all"),
    ("leftovers", "opencode_beneath_another_one", {}, "stays"),
    ("provider_failures", "summary_that_shrinks_nothing", {}, "sums-up"),
    ("headless_permission", "permission_of_a_subagent_with_auto", {}, "asks"),
    ("headless_permission", "permission_of_a_subagent_with_auto", {}, "refuses-in-spite-of-auto"),
    ("headless_permission", "permission_of_a_subagent_without_auto", {}, "permits-unasked"),
    ("busy_server", "listener_of_events_that_goes", {}, "lost-listener"),
    ("busy_server", "health_beside_fast_sessions", {}, "slow-health"),
    ("busy_server", "health_beside_fast_sessions", {}, "dies-at-work"),
    ("interactive", "run_beside_an_interactive_program", {"project": "with git"}, "stays"),
    ("interactive", "first_prompt_of_an_interactive_program", {}, "ignores-enter"),
    ("interactive", "first_prompt_of_an_interactive_program", {}, "takes-no-keys"),
    ("interactive", "terminal_that_is_closed", {}, "outlives-terminal"),
    (
        "isolation_recipes",
        "workers_with_a_recipe",
        {"mechanism": "install lock", "recipe": "nothing"},
        "waits-for-the-lock",
    ),
    (
        "isolation_recipes",
        "workers_with_a_recipe",
        {"mechanism": "cold start", "recipe": "nothing"},
        "dies-in-company",
    ),
    ("overlap_factorial", "overlapping_start_in_brief", {"cell": ("shared homes", "a plugin")}, "waits-for-the-lock"),
    ("overlap_factorial", "overlapping_start", {"cell": ("warm data", "own homes", "stdin open")}, "reads-stdin"),
    ("overlap_factorial", "serial_start_with_an_open_input", {"cell": ("warm data", "stdin open")}, "reads-stdin"),
    ("installs", "second_start_without_a_lock_file", {}, "installs-again"),
    ("installs", "start_without_a_plugin_and_a_silent_registry", {}, "installs-unasked"),
    ("acp_clients", "permission_of_a_subagent_over_acp", {}, "hides-children"),
    ("acp_clients", "permission_of_a_subagent_over_acp", {}, "fails-in-company"),
    ("acp_clients", "permission_of_the_session_over_acp", {}, "refuses-all"),
    ("language_servers", "language_server_behind_the_end", {"end": "of a run"}, "leaves-language-server"),
    ("language_servers", "language_server_behind_the_end", {"end": "of a server"}, "leaves-language-server"),
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
@pytest.mark.parametrize(("file", "test", "given", "flaw"), CASES, ids=name_of)
def test_who_behaves_passes_and_who_has_the_flaw_is_caught(
    trial_of: Callable[[str], Trial],
    record_property: Callable[[str, object], None],
    file: str,
    test: str,
    given: dict[str, Any],
    flaw: str,
) -> None:
    well = judged(trial_of("behaves"), file, test, given)
    assert (well.result, well.leaked) == (Result.NOT_SEEN, ()), well.reason
    sick = judged(trial_of(flaw), file, test, given)
    record_property("caught", sick.reason)
    assert (sick.result, sick.leaked) == (Result.REPRODUCED, ()), sick.reason


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

"""Door: pytest. Options, ini, mark and the ``ocrepro`` fixture; the rest is loaded when ``--ocrepro`` is given."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_ocrepro.harness import Trial

MARK = (
    "ocrepro(issue=..., covers=..., known=..., title=..., control=False, profile='smoke', timing=False): a scenario. "
    "issue: one or "
    "several 'owner/repo#n'; covers: further reports of the same mechanism; known: {version: 'k/n'} of our own runs "
    "on which the failure was seen; control: must never reproduce; profile: the smallest of smoke, ci and soak that "
    "runs it; timing: it measures times, and runs while no other such trial does on this machine"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Everything that users type is prefixed."""
    group = parser.getgroup("ocrepro", "opencode concurrency scenarios")
    group.addoption(
        "--ocrepro",
        action="store_true",
        help="Run the scenarios. With no path: those of ocrepro_scenarios, else the catalogue that is installed",
    )
    group.addoption(
        "--ocrepro-binary",
        metavar="PATH",
        help="The opencode executable to run (environment: OCREPRO_BINARY)",
    )
    group.addoption(
        "--ocrepro-version",
        metavar="V",
        action="append",
        default=[],
        help="A published version, or 'latest'; may be given several times, every scenario then runs on each",
    )
    group.addoption(
        "--ocrepro-trials",
        metavar="N",
        help="Independent repetitions of every scenario, each in a fresh sandbox (environment: OCREPRO_TRIALS)",
    )
    group.addoption(
        "--ocrepro-looks",
        metavar="N,N...[@ RATE %]",
        help="Look after so many trials of a scenario, and run no more where its rate is above or below RATE "
        "(default 50 %%) beyond doubt; no look at any other time (environment: OCREPRO_LOOKS)",
    )
    group.addoption(
        "--ocrepro-seed", metavar="N", help="First seed; trial t of a scenario uses N + t - 1 (default 0)"
    )
    group.addoption(
        "--ocrepro-expect",
        metavar="known|clean|reproduced|any",
        help="What fails: known (default): what is not listed as known; clean: any reproduction; "
        "reproduced: what is not reproduced; any: nothing (environment: OCREPRO_EXPECT)",
    )
    group.addoption(
        "--ocrepro-profile",
        metavar="smoke|ci|soak",
        help="How much runs: smoke (default), ci (smoke and what takes longer) or soak (all). A test that is named "
        "by its node id always runs (environment: OCREPRO_PROFILE)",
    )
    group.addoption(
        "--ocrepro-reports",
        metavar="DIR",
        help="Where runs are written (default: reports; environment: OCREPRO_REPORTS)",
    )
    group.addoption(
        "--ocrepro-baseline",
        metavar="FILE",
        help="results.jsonl of an earlier run: fail only where a scenario got worse beyond chance, and say what got "
        "better; without --ocrepro-expect nothing else fails (environment: OCREPRO_BASELINE)",
    )
    group.addoption(
        "--ocrepro-github",
        metavar="auto|on|off",
        help="A job summary and at most nine annotations for GitHub Actions. auto (default): where "
        "GITHUB_STEP_SUMMARY is set; on: always, the summary then beside the page (environment: OCREPRO_GITHUB)",
    )
    group.addoption(
        "--ocrepro-ctrf",
        metavar="FILE",
        help="Write the results in the Common Test Report Format too (environment: OCREPRO_CTRF)",
    )
    group.addoption(
        "--ocrepro-cache-limit",
        metavar="SIZE",
        help="When the cache of builds is larger (2GB), those used longest ago go, never one in use (environment: "
        "OCREPRO_CACHE_LIMIT)",
    )
    group.addoption(
        "--ocrepro-intrusive",
        action="store_true",
        help="Watch what is called hung with strace and gdb for some seconds: the last step, since it may disturb",
    )
    group.addoption(
        "--ocrepro-verify-repro",
        metavar="N",
        help="Run the repro script of each scenario that reproduced N times at the end (default 0; environment: "
        "OCREPRO_VERIFY_REPRO)",
    )
    group.addoption(
        "--ocrepro-schedule",
        metavar="MOVES",
        help="Start programs one after the other but for these moves, separated by ';' (see `ocrepro explore`)",
    )
    group.addoption("--ocrepro-offline", action="store_true", help="Use cached builds only; ask no registry")
    for name, kind, text in (
        ("binary", "string", "path of the opencode executable"),
        ("version", "args", "versions to run on"),
        ("trials", "string", "repetitions of every scenario"),
        ("looks", "string", "after how many trials to look whether more are needed"),
        ("expect", "string", "known, clean, reproduced or any"),
        ("profile", "string", "smoke, ci or soak"),
        ("reports", "string", "directory of reports, relative to the root directory"),
        ("baseline", "string", "results.jsonl of an earlier run"),
        ("github", "string", "auto, on or off"),
        ("ctrf", "string", "a file for the results in the Common Test Report Format, relative to the root directory"),
        ("cache_limit", "string", "size at which builds go from the cache"),
        ("verify_repro", "string", "how often each repro script is run at the end"),
        ("redact", "linelist", "more to mask in what is stored: one 'NAME = REGEX' a line"),
        ("scenarios", "args", "paths that --ocrepro runs when none is given, relative to the root directory"),
    ):
        parser.addini(f"ocrepro_{name}", text, type=kind, default=None)  # type: ignore[arg-type]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the mark; with ``--ocrepro`` the real plugin."""
    config.addinivalue_line("markers", MARK)
    if config.getoption("--ocrepro"):
        from pytest_ocrepro.platforms import scenarios_refused

        if why := scenarios_refused(sys.platform):
            raise pytest.UsageError(f"ocrepro: {why}")
        from pytest_ocrepro.pytest_session import activate

        activate(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item a build and trial."""
    active = metafunc.config.pluginmanager.get_plugin("ocrepro-session")
    if active is not None and "ocrepro" in metafunc.fixturenames:
        active.parametrize(metafunc)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """The end of a run with scenarios is not cut short by one signal."""
    active = session.config.pluginmanager.get_plugin("ocrepro-session")
    if active is None:
        return (yield)
    with active.kept_from_interrupts(session):
        return (yield)


@pytest.fixture
def ocrepro(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """One trial: a sandbox, a scripted model, a registry, and the verbs to start, break, watch and demand."""
    active: Any = request.config.pluginmanager.get_plugin("ocrepro-session")
    if active is None:
        pytest.skip("a scenario: needs --ocrepro")
    yield from active.trial(request)

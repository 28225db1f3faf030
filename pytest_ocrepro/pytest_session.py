"""The pytest plugin while ``--ocrepro`` is on: builds, parametrization, the trial of an item, results, the page.

The controller resolves builds and makes the run directory; xdist workers get both as JSON and send each result back
on the test report, so that collection is the same everywhere and only one process writes results.jsonl.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from pytest_ocrepro.closing import Closing
from pytest_ocrepro.errors import BundleError, OcreproError, StageError, UsageError
from pytest_ocrepro.guard import GUARD, TRIAL, Guard
from pytest_ocrepro.harness import WAITED_S, Trial
from pytest_ocrepro.interrupts import OrderlyEnd, PutOff
from pytest_ocrepro.items import choose_paths, info_of, labels, profile_of, scenario_of_item, slug_of
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.observe.readers import reader_here
from pytest_ocrepro.outcome import Decision, Outcome, decide, section
from pytest_ocrepro.platforms import has_proc, seen_through
from pytest_ocrepro.progress import progress_on
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.publish.counting import plural
from pytest_ocrepro.publish.github import inert
from pytest_ocrepro.publish.parcel import pack, take_in
from pytest_ocrepro.publish.redaction import Redactor
from pytest_ocrepro.publish.rules import read_rules
from pytest_ocrepro.publish.text import cut, flat
from pytest_ocrepro.run_record import newest, run_info, withdraw
from pytest_ocrepro.scenario_end import OUTCOMES, Ending, ending_of
from pytest_ocrepro.schedule import Schedule, parse
from pytest_ocrepro.session import Session
from pytest_ocrepro.settings import PROFILES, read_mark, read_settings
from pytest_ocrepro.sharing import Share, build_here, for_node, outlive_lost_machines, paths_here
from pytest_ocrepro.stage import rungs, subject
from pytest_ocrepro.stage.timing import turn
from pytest_ocrepro.tally import own_rates
from pytest_ocrepro.trial_store import secrets_around_us
from pytest_ocrepro.versions.releases import cache_root

SPARED = "ocrepro.spared"
PROPERTIES = ("result", "verdict", "grade", "version", "signature")


def activate(config: pytest.Config) -> None:
    """Register the session plugin. What the user got wrong becomes pytest's own usage error (exit code 4)."""
    try:
        config.pluginmanager.register(OcreproSession(config), "ocrepro-session")
    except OcreproError as error:
        raise pytest.UsageError(f"ocrepro: {error}") from None


class OcreproSession:
    """Registered as ``ocrepro-session``; hooks are pytest's own."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._worker = getattr(config, "workerinput", None)
        self._results: list[TrialResult] = []
        self._session: Session | None = None
        self._scenarios = 0
        self._orderly_end = OrderlyEnd()
        self._spared = 0  # trials that were not needed after a look
        self._gone: list[str] = []  # machines of workers that do not come back
        self._reported: set[str] = set()
        self._finished = False
        self._own_place: Path | None = None  # of a far worker: where its bundles wait for their reports
        told = msgspec.json.decode(self._worker["ocrepro"], type=Share) if self._worker is not None else None
        redact = told.redact if told is not None else tuple(config.getini("ocrepro_redact") or ())
        self._rules = read_rules(redact, f"ocrepro_redact in {config.inipath}")
        self.share = told if told is not None else self._prepare(redact)
        if self.share.paths:
            config.args = paths_here(self.share)
        self._run_dir = self._open_run() if self.share.run_dir else None

    # -- before the run

    def _open_run(self) -> RunDir:
        if not self.share.far:
            return RunDir.read(Path(self.share.run_dir), gate=self._gate())
        self._own_place = Path(tempfile.mkdtemp(prefix="ocrepro-"))
        return RunDir.create(self._own_place, run_id=Path(self.share.run_dir).name, gate=self._gate())

    def _prepare(self, redact: tuple[str, ...]) -> Share:
        settings = read_settings(self.config)
        self._closing = Closing(settings)
        paths = choose_paths(self.config)
        reports = Path(settings.reports)
        getattr(self.config.option, "rsyncignore", []).append(settings.reports)  # no worker needs them
        self._latest_before = newest(reports)
        run = None if self.config.option.collectonly else RunDir.create(reports, gate=self._gate())
        try:
            with progress_on(sys.stderr) as progress:
                builds = subject.resolve(
                    settings.binary,
                    settings.versions,
                    progress=progress,
                    offline=settings.offline,
                    limit_bytes=settings.cache_limit_bytes,
                )
        except BaseException:
            if run is not None:
                withdraw(run, reports, self._latest_before)
            raise
        command = ("pytest", *map(str, self.config.invocation_params.args))
        share = Share(
            settings=settings,
            builds=tuple(builds),
            run_dir=str(run.path) if run else "",
            command=command,
            paths=paths,
            controller=reader_here().identify(os.getpid()),
            redact=redact,
        )
        if run is not None:
            run.write_info(run_info(run, share))
        return share

    def _gate(self) -> Redactor:
        """What run.json and results.jsonl pass: trials have gates of their own."""
        return Redactor(secrets_around_us(), {str(self.config.rootpath): "$PROJECT"}, self._rules)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Xdist: hand everything that was resolved to a worker."""
        share = for_node(self.share, node, root=self.config.rootpath)
        node.workerinput["ocrepro"] = msgspec.json.encode(share).decode()

    def pytest_sessionstart(self) -> None:
        """SIGTERM ends us in order; xdist: a machine that is gone takes its own trial with it, and nothing else."""
        if self._worker is None:
            self._orderly_end.begin()
        distributor = self.config.pluginmanager.get_plugin("dsession")
        if distributor is not None:
            outlive_lost_machines(distributor, self._gone)

    def pytest_report_header(self) -> str:
        """One line."""
        settings = self.share.settings
        builds = ", ".join(f"{build.version} ({build.source})" for build in self.share.builds)
        return (
            f"ocrepro: opencode {builds}; trials {settings.trials}; expect {settings.expect}; {settings.reports}; "
            f"ended by {rungs.in_words(reader_here())}" + ("" if has_proc() else f"; read through {seen_through()}")
        ) + (f"\nocrepro: {settings.looks.rule}" if settings.looks else "")

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Every trial of every build is an item of its own; builds in turns, so that they meet the same load."""
        trials = self.share.settings.trials
        names = labels(self.share.builds)
        params = [(build, trial) for trial in range(1, trials + 1) for build in self.share.builds]
        ids = [name if trials == 1 else f"{name}-t{trial}" for trial in range(1, trials + 1) for name in names]
        metafunc.parametrize("ocrepro", params, indirect=True, ids=ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Mark what uses the fixture, so that ``-m ocrepro`` selects it; refuse a run without any."""
        scenarios = [item for item in items if "ocrepro" in getattr(item, "fixturenames", ())]
        for item in scenarios:
            if item.get_closest_marker("ocrepro") is None:
                item.add_marker("ocrepro")
            try:
                read_mark(item)
            except UsageError as error:
                raise pytest.UsageError(f"ocrepro: {error}") from None
        self._leave_out(items)
        self._scenarios = len(scenarios)
        if not scenarios and self._worker is None and not session.testsfailed:
            where = " ".join(map(str, self.config.args))
            self._leave_nothing()
            raise pytest.UsageError(
                f"ocrepro: no scenario in {where}: no test takes the 'ocrepro' fixture; "
                "give no path to run the installed catalogue"
            )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write down how many trials are to be run, for whoever reads what a run left that did not get to its end."""
        self._plan(sum("ocrepro" in getattr(item, "fixturenames", ()) for item in session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """The same where the workers collect; a scenario has its build's name in its brackets."""
        self._plan(sum(self._is_trial(one) for one in ids))

    def _is_trial(self, node: str) -> bool:
        """Of a scenario, as far as its id tells."""
        return any(name in node.partition("[")[2] for name in labels(self.share.builds))

    def _plan(self, trials: int) -> None:
        if self._worker is not None or self._run_dir is None or not trials:
            return
        try:
            self._run_dir.write_info(msgspec.structs.replace(self._run_dir.info, planned=trials))
        except BundleError as error:
            _give_up(error)

    def _leave_out(self, items: list[pytest.Item]) -> None:
        """Scenarios of a larger profile than the chosen one; whoever names a test by its id means it."""
        if any("::" in str(argument) for argument in self.config.args):
            return
        most = PROFILES.index(self.share.settings.profile)
        larger = [item for item in items if PROFILES.index(profile_of(item)) > most]
        if larger:
            self.config.hook.pytest_deselected(items=larger)
            items[:] = [item for item in items if item not in larger]

    # -- one item

    def trial(self, request: pytest.FixtureRequest) -> Iterator[Trial]:
        """The fixture's body."""
        self._spare(request)
        measures = read_mark(request.node).timing
        try:
            with turn(cache_root()) if measures else contextlib.nullcontext(0.0) as waited_s:
                yield from self._trial(request, waited_s)
        except StageError as error:  # no turn was to be had
            pytest.fail(f"ocrepro: {error}", pytrace=False)

    def _spare(self, request: pytest.FixtureRequest) -> None:
        """Skip a trial that a look at those before it has made needless. A far worker sees its own alone: none."""
        looks, (build, number) = self.share.settings.looks, request.param
        if looks is None or number <= looks.sizes[0] or self._run_dir is None or self.share.far:
            return
        try:
            why = looks.decided(self._run_dir.results(), scenario_of_item(request.node), build.sha256)
        except BundleError as error:
            _give_up(error)
        if why:
            request.node.user_properties.append((SPARED, why))
            pytest.skip(f"ocrepro: {why}")

    def _trial(self, request: pytest.FixtureRequest, waited_s: float) -> Iterator[Trial]:
        build, number = request.param
        item = request.node
        try:
            build = build_here(self.share, build)
            info, slug = info_of(item, build, number, self.share.settings), slug_of(item, build, number)
            trial = Trial(self._running(), build, info, slug, schedule=self._schedule(item))
        except BundleError as error:
            _give_up(error)
        except OcreproError as error:
            pytest.fail(f"ocrepro: {error}", pytrace=False)
        item.stash[TRIAL] = trial
        if waited_s > WAITED_S:
            trial.note(f"waited {waited_s:.0f} s until no other trial that measures times ran on this machine")
        try:
            yield trial
        finally:
            with contextlib.suppress(OcreproError):  # told already by the call, if there was one
                _, result = trial.finish("the test ended before the trial was judged")
                item.stash.setdefault(RESULT, (result, ""))
            del item.stash[TRIAL]  # pytest keeps every item to the end, and its history would stay with it

    def _running(self) -> Session:
        if self._session is None:
            assert self._run_dir is not None  # noqa: S101  no item runs when collecting only
            controller = self.share.controller if self._worker is not None else None
            self._session = Session(
                self._run_dir,
                ledger=cache_root() / "supervisors",
                rules=self._rules,
                controller=controller,
                intrusive=self.share.settings.intrusive,
            )
        return self._session

    def _schedule(self, item: Any) -> Schedule | None:
        """The command line's, else the mark's."""
        asked = self.share.settings.schedule
        words = read_mark(item).schedule if asked is None else asked
        return None if words is None else parse(words)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the scenario, then judge; what the scenario raised is our trouble, an assertion is its claim."""
        trial = item.stash.get(TRIAL, None)
        if trial is None:
            return (yield)
        outcome, ending = None, Ending()
        try:
            outcome = yield
        except (*OUTCOMES, Exception, SystemExit) as error:  # noqa: BLE001  a broken scenario must not look like a broken opencode
            ending = ending_of(error)
        if ending.claim:
            trial.claim("the scenario's own assertion", held=False, because=ending.claim)
        try:
            judged, result = trial.finish(ending.trouble, skipped=ending.skipped)
        except BundleError as error:
            _give_up(error)
        if ending.raised is not None:
            item.stash[RESULT] = (result, "")
            raise ending.raised
        self._conclude(item, trial, judged)
        return outcome

    def _conclude(self, item: pytest.Item, trial: Trial, judged: Judgement) -> None:
        settings = self.share.settings
        version = trial.info.version
        own = own_rates(item.path.parent).get((trial.info.scenario, version))
        decision = decide(judged.result, expect=settings.expect, mark=read_mark(item), version=version, own=own)
        expected = f"{decision.outcome}: {decision.why}"
        result = trial.store_expectation(expected, known=decision.known)
        text = section(judged, decision, trial.info, str(self._evidence(result)))
        item.stash[RESULT] = (result, text)
        item.user_properties += [(f"ocrepro.{name}", str(getattr(result, name))) for name in PROPERTIES]
        item.user_properties += [("ocrepro.chain", " | ".join(result.chain)), ("ocrepro.replay", trial.info.replay)]
        _raise(decision, result, text)

    def _evidence(self, result: TrialResult) -> Path:
        return Path(self.share.run_dir) / result.bundle

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the result and the section onto the report of the call."""
        report = yield
        if RESULT in item.stash and not item.stash.get(TOLD, False) and call.when in ("call", "teardown"):
            result, text = item.stash[RESULT]
            item.stash[TOLD] = True
            if text and not report.failed:  # of one that failed it is the failure itself
                report.sections.append(("ocrepro", text))
            report.ocrepro_result = msgspec.json.encode(result).decode()  # type: ignore[attr-defined]
            if self._own_place is not None:
                report.ocrepro_bundle = self._packed(result)  # type: ignore[attr-defined]
        if call.when == "teardown" and RESULT in item.stash:
            del item.stash[RESULT]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Controller: collect and store."""
        self._reported.add(report.nodeid)
        if report.skipped and report.when == "setup" and self._run_dir is not None and self._is_trial(report.nodeid):
            self._plan((self._run_dir.info.planned or 0) - 1)  # a mark or a look skips it: it was not to be run
            self._spared += any(name == SPARED for name, _ in report.user_properties)
        if self._worker is not None or self._run_dir is None:
            return
        encoded = report.__dict__.pop("ocrepro_result", None)  # pytest keeps every report to the end
        if encoded is None:
            return
        result = msgspec.json.decode(encoded, type=TrialResult)
        parcel = report.__dict__.pop("ocrepro_bundle", b"")
        if parcel:
            try:
                result = take_in(self._run_dir, parcel, result)
            except BundleError as error:
                self._closing.lost.append(f"evidence of {result.scenario} did not arrive: {error}")
        self._results.append(result)
        try:
            self._run_dir.append_result(result)
        except BundleError as error:
            _give_up(error)

    def _packed(self, result: TrialResult) -> bytes:
        """The bundle for its way to the controller; here it is then needed no longer."""
        assert self._run_dir is not None  # noqa: S101
        bundle = self._run_dir.bundle_of(result)
        try:
            return pack(bundle)
        finally:
            shutil.rmtree(bundle, ignore_errors=True)

    # -- the outer guard

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:
        """pytest-timeout: for scenarios, end our own waits first and never the process with its report."""
        if "ocrepro" not in getattr(item, "fixturenames", ()):
            return None
        item.stash[GUARD] = Guard(item, float(settings.timeout))
        return True

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_cancel_timer(self, item: pytest.Item) -> bool | None:
        """pytest-timeout: the item is over."""
        guard = item.stash.get(GUARD, None)
        if guard is None:
            return None
        guard.cancel()
        return True

    # -- the end

    @contextlib.contextmanager
    def kept_from_interrupts(self, session: pytest.Session) -> Iterator[None]:
        """Around all that is done behind the last trial, by other plugins too: one Ctrl-C takes no page.

        Nor does a plugin which fails there (pytest itself may, where several of its processes remove old temporary
        directories): the page is written all the same and named, and the failure goes on.
        """
        with PutOff(lambda words: os.write(2, f"\n{words}\n".encode())) as put_off:
            try:
                yield
            except Exception as error:
                self._finish_after(error, session)
                raise
        if put_off.came and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = pytest.ExitCode.INTERRUPTED

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End what still runs, then write the page from the bundles; behind the end of an interrupted trial."""
        self._finished = True
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._own_place is not None:
            shutil.rmtree(self._own_place, ignore_errors=True)
        if self._worker is not None or self._run_dir is None:
            return
        if not self._results and not self._run_dir.bundles():
            self._leave_nothing()
            if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:  # under xdist the workers collect, unheard
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
                self._closing.no_page = "no scenario was collected"
            return
        never_run = session.testscollected - len(self._reported) if self._gone else 0
        if not self._closing.all_is_well(self._results, never_run) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._closing.write(self._run_dir, self.share, self.config.pluginmanager.get_plugin("terminalreporter"))
        if self._closing.no_page and session.exitstatus == pytest.ExitCode.OK:  # it was asked for, and is not there
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table, then one line with the page."""
        if self._worker is not None:
            return
        if self._run_dir is None:
            why = self._closing.no_page
            terminalreporter.write_line(f"ocrepro: {why}; give the path of one" if why else "")
            return
        terminalreporter.section("ocrepro")
        if self._spared:
            terminalreporter.write_line(f"{plural(self._spared, 'trial')} not needed after a look")
        for line in self._closing.lines(self._run_dir, self._results, self._gone):
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Whatever happened: nothing outlives us."""
        self._orderly_end.end()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _finish_after(self, error: Exception, session: pytest.Session) -> None:
        if self._finished:
            return
        self.pytest_sessionfinish(session)
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if self._worker is None and reporter is not None:
            reporter.write_line("")
            reporter.write_line(_line(f"ocrepro: another plugin failed at the end: {type(error).__name__}: {error}"))
            self.pytest_terminal_summary(reporter)

    def _leave_nothing(self) -> None:
        if self._run_dir is not None:
            withdraw(self._run_dir, Path(self.share.settings.reports), self._latest_before)
            self._run_dir = None


RESULT: pytest.StashKey[tuple[TrialResult, str]] = pytest.StashKey()
TOLD: pytest.StashKey[bool] = pytest.StashKey()


def _raise(decision: Decision, result: TrialResult, text: str) -> None:
    if decision.outcome is Outcome.XFAILED:
        raise pytest.xfail.Exception(_line(f"{decision.why}: {result.verdict} ({result.grade}); {result.reason}"))
    if decision.outcome is Outcome.SKIPPED:
        raise pytest.skip.Exception(_line(f"{decision.why}: {result.reason}"))
    if decision.outcome is Outcome.FAILED:
        raise pytest.fail.Exception(text, pytrace=False)


def _line(text: str) -> str:
    return inert(cut(flat(text), 400))


def _give_up(error: BundleError) -> NoReturn:
    """Evidence cannot be stored (a full disk): no further trial could keep its own."""
    pytest.exit(f"ocrepro: {error}", returncode=pytest.ExitCode.USAGE_ERROR)

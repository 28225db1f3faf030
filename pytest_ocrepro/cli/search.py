"""Commands that search by many trials: ``bisect``, ``matrix``, ``explore``, ``bisect-run``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from pytest_ocrepro.cli.group import complain, main
from pytest_ocrepro.progress import progress_on

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
INTERRUPTED = 130  # as a shell says of Ctrl-C


def seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """``90``, ``90s``, ``30m``, ``1h30m`` in seconds; a usage error for anything else."""
    if value is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise click.BadParameter(f"{value!r} is no duration: write 90s, 30m or 1h30m", context, parameter)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def size(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``2GB`` in bytes. Raises UsageError."""
    from pytest_ocrepro.stage.cache import parse_size

    return None if value is None else parse_size(value, parameter.opts[0])


@main.command()
@click.argument("scenario", required=False)
@click.option("--good", metavar="V", help="A build expected clean: the older end, with --find-fix the newer one.")
@click.option("--bad", metavar="V", help="A build expected to fail: the newer end, with --find-fix the older one.")
@click.option("--find-fix", is_flag=True, help="Ask for the first clean build instead of the first failing one.")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True)
@click.option("--journal", type=click.Path(path_type=Path), help="Default: ocrepro-bisect-SCENARIO.jsonl, here.")
@click.option("--resume", is_flag=True, help="Go on where the journal stands.")
@click.option(
    "--replay", type=click.Path(path_type=Path), metavar="JOURNAL", help="Show what a journal says; run nothing."
)
@click.option("--skip", multiple=True, metavar="V", help="Never try this build (repeatable); it stays a hypothesis.")
@click.option("--max-trials", "most_trials", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--time-budget",
    "budget_s",
    callback=seconds,
    metavar="TIME",
    help="Stop after so long (90s, 30m, 1h30m); --resume goes on.",
)
@click.option("--signature", default="", help="Only this failure counts: the beginning of a sign, or 'any'.")
@click.option(
    "--assume-monotone", "monotone", is_flag=True, help="One change only: fewer trials, no warning if not so."
)
@click.option(
    "--certain-oracle", "oracle_is_certain", is_flag=True, help="A healthy build can never show this failure."
)
@click.option(
    "--control", default="", metavar="SCENARIO", help="One that must never fail: every sixth trial is of it."
)
@click.option("--commits", is_flag=True, help="Of the checkout that we stand in: --good and --bad are its commits.")
@click.option("--build", default="", metavar="COMMAND", help="With --commits: what builds one, at its root.")
@click.option("--binary", default="", metavar="PATH", help="With --commits: what that makes, below its root.")
@click.option("--across-lines", is_flag=True, help="Allow ends of different major versions.")
@click.option(
    "-n", "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Trials at the same time."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the first trial.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports/bisect"), show_default=True)
@click.option(
    "--cache-limit", "cache_limit_bytes", callback=size, metavar="SIZE", help="Builds used longest ago go (2GB)."
)
@click.option("--prefetch", is_flag=True, help="Download likely next builds during trials, which loads the machine.")
@click.option("--offline", is_flag=True, help="Only builds that are in the cache.")
@click.pass_context
def bisect(context: click.Context, /, scenario: str | None, replay: Path | None, **asked: Any) -> None:
    """Find the build that brought (or fixed) a failure which shows in some trials only.

    Exit code 0: an answer that fresh trials confirm; 1: the evidence does not reach one; 3: too many trials were
    inconclusive; 2: our error or a usage error.
    """
    from pytest_ocrepro.versions import campaign
    from pytest_ocrepro.versions.rendering import as_markdown

    if replay is not None:
        told, line = campaign.replay_journal(replay)
        click.echo(as_markdown(told))
        complain(line)
        context.exit(told.exit_code)
    if scenario is None:
        raise click.UsageError("Missing argument 'SCENARIO'.", context)
    wanted = campaign.Wanted(scenario=scenario, **asked)
    try:
        with progress_on(sys.stderr) as progress:
            done = campaign.bisect(wanted, tell=lambda line: click.echo(line, err=True), progress=progress)
    except KeyboardInterrupt:
        complain("interrupted; the journal is kept, go on with --resume")
        context.exit(INTERRUPTED)
    click.echo(as_markdown(done.certificate, picture=False))
    click.echo(f"certificate: {done.markdown}\npicture: {done.page.resolve().as_uri()}")
    context.exit(done.certificate.exit_code)


@main.command()
@click.argument("scenarios", nargs=-1)
@click.option("--versions", default="", metavar="RANGE", help="1.2.1..1.18.34, 1.15.0.., or a list 1.14.48,latest.")
@click.option("--trials", type=click.IntRange(1, 1000), default=5, show_default=True, help="Of each cell.")
@click.option(
    "--time-budget", "budget_s", callback=seconds, metavar="TIME", help="Stop after so long; --resume goes on."
)
@click.option("--journal", type=click.Path(path_type=Path), default=Path("ocrepro-matrix.jsonl"), show_default=True)
@click.option("--resume", is_flag=True, help="Go on where the journal stands.")
@click.option(
    "--write-known", is_flag=True, help="Write k/n into the scenarios' marks (cells with 5 trials or more)."
)
@click.option(
    "-n", "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Trials at the same time."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the first trial.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports/matrix"), show_default=True)
@click.option(
    "--cache-limit", "cache_limit_bytes", callback=size, metavar="SIZE", help="Builds used longest ago go (2GB)."
)
@click.option(
    "--from",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A run of pytest whose trials count too; again for more.",
)
@click.option("--offline", is_flag=True, help="Only builds that are in the cache.")
@click.pass_context
def matrix(context: click.Context, /, **asked: Any) -> None:
    """Fill scenarios x versions, what tells most first (no SCENARIO: the whole catalogue).

    Exit code 0: every cell has its trials; 1: ended before that.
    """
    from pytest_ocrepro.versions import survey

    try:
        with progress_on(sys.stderr) as progress:
            done = survey.survey(
                survey.Asked(**asked), tell=lambda line: click.echo(line, err=True), progress=progress
            )
    except KeyboardInterrupt:
        complain("interrupted; the journal is kept, go on with --resume")
        context.exit(INTERRUPTED)
    click.echo(done.markdown.read_text(encoding="utf-8"))
    for note in done.notes:
        complain(note)
    for file in done.changed:
        click.echo(f"written: {file}")
    click.echo(f"table: {done.markdown}\ndata: {done.json}\npage: {done.page.resolve().as_uri()}")
    context.exit(1 if done.why else 0)


@main.command()
@click.argument("scenario")
@click.option("--version", metavar="V", help="The build (default: the pinned one).")
@click.option(
    "--time-budget",
    "budget_s",
    callback=seconds,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="Search so long.",
)
@click.option("--max-trials", "most_trials", type=click.IntRange(1), default=400, show_default=True)
@click.option("--max-found", "most_found", type=click.IntRange(1), default=5, show_default=True, help="Then stop.")
@click.option("--replays", type=click.IntRange(1, 1000), default=5, show_default=True, help="Of each failure found.")
@click.option("--seed", type=click.IntRange(0), default=0, help="The same seed draws the same schedules.")
@click.option("--by-chance", is_flag=True, help="Try no extremes (all at once, a registry that never answers) first.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports/explore"), show_default=True)
@click.option("--offline", is_flag=True, help="Only builds that are in the cache.")
@click.pass_context
def explore(context: click.Context, /, version: str | None, **asked: Any) -> None:
    """Search for a schedule under which a scenario fails: overlaps, suspensions, kills, a late registry.

    Without a move the scenario's programs start one after the other. What fails is made small, replayed, and printed
    as a scenario of its own. Exit code 0: something was found and shows again; 1: nothing was.
    """
    from pytest_ocrepro.stage.subject import PINNED
    from pytest_ocrepro.versions import expedition
    from pytest_ocrepro.versions.exploration import Wanted

    wanted = Wanted(version=version or PINNED, **asked)
    try:
        with progress_on(sys.stderr) as progress:
            told, path = expedition.explore(wanted, tell=complain, progress=progress)
    except KeyboardInterrupt:
        complain("interrupted; what was tried lies below the reports directory")
        context.exit(INTERRUPTED)
    click.echo(expedition.as_markdown(told))
    click.echo(f"written: {path}")
    context.exit(0 if any(one.rate and one.rate.k for one in told.found) else 1)


class _UsageForGit(click.UsageError):
    """It must not look like an answer to git, for which 2 means bad."""

    exit_code = 129


class _Aborting(click.Command):
    def make_context(self, *words: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*words, **more)
        except click.UsageError as error:
            raise _UsageForGit(error.format_message(), error.ctx) from None


@main.command("bisect-run", cls=_Aborting)
@click.argument("scenario")
@click.option("--binary", type=click.Path(path_type=Path), required=True, help="What the checkout builds.")
@click.option("--build", default="", metavar="COMMAND", help="Builds it; a failure of it is a skip (125).")
@click.option("--rate", type=click.FloatRange(0.05, 0.99), default=0.3, help="It shows at least this often (0.3).")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, help="Of the whole bisection (0.95).")
@click.option("--steps", type=click.IntRange(1, 60), default=10, help="Steps that share the error (10).")
@click.option(
    "--max-trials", "most_trials", type=click.IntRange(1), default=60, help="Of one commit (60), then skip."
)
@click.option("--find-fix", is_flag=True, help="For terms old: broken, new: fixed.")
@click.option("--signature", default="", help="Only this failure counts: the beginning of a sign.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports/bisect-run"), show_default=True)
@click.pass_context
def bisect_run(context: click.Context, /, scenario: str, reports: Path, **asked: Any) -> None:
    """One step of `git bisect run ocrepro bisect-run SCENARIO --binary PATH`.

    Exit code 0: absent; 1: present; 125: it cannot be built, or stays undecided; from 128 on: our error, git stops.
    """
    from pytest_ocrepro.versions import commits

    try:
        told = commits.at_checkout(commits.Step(scenario=scenario, **asked), reports, tell=complain)
    except KeyboardInterrupt:
        told = commits.Answer(code=INTERRUPTED, line="abort: interrupted")
    except Exception as error:  # noqa: BLE001  a traceback would end with 1, which git takes for bad
        told = commits.Answer(code=commits.ABORT, line=f"abort: {type(error).__name__}: {error}")
    complain(told.line)
    context.exit(told.code)

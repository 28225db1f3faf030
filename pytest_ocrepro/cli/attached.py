"""The command on processes that run already: ``dump``."""

from __future__ import annotations

import math
import signal
import sys
from pathlib import Path

import click

from pytest_ocrepro.cli.group import complain, main


def _some_seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value) or value <= 0:
        raise click.BadParameter(f"{value:g} is no length of time; give seconds above 0")
    return value


@main.command()
@click.option(
    "--pid", "pids", type=click.IntRange(min=1), multiple=True, help="This process; may be given several times."
)
@click.option("--all", "everything", is_flag=True, help="Every opencode process that can be seen.")
@click.option("--watch", is_flag=True, help="Wait for a hang; new processes are taken in.")
@click.option(
    "--timeout",
    "timeout_s",
    default=3600.0,
    show_default=True,
    callback=_some_seconds,
    help="Seconds that --watch waits at most.",
)
@click.option(
    "--deadline",
    "deadline_s",
    default=120.0,
    show_default=True,
    callback=_some_seconds,
    help="Seconds without a visible step after which silence alone is called a hang.",
)
@click.option(
    "--copy-limit", "copy_limit_mb", default=512, show_default=True, help="Databases above so many MB are not copied."
)
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default="reports",
    envvar="OCREPRO_REPORTS",
    help="Where the run is written.",
)
@click.option("--intrusive", is_flag=True, help="Last, also use strace and gdb for some seconds: it may disturb.")
@click.option(
    "--core", is_flag=True, help="Also keep a core: gigabytes, with all secrets; the process stands meanwhile."
)
@click.pass_context
def dump(
    context: click.Context,
    pids: tuple[int, ...],
    *,
    everything: bool,
    watch: bool,
    timeout_s: float,
    deadline_s: float,
    copy_limit_mb: int,
    reports: Path,
    intrusive: bool,
    core: bool,
) -> None:
    """Say what opencode processes that run already wait for; exit 0 nothing hangs, 1 something does, 2 not known.

    Nothing is changed and nobody is signalled: all is read off /proc, and the database is only copied. What is stored
    is masked as in a trial, by the rules of ``ocrepro_redact`` in the pytest configuration of this folder, too.
    """
    from pytest_ocrepro.diagnosis import UNKNOWN, Wish, diagnose
    from pytest_ocrepro.publish.rules import rules_near

    if not pids and not everything:
        raise click.UsageError("give --pid PID, or --all")
    wish = Wish(
        pids=pids,
        everything=everything,
        watch=watch,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
        copy_limit_bytes=copy_limit_mb << 20,
        reports=reports,
        intrusive=intrusive,
        core=core,
        rules=rules_near(Path.cwd()),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(UNKNOWN))  # so that copies are removed
    try:
        context.exit(diagnose(wish, tell=click.echo, complain=complain))
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C; nothing was written")
        context.exit(UNKNOWN)

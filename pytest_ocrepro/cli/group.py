"""The command ``ocrepro`` itself; the modules beside this one hang their commands onto it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from pytest_ocrepro.errors import OcreproError, UsageError
from pytest_ocrepro.platforms import everything_refused

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_ocrepro.publish.bundle import RunDir
    from pytest_ocrepro.publish.counting import Entry


class _Group(click.Group):
    """Our own errors are one line on stderr and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OcreproError as error:
            complain(error)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-ocrepro", prog_name="ocrepro")
def main() -> None:
    """Reproduce, observe and judge the concurrency bugs of the opencode coding agent."""
    if why := everything_refused(sys.platform):
        raise UsageError(why)


def complain(what: object) -> None:
    """One line on stderr."""
    click.echo(f"ocrepro: {' '.join(str(what).split())}", err=True)


def run_at(path: Path) -> RunDir:
    """The run there, or its newest. Raises BundleError where its results.jsonl is no file, or a vast one."""
    from pytest_ocrepro.publish import storage
    from pytest_ocrepro.publish.bundle import RunDir

    run = RunDir.read(path)
    file = storage.open_regular(run.path / "results.jsonl", storage.MAX_FILE_BYTES)
    if file is not None:
        file.close()
    return run


def entries_told(run: RunDir) -> tuple[Entry, ...]:
    """The trials of a run as they are counted; what this reading leaves out has its line on stderr."""
    from pytest_ocrepro.publish.intake import entries_of, read_contents

    contents = read_contents(run.path, evidence=False)
    for line in sorted(contents.left_out.difference(run.info.left_out)):
        complain(f"left out: {line}")
    return entries_of(contents)

"""The command ``ocrepro`` itself; the modules beside this one hang their commands onto it."""

from __future__ import annotations

import sys
from typing import Any

import click

from pytest_ocrepro.errors import OcreproError, UsageError
from pytest_ocrepro.platforms import everything_refused


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

"""Commands that make something else of stored runs: ``merge``."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_ocrepro.cli.group import complain, main

_PATH = click.Path(path_type=Path)


@main.command()
@click.argument("runs", type=_PATH, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o", "--output", type=_PATH, required=True, help="The run directory to make, or only its page: a .html."
)
def merge(runs: tuple[Path, ...], output: Path) -> None:
    """Make one run, with its page, of several (RUN: a run directory, or a folder of them)."""
    from pytest_ocrepro.publish import merge as room

    merged = room.merge(runs, output)
    for line in merged.warnings:
        complain(line)
    click.echo(f"{merged.runs} runs, {merged.trials} trials: {merged.page.resolve().as_uri()}")

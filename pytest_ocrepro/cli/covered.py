"""The command about the scenarios themselves: ``catalogue``."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_ocrepro.cli.group import main


@main.command()
@click.argument("runs", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="[RUN]...")
@click.option("--markdown", is_flag=True, help="Print the table as the README has it.")
@click.option("--write", is_flag=True, help="Add these runs to the table beside the scenarios.")
def catalogue(runs: tuple[Path, ...], *, markdown: bool, write: bool) -> None:
    """Print every scenario with its reports, its results in our trials, and the reports that none covers.

    RUN: run directories whose results are added; one that the table has already is left out.
    """
    from pytest_ocrepro import coverage as room
    from pytest_ocrepro import tally
    from pytest_ocrepro.catalogue import catalogue as folder

    results = list(tally.results_of(runs))
    found = room.coverage(results=results)
    if write:
        tally.store(results, folder())
    click.echo(room.as_markdown(found) if markdown else room.as_text(found), nl=not markdown)

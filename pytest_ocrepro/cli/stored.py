"""Commands on what is stored: ``report``, ``judge``."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_ocrepro.cli.group import complain, main
from pytest_ocrepro.errors import OcreproError


@main.command()
@click.argument("directory", type=click.Path(path_type=Path), default="reports", required=False)
def report(directory: Path) -> None:
    """Rebuild the page of a run from its bundles (DIRECTORY: a run, or the reports directory: its newest)."""
    from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
    from pytest_ocrepro.publish.page import write_report

    run = RunDir.read(directory)
    page = write_report(run)
    for bundle in run.bundles():
        try:
            TrialBundle.read(bundle)
        except OcreproError as error:
            complain(f"left out: {error}")
    click.echo(page.resolve().as_uri())


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the judgement as it is stored, one a line.")
@click.pass_context
def judge(context: click.Context, bundle: Path, *, as_json: bool) -> None:
    """Judge a stored trial (or all of a run) again from its history; exit 1 where it was judged another way."""
    from pytest_ocrepro.publish import prose, rejudgement

    code = 0
    for path in rejudgement.bundles_at(bundle):
        try:
            found = rejudgement.rejudge(path)
        except OcreproError as error:
            complain(error)
            code = 2
            continue
        click.echo(found.encoded if as_json else prose.judgement_in_words(found.bundle.info, found.judgement))
        click.echo(found.comparison, err=as_json or found.bundle.torn)
        code = max(code, found.exit_code)
    context.exit(code)

"""Commands that make something else of stored runs: ``merge``, ``diff``, ``trace``, ``github``, ``ctrf``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pytest_ocrepro.cli.group import complain, entries_told, main, run_at

_PATH = click.Path(path_type=Path)


@main.command()
@click.argument("runs", type=_PATH, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o", "--output", type=_PATH, required=True, help="The run directory to make, or only its page: a .html."
)
def merge(runs: tuple[Path, ...], output: Path) -> None:
    """Make one run, with its page, of several (RUN: a run directory, or a folder of them)."""
    from pytest_ocrepro.publish import merge as room
    from pytest_ocrepro.publish.counting import plural

    merged = room.merge(runs, output)
    for line in merged.warnings:
        complain(line)
    click.echo(f"{plural(merged.runs, 'run')}, {plural(merged.trials, 'trial')}: {merged.page.resolve().as_uri()}")


@main.command()
@click.argument("first", type=_PATH)
@click.argument("second", type=_PATH)
@click.option("--across", is_flag=True, help="Compare each scenario on FIRST's versions with it on SECOND's others.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--json", "form", flag_value="json", help="Print the record.")
@click.option("--news", "form", flag_value="news", help="Print the issue text of what is new in SECOND, a run.")
@click.pass_context
def diff(context: click.Context, first: Path, second: Path, *, across: bool, form: str | None) -> None:
    """Compare two run sets (each a run, or a folder of them); exit 1 where something got worse beyond chance."""
    if form == "news":
        context.exit(_tell_news(first, second))
    from pytest_ocrepro.publish import comparison_words as room
    from pytest_ocrepro.publish.comparison import compare_paths

    found = compare_paths([first], [second], across=across)
    shown = {"json": room.in_json, "markdown": room.in_markdown}.get(form or "", room.in_text)(found)
    for line in (*found.first.left_out, *found.second.left_out):
        complain(f"left out: {line}")
    click.echo(shown)
    context.exit(int(bool(found.worse)))


def _tell_news(first: Path, second: Path) -> int:
    from pytest_ocrepro.publish.bundle import RunDir
    from pytest_ocrepro.publish.news import issue_texts, news

    found = news(first, second)
    for text in issue_texts(found, RunDir.read(second)):
        click.echo(text)
    return int(found.worse)


@main.command()
@click.argument("trial", type=_PATH)
@click.option("-o", "--output", type=_PATH, default="trace.json.gz", show_default=True, help="The file to write.")
def trace(trial: Path, output: Path) -> None:
    """Write a trial as a trace that ui.perfetto.dev opens (TRIAL: its directory, or a run: the clearest of it)."""
    from pytest_ocrepro.publish import storage
    from pytest_ocrepro.publish import trace as room
    from pytest_ocrepro.publish.bundle import TrialBundle
    from pytest_ocrepro.publish.intake import clearest_at

    bundle = TrialBundle.read(clearest_at(trial))
    storage.deliver(output, room.encode(bundle))
    click.echo(f"{bundle.path.name}: {output.resolve().as_uri()}")


@main.command()
@click.argument("run", type=_PATH)
def github(run: Path) -> None:
    """Print annotations and add a summary to GITHUB_STEP_SUMMARY; where that is not set print the summary."""
    from pytest_ocrepro.publish import github as room
    from pytest_ocrepro.publish.handout import hand_out

    found = run_at(run)
    entries = entries_told(found)
    if not os.environ.get("GITHUB_STEP_SUMMARY"):
        click.echo(room.summary(found.info, entries), nl=False)
        return
    for line in hand_out(found, github="on", ctrf="", environment=os.environ):
        click.echo(line)


@main.command()
@click.argument("run", type=_PATH)
@click.option("-o", "--output", type=_PATH, default="ctrf.json", show_default=True, help="The file to write.")
def ctrf(run: Path, output: Path) -> None:
    """Write a run in the Common Test Report Format (ctrf.io), for dashboards."""
    from pytest_ocrepro.publish import ctrf as room
    from pytest_ocrepro.publish import storage

    found = run_at(run)
    storage.deliver(output, room.encode(found.info, entries_told(found)))
    click.echo(output.resolve().as_uri())

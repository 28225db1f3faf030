"""Commands on what is stored: ``report``, ``show``, ``judge``, ``issue``, ``repro``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_ocrepro.cli.group import complain, main, run_at
from pytest_ocrepro.errors import OcreproError, UsageError

if TYPE_CHECKING:
    from pytest_ocrepro.publish.bundle import RunDir
    from pytest_ocrepro.publish.cases import Case
    from pytest_ocrepro.publish.document import Block


@main.command()
@click.argument("directory", type=click.Path(path_type=Path), default="reports", required=False)
@click.option(
    "--against", type=click.Path(path_type=Path, exists=True), help="Another run set, to compare with on the page."
)
def report(directory: Path, *, against: Path | None) -> None:
    """Rebuild the page of a run from its bundles (DIRECTORY: a run, or the reports directory: its newest)."""
    from pytest_ocrepro.publish.page import write_report

    run = run_at(directory)
    page = write_report(run, _compared(run, against) if against else ())
    _tell_left_out(run)
    click.echo(page.resolve().as_uri())


def _tell_left_out(run: RunDir) -> None:
    """What a page that was just made does without, a line each; the page lists it too."""
    from pytest_ocrepro.publish.bundle import TrialBundle

    for line in run.passed_over():
        complain(f"left out: {line}")
    for bundle in run.bundles():
        try:
            found = TrialBundle.read(bundle)
        except OcreproError as error:
            complain(f"left out: {error}")
            continue
        for problem in found.problems:
            complain(f"incomplete: {bundle.name}: {problem}")
    try:
        run.results()
    except OcreproError as error:
        complain(f"left out: {error}")


def _compared(run: RunDir, against: Path) -> tuple[Block, ...]:
    from pytest_ocrepro.publish.comparison import compare_paths
    from pytest_ocrepro.publish.comparison_section import comparison_blocks

    return comparison_blocks(compare_paths([against], [run.path]))


@main.command()
@click.argument("directory", type=click.Path(path_type=Path), default="reports", required=False)
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
def show(directory: Path, *, opened: bool) -> None:
    """Print the URL of a run's page (DIRECTORY: a run, or a folder of runs: its newest), made if it is missing."""
    from pytest_ocrepro.publish.page import write_report

    run = run_at(directory)
    page = run.path / "report.html"
    if not page.is_file():
        page = write_report(run)
        _tell_left_out(run)
    url = page.resolve().as_uri()
    click.echo(url)
    if opened:
        click.launch(url)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path), default="reports", required=False)
@click.option("--scenario", metavar="NAME", help="Which one, where several reproduced (default: the clearest).")
@click.option(
    "--max-characters",
    type=click.IntRange(2_000, 60_000),
    default=12_000,
    show_default=True,
    metavar="N",
    help="Of the whole text; what has no room is left out, and the text says so.",
)
def issue(directory: Path, scenario: str | None, max_characters: int) -> None:
    """Print the text for a bug tracker (DIRECTORY: a run, a dump, or a folder of them: its newest).

    What has no room goes in this order: log lines before the last 10, the timeline, the machine, the calls to the
    server, the logs, the evidence of each link, the steps in words, and last the script.
    """
    from pytest_ocrepro.publish import cases as room
    from pytest_ocrepro.publish.bundle import TrialBundle
    from pytest_ocrepro.publish.handout import entries_in
    from pytest_ocrepro.publish.issue import issue_text, page_note, told

    run = run_at(directory)
    entries = entries_in(run)
    found = room.cases(entries)
    alone = [entry.path for entry in entries if entry.path is not None]
    if not found and scenario is None and len(alone) == 1:  # a dump, or one trial: what it says is told all the same
        trial = TrialBundle.read(alone[0])
        if trial.judgement is None:
            raise UsageError(f"{alone[0].name} ended before it was judged: there is nothing to report; run it again")
        click.echo(issue_text(run.info, trial, page=page_note(run), most=max_characters), nl=False)
        return
    case = room.choose(found, scenario)
    click.echo(told(run, case, page=page_note(run), most=max_characters).text, nl=False)
    if scenario is None and len(found) > 1:
        complain(f"this is {case.name}; {len(found) - 1} more reproduced, --scenario names one")


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


@main.command()
@click.argument("directory", type=click.Path(path_type=Path), default="reports", required=False)
@click.option("--scenario", metavar="NAME", help="Which one, where several reproduced (default: the clearest).")
@click.option("--verify", type=click.IntRange(1, 100), metavar="N", help="Run the script N times on the same build.")
@click.option(
    "--binary", type=click.Path(path_type=Path), metavar="PATH", help="That build, where it is not published."
)
@click.pass_context
def repro(
    context: click.Context, directory: Path, scenario: str | None, verify: int | None, binary: Path | None
) -> None:
    """Print a script that shows the bug without this project (DIRECTORY: a run, or a folder of runs: its newest).

    With --verify exit 1 unless every run of it showed the bug.
    """
    from pytest_ocrepro.publish import cases as room
    from pytest_ocrepro.publish.handout import entries_in

    run = run_at(directory)
    case = room.choose(room.cases(entries_in(run)), scenario)
    script = room.script_of(case, room.trial_of(case))
    if not script.text:
        raise UsageError(f"{case.name} has no repro script: {script.why_not}")
    click.echo(script.text, nl=False)
    if verify:
        context.exit(_verified(run, case, verify, binary))


def _verified(run: RunDir, case: Case, times: int, binary: Path | None) -> int:
    from pytest_ocrepro.proof import prove
    from pytest_ocrepro.stage import subject
    from pytest_ocrepro.versions.releases import cache_root

    build = subject.from_binary(binary) if binary else subject.fetch(case.version)
    proof = prove(run, case, build, times=times, ledger=cache_root() / "supervisors", tell=complain)
    if proof is None:
        return 2
    complain(f"{case.name}: {proof.in_words}")
    return int(proof.k != times)

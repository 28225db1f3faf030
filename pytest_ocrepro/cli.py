"""The command ``ocrepro``: a door without logic.

Exit codes: 0 done, 1 the answer is no (each command says when), 2 our error or a usage error in one line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.progress import progress_on

_MEGABYTE = 1_000_000


class _Group(click.Group):
    """Our own errors are one line on stderr and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OcreproError as error:
            click.echo(f"ocrepro: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-ocrepro", prog_name="ocrepro")
def main() -> None:
    """Reproduce, observe and judge the concurrency bugs of the opencode coding agent."""


@main.command()
@click.argument("versions", nargs=-1, required=True, metavar="VERSION...")
@click.option("--offline", is_flag=True, help="Only look into the cache.")
def fetch(versions: tuple[str, ...], *, offline: bool) -> None:
    """Fetch published builds (1.18.34, latest) into the cache; print each version and its path."""
    from pytest_ocrepro.stage import subject

    for version in versions:
        with progress_on(sys.stderr) as progress:
            build = subject.fetch(version, progress=progress, offline=offline)
        click.echo(f"{build.version} {build.path}")


@main.command()
@click.option("--offline", is_flag=True, help="Do not ask npm; show the list of last time.")
def versions(*, offline: bool) -> None:
    """List the versions that are published for this machine, oldest first."""
    from pytest_ocrepro.stage import subject
    from pytest_ocrepro.versions import releases

    package = releases.platform_package(releases.this_machine())
    published = releases.obtain(package, offline=offline)
    here = {record.version: record for record in subject.stored() if record.package == package}
    if published.note:
        click.echo(f"ocrepro: {published.note}", err=True)
    width = max(map(len, (*published.versions, *here)), default=0)
    for version in releases.in_order((*published.versions, *here)):
        size = f"{here[version].size_bytes // _MEGABYTE} MB" if version in here else ""
        marks = ["latest"] * (version == published.latest) + ["pinned"] * (version == subject.PINNED)
        cells = (version.ljust(width), "cached" if version in here else "", size, " ".join(marks))
        click.echo("{}  {:6}  {:>7}  {}".format(*cells).rstrip())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print records instead of text.")
@click.option("--offline", is_flag=True, help="Do not ask the npm registry.")
def doctor(*, as_json: bool, offline: bool) -> None:
    """Say what this machine can observe, and what is lost where it cannot."""
    from pytest_ocrepro import doctor as room

    checks = room.examine(offline=offline)
    click.echo(room.as_json(checks) if as_json else room.render(checks))


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
            click.echo(f"ocrepro: left out: {error}", err=True)
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
            click.echo(f"ocrepro: {error}", err=True)
            code = 2
            continue
        click.echo(found.encoded if as_json else prose.judgement_in_words(found.bundle.info, found.judgement))
        click.echo(found.comparison, err=as_json or found.bundle.torn)
        code = max(code, found.exit_code)
    context.exit(code)


if __name__ == "__main__":
    main()

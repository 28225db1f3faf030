"""Commands about builds and this machine: ``fetch``, ``versions``, ``doctor``."""

from __future__ import annotations

import sys

import click

from pytest_ocrepro.cli.group import complain, main
from pytest_ocrepro.progress import progress_on

_MEGABYTE = 1_000_000


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
        complain(published.note)
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

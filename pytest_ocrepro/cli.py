"""The command ``ocrepro``: a door without logic. Exit codes: 0 done, 2 our error or a usage error in one line."""

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
            TrialBundle.peek(bundle)
        except OcreproError as error:
            click.echo(f"ocrepro: left out: {error}", err=True)
    click.echo(page.resolve().as_uri())


@main.command()
@click.argument("scenario", required=False)
@click.option("--good", metavar="V", help="A version without the failure (default: the oldest from 1.0.0 on).")
@click.option("--bad", metavar="V", help="A version with it (default: the latest).")
@click.option("--find-fix", is_flag=True, help="Search the version that removed it: --bad is the older end then.")
@click.option("--confidence", default=0.95, type=click.FloatRange(0.5, 0.999), show_default=True)
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="Where trials are written; resumed.")
@click.option("--budget", "minutes", type=click.FloatRange(min=0), metavar="MINUTES", help="Stop after so long.")
@click.option("--skip", multiple=True, metavar="V", help="Do not try this version; it stays a hypothesis.")
@click.option("--signature", default="", help="Only failures with this signature count (its beginning is enough).")
@click.option("--assume-monotone", "monotone", is_flag=True, help="The failure came once and stayed: fewer trials.")
@click.option("--certain-oracle", "certain", is_flag=True, help="The scenario cannot fail on a healthy build.")
@click.option("-n", "--workers", default=1, type=click.IntRange(1, 16), show_default=True, help="Trials at a time.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports/bisect"), show_default=True)
@click.option("--offline", is_flag=True, help="Cached builds only; the others stay hypotheses.")
@click.option("--replay", is_flag=True, help="Run nothing: say what the journal says.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON instead of text.")
def bisect(scenario: str | None, minutes: float | None, *, replay: bool, as_json: bool, **asked: Any) -> None:
    """Find the release that brought a failure, or removed it, although it shows only sometimes.

    Exit codes: 0 found and confirmed; 1 the evidence does not reach a name; 2 an error; 3 too much was inconclusive.
    """
    import msgspec

    from pytest_ocrepro.versions import campaign, certificate

    told = ""
    if replay:
        if asked["journal"] is None:
            raise click.UsageError("--replay needs --journal FILE")
        found, told = campaign.replay_journal(asked["journal"])
    else:
        if scenario is None:
            raise click.UsageError("name a SCENARIO: FILE::TEST, or a test of the catalogue")
        budget_s = None if minutes is None else minutes * 60
        asked["oracle_is_certain"] = asked.pop("certain")
        wanted = campaign.Wanted(scenario=scenario, budget_s=budget_s, **asked)
        with progress_on(sys.stderr) as progress:
            found = campaign.bisect(wanted, tell=lambda line: click.echo(line, err=True), progress=progress)
    click.echo(msgspec.json.encode(found).decode() if as_json else certificate.as_text(found))
    if told:
        click.echo(told, err=True)
    sys.exit(found.exit_code)


# Further commands (show, merge, matrix, bisect) go here: each imports its own room and holds no logic.


if __name__ == "__main__":
    main()

"""The command ``ocrepro``: a door without logic. Exit codes: 0 done, 2 our error or a usage error in one line."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from pytest_ocrepro.errors import OcreproError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click._termui_impl import ProgressBar

    from pytest_ocrepro.stage.subject import Progress

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


# Further commands (report, show, matrix, bisect) go here: each imports its own room and holds no logic.


@contextlib.contextmanager
def progress_on(stream: TextIO) -> Iterator[Progress]:
    """A callback for :func:`subject.fetch`: a bar where the stream is a terminal, one line a step elsewhere."""
    shown = _Bar(stream) if stream.isatty() else _Lines(stream)
    try:
        yield shown.tell
    finally:
        shown.close()


class _Lines:
    """One line for each thing that is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""

    def tell(self, done_bytes: int, total_bytes: int, what: str) -> None:  # noqa: ARG002 the shape of a callback
        if what != self._what:
            self._what = what
            click.echo(what, file=self._stream)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """A bar where the total is known, a growing number where it is not (a download by npm)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""
        self._bar: ProgressBar[int] | None = None

    def tell(self, done_bytes: int, total_bytes: int, what: str) -> None:
        if what != self._what:
            self.close()
            self._what = what
            if total_bytes:
                self._bar = click.progressbar(length=total_bytes, label=what, file=self._stream)
                self._bar.render_progress()
        if self._bar is not None:
            self._bar.update(done_bytes - self._bar.pos)
        else:
            size = f": {done_bytes // _MEGABYTE} MB" if done_bytes else ""
            click.echo(f"\r{what}{size}", file=self._stream, nl=False)

    def close(self) -> None:
        """End the line, and show the cursor again."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
        elif self._what:
            click.echo(file=self._stream)
        self._what = ""

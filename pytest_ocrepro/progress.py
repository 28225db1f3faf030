"""A download, shown on a terminal or in a log."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click._termui_impl import ProgressBar

    from pytest_ocrepro.stage.tarball import Progress

_MEGABYTE = 1_000_000


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

"""A command line as it can be pasted on another machine: without the places where this one has its files."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

PLACE = "PATH"
PLACES = ("reports", "ctrf", "baseline")  # options that only say where files lie


def replayed(line: str) -> str:
    """The line with each absolute path as ``PATH/name``; one that no shell reads stays as it is."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line
    moved = [_word(word) for word in words]
    return line if moved == words else shlex.join(moved)


def command(words: Iterable[str]) -> str:
    """The words as one line that a shell reads back, each absolute path as ``PATH/name``."""
    return shlex.join(map(_word, words))


def _word(word: str) -> str:
    """``--name=/a/b`` and ``/a/b.py::test`` keep what is around the path."""
    option, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
    path, colons, test = value.partition("::")
    if not path.startswith("/"):
        return word
    return f"{option}{sign}{PLACE}/{path.rstrip('/').rpartition('/')[2]}{colons}{test}"

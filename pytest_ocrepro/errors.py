"""What can go wrong with us or with the machine; never with the subject.

A failure of the subject is a verdict, not an exception. Every message is one line and says what happened,
to what, and what to do next.
"""

from __future__ import annotations

import errno

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there, or set TMPDIR"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "make it, or set TMPDIR to a directory that is there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "set TMPDIR to a directory that you may write to"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
}


class OcreproError(Exception):
    """Base of everything that this package raises on purpose."""


class UsageError(OcreproError):
    """What the user typed cannot be meant: an option, a mark, a path."""


class BuildError(OcreproError):
    """An opencode build cannot be had or cannot be run here."""


class UnfitBuildError(BuildError):
    """A build that can never run on this machine: another try would not help."""


class StageError(OcreproError):
    """The closed world cannot be built or kept: supervisor, sandbox, provider, registry."""


class NotReachedError(OcreproError):
    """A scenario did not get to its point; the trial is inconclusive, never a pass."""


class LackingError(NotReachedError):
    """The build lacks what the scenario is about; the trial is skipped, never a pass."""


class BundleError(OcreproError):
    """A stored evidence bundle cannot be read or written."""


def advice(error: OSError) -> str:
    """What to do about a file of the temporary directory that could not be made; by errno(3)."""
    return _ADVICE.get(error.errno or 0, "look at that place, or set TMPDIR to another")

"""Commits of a checkout as the builds of a bisection: each built once in a worktree of its own, its program kept.

Only the first-parent line counts: on it every commit is a state that the project was in. Nothing is checked out in
the user's own tree.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path

from pytest_ocrepro.errors import BuildError, UnfitBuildError, UsageError
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions.batches import Fetch, Here
from pytest_ocrepro.versions.programs import Finished, run_bounded
from pytest_ocrepro.versions.releases import cache_root, make_private

NAME_LENGTH = 12  # of a commit: unique in any repository of this size
GIT_S, BUILD_S = 60.0, 3600.0
KEPT = "commits"  # below the cache
TAIL = 160  # characters of a failed build's last line


class Checkout:
    """A git checkout whose ``build`` command makes ``binary`` (relative to its root). Raises UsageError.

    Callable as a source of builds: raises UnfitBuildError for a commit that does not build or start.
    """

    def __init__(self, here: Path, *, build: str, binary: str, kept: Path | None = None) -> None:
        top = _git(here, "rev-parse", "--show-toplevel")
        if top.code != 0:
            raise UsageError(f"{here} is in no git checkout: go into one of opencode, or leave --commits out")
        if not binary or Path(binary).is_absolute() or ".." in Path(binary).parts:
            raise UsageError(f"--binary {binary!r} must be what a build makes, as a path below the checkout")
        self.root = Path(top.out.strip())
        self._build = build
        self._binary = binary
        how = hashlib.sha256(f"{build}\n{binary}".encode()).hexdigest()[:8]
        self._kept = (kept or cache_root() / KEPT) / how

    def line(self, oldest: str | None, newest: str | None) -> tuple[str, ...]:
        """Commits from one to the other, both included, oldest first. Raises UsageError: unknown, reversed, aside."""
        if not oldest:
            raise UsageError("--commits needs the older end: --good REV, with --find-fix --bad REV")
        first, last = self._commit(oldest), self._commit(newest or "HEAD")
        told = _git(self.root, "rev-list", "--first-parent", "--reverse", f"{first}..{last}")
        if told.code != 0:
            raise UsageError(f"git cannot list {oldest}..{newest or 'HEAD'}: {_last(told)}")
        found = [commit[:NAME_LENGTH] for commit in told.out.split()]
        if not self._leads(first, last):
            back = "reversed" if self._leads(last, first) else "of no single line of first parents"
            raise UsageError(
                f"the range is {back}: {oldest} is not before {newest or 'HEAD'}; give the older end first"
            )
        return (first[:NAME_LENGTH], *found)

    def here(self) -> frozenset[str]:
        """Commits that are built already."""
        return frozenset(path.parent.name for path in self._kept.glob("*/opencode"))

    def source(self, *, keep: int) -> Fetch:  # noqa: ARG002  what is built stays
        """For a search."""
        return self

    def binary_of(self, commit: str) -> Path:
        """Where the program of a commit is kept."""
        return self._kept / commit / "opencode"

    def __call__(self, commit: str) -> Here:
        """Build it, unless that was done before."""
        place = self.binary_of(commit)
        if not place.is_file():
            self._make(commit, place)
        try:
            return Here(version=commit, sha256=subject.from_binary(place).sha256)
        except BuildError as error:
            raise UnfitBuildError(str(error)) from error

    def _make(self, commit: str, place: Path) -> None:
        make_private(place.parent)
        with tempfile.TemporaryDirectory(prefix="ocrepro-commit-") as folder:
            tree = Path(folder) / "tree"
            made = _git(self.root, "worktree", "add", "--detach", str(tree), commit)
            if made.code != 0:
                raise BuildError(f"git makes no worktree of {commit}: {_last(made)}; mend the checkout")
            try:
                self._run_build(tree, place)
            finally:
                _git(self.root, "worktree", "remove", "--force", str(tree))

    def _run_build(self, tree: Path, place: Path) -> None:
        log = place.with_name("build.log")
        log.unlink(missing_ok=True)  # of the try before, or what would keep its writer waiting
        begun = time.monotonic()
        command = ["sh", "-c", 'exec >"$1" 2>&1; eval "$2"', "sh", str(log), self._build or ":"]
        done = run_bounded(command, timeout_s=BUILD_S, cwd=tree)
        if done.cut or done.code != 0:
            lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            what = done.cut or f"ended with {done.code} after {time.monotonic() - begun:.0f} s"
            raise UnfitBuildError(f"its build {what}: {lines[-1][:TAIL] if lines else 'it said nothing'} ({log})")
        if not (tree / self._binary).is_file():
            raise UnfitBuildError(f"its build made no {self._binary}")
        unfinished = place.with_name("opencode.part")
        shutil.copy2(tree / self._binary, unfinished)
        unfinished.replace(place)

    def _commit(self, name: str) -> str:
        told = _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if told.code != 0:
            raise UsageError(f"{name} names no commit in {self.root}: give a tag, a branch or an id")
        return told.out.strip()

    def _leads(self, first: str, last: str) -> bool:
        """The one is the other, or before it on its line of first parents."""
        told = _git(self.root, "rev-list", "--first-parent", last)
        return first in told.out.split()


def _git(where: Path, *words: str) -> Finished:
    try:
        return run_bounded(["git", *words], timeout_s=GIT_S, cwd=where)
    except OSError as error:
        raise UsageError(f"git cannot be run ({error.strerror}): --commits needs it on PATH") from error


def _last(done: Finished) -> str:
    lines = (done.err.strip() or done.out.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.code}"

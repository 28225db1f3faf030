"""Builds for a long search: fetched when a batch needs them, in use while it runs, then free to go from the cache."""

from __future__ import annotations

from pytest_ocrepro.stage import subject
from pytest_ocrepro.stage.subject import Build
from pytest_ocrepro.stage.tarball import Progress
from pytest_ocrepro.versions.batches import Here


class Supply:
    """Callable; the last ``keep`` builds that were asked for stay in use (at least as many as a batch has)."""

    def __init__(
        self,
        *,
        keep: int,
        progress: Progress | None = None,
        offline: bool = False,
        limit_bytes: int | None = None,
    ) -> None:
        self._keep = max(1, keep)
        self._progress = progress
        self._offline = offline
        self._limit_bytes = limit_bytes
        self._in_use: dict[str, Build] = {}  # the one that was asked for longest ago first

    def __call__(self, version: str) -> Here:
        """Raises UnfitBuildError where it can never be had, BuildError where it cannot be had for now."""
        build = self._in_use.pop(version, None)
        if build is None:
            while len(self._in_use) >= self._keep:
                subject.release(self._in_use.pop(next(iter(self._in_use))))
            build = subject.fetch(
                version, progress=self._progress, offline=self._offline, limit_bytes=self._limit_bytes
            )
        self._in_use[version] = build
        return Here(version=build.version, sha256=build.sha256)


def here() -> frozenset[str]:
    """Versions that are in the cache."""
    return frozenset(one.version for one in subject.stored())


def fetch_ahead(version: str) -> None:
    """Into the cache, without a word and without keeping it in use."""
    subject.release(subject.fetch(version))

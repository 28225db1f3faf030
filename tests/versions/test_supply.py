from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_ocrepro.errors import BuildError, UnfitBuildError
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions.supply import Supply, fetch_ahead, here

Serve = Callable[..., Path]
VERSIONS = ("1.0.0", "1.0.1", "1.0.2", "1.0.3")


def test_the_last_ones_stay_in_use_and_the_others_may_go(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    supply = Supply(keep=2, limit_bytes=0)
    for version in VERSIONS:
        assert supply(version).version == version
    assert here() == {"1.0.2", "1.0.3"}
    supply("1.0.2")
    supply("1.0.0")
    assert here() == {"1.0.0", "1.0.2"}, "1.0.3 was asked for longer ago than 1.0.2"


def test_the_same_build_is_not_asked_for_twice(serve: Serve) -> None:
    registry = serve(VERSIONS, "9.9.9")
    supply = Supply(keep=1)
    assert supply("1.0.0") == supply("1.0.0")
    assert (registry / "asked").read_text().count("pack ") == 1


def test_what_can_never_be_had_is_told_from_what_cannot_be_had_now(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    with pytest.raises(UnfitBuildError, match=r"1\.0\.9 is not published"):
        Supply(keep=1)("1.0.9")
    with pytest.raises(BuildError, match="is not in the cache and we are offline") as caught:
        Supply(keep=1, offline=True)("1.0.1")
    assert not isinstance(caught.value, UnfitBuildError)


def test_what_is_fetched_ahead_is_not_kept_in_use(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    fetch_ahead("1.0.1")
    assert here() == {"1.0.1"}
    subject.release(subject.fetch("1.0.2", limit_bytes=0))
    assert here() == {"1.0.2"}

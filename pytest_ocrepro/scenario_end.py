"""How a scenario's own code ended: what is its claim about opencode, and what is trouble of ours or of its own."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_ocrepro.catalogue import catalogue
from pytest_ocrepro.errors import LackingError, OcreproError

OUTCOMES = (pytest.skip.Exception, pytest.xfail.Exception, pytest.fail.Exception)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a scenario's own code ended: as it should, by a broken claim of its own, or by trouble of ours or its."""

    claim: str = ""
    trouble: str = ""
    skipped: str = ""
    raised: BaseException | None = None  # to be raised again once the trial is put away


def ending_of(error: BaseException) -> Ending:
    """What it raised, sorted: a skip, a claim, trouble."""
    if isinstance(error, pytest.skip.Exception):
        return Ending(skipped=str(error) or "it does not say why", raised=error)
    if isinstance(error, LackingError):
        return Ending(skipped=str(error), raised=pytest.skip.Exception(str(error)))
    if isinstance(error, pytest.xfail.Exception):
        return Ending(trouble=f"the scenario ended itself: {error}", raised=error)
    if isinstance(error, AssertionError | pytest.fail.Exception):
        return _failed(error)
    if isinstance(error, OcreproError):
        return Ending(trouble=str(error))
    return Ending(trouble=f"the scenario raised {type(error).__name__}: {error}")


def _failed(error: BaseException) -> Ending:
    """An assertion of the scenario is its claim; one of our own code is our trouble."""
    said = str(error).split("\n", 1)[0] or "assert"
    frames = traceback.extract_tb(error.__traceback__)
    ours = (
        bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent) and not _is_scenario(frames)
    )
    return Ending(trouble=f"an assertion of the harness failed: {said}") if ours else Ending(claim=said)


def _is_scenario(frames: traceback.StackSummary) -> bool:
    return Path(frames[-1].filename).is_relative_to(catalogue())

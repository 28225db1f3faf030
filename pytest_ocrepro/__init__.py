"""pytest-ocrepro: reproduce, observe and judge the concurrency bugs of opencode.

Public names; each is loaded when it is first used, so that an installed plugin costs nothing until it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_ocrepro.errors import NotReachedError as NotReachedError
    from pytest_ocrepro.errors import OcreproError as OcreproError
    from pytest_ocrepro.harness import Trial as Trial
    from pytest_ocrepro.judge.judgement import Grade as Grade
    from pytest_ocrepro.judge.judgement import Judgement as Judgement
    from pytest_ocrepro.judge.judgement import Result as Result
    from pytest_ocrepro.judge.judgement import Verdict as Verdict
    from pytest_ocrepro.stage.process import OpenPipe as OpenPipe
    from pytest_ocrepro.stage.process import Process as Process
    from pytest_ocrepro.stage.server import Server as Server
    from pytest_ocrepro.stage.server import prompt_body as prompt_body
    from pytest_ocrepro.stage.terminal import Terminal as Terminal
    from pytest_ocrepro.stage.turns import bash as bash
    from pytest_ocrepro.stage.turns import broken_off as broken_off
    from pytest_ocrepro.stage.turns import costing as costing
    from pytest_ocrepro.stage.turns import error as error
    from pytest_ocrepro.stage.turns import finishing as finishing
    from pytest_ocrepro.stage.turns import for_ever as for_ever
    from pytest_ocrepro.stage.turns import held as held
    from pytest_ocrepro.stage.turns import late as late
    from pytest_ocrepro.stage.turns import never_ending as never_ending
    from pytest_ocrepro.stage.turns import opened as opened
    from pytest_ocrepro.stage.turns import paced as paced
    from pytest_ocrepro.stage.turns import question as question
    from pytest_ocrepro.stage.turns import stall_after as stall_after
    from pytest_ocrepro.stage.turns import text as text
    from pytest_ocrepro.stage.turns import together as together
    from pytest_ocrepro.stage.turns import tool as tool
    from pytest_ocrepro.stage.turns import with_comments as with_comments

__version__ = "0.1.0"

_HOMES = {
    "pytest_ocrepro.errors": ("NotReachedError", "OcreproError"),
    "pytest_ocrepro.harness": ("Trial",),
    "pytest_ocrepro.judge.judgement": ("Grade", "Judgement", "Result", "Verdict"),
    "pytest_ocrepro.stage.process": ("OpenPipe", "Process"),
    "pytest_ocrepro.stage.server": ("Server", "prompt_body"),
    "pytest_ocrepro.stage.terminal": ("Terminal",),
    "pytest_ocrepro.stage.turns": (
        "bash", "broken_off", "costing", "error", "finishing", "for_ever", "held", "late", "never_ending", "opened",
        "paced", "question", "stall_after", "text", "together", "tool", "with_comments",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(["__version__", *_HOME_OF])  # noqa: PLE0605  computed, so that it cannot disagree with the table


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pytest_ocrepro' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)

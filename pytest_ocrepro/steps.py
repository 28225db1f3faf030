"""What a scenario does, written into the history, so that a script can do the same without this project.

What is seen of the subject is recorded where it is seen; here are the scenario's own moves that leave no other trace:
files and configuration, the model's turns, the bodies of its HTTP calls, and what it waited for between two moves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_ocrepro.events import SandboxFurnished, ScriptedTurn, StagedFile, StepWaited, SweptOffset, TurnsScripted
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.faults import AtLockDirectory, AtMilestone, AtRequest, Trigger
from pytest_ocrepro.stage.provider import Provider
from pytest_ocrepro.stage.sandbox import Sandbox
from pytest_ocrepro.stage.server import Server
from pytest_ocrepro.stage.turns import Turn

MOST_FILES, MOST_CHARACTERS = 20, 16_000
OURS = ("README.md", ".git")  # what every sandbox's project has
KINDS = {AtLockDirectory: "lock-directory", AtMilestone: "milestone", AtRequest: "request"}


class RecordedProvider(Provider):
    """A provider whose script is in the history."""

    def script(self, *turns: Turn, model: str = "m1", when: str = "") -> None:
        """Append turns to the script of a model, or of every conversation whose last prompt holds ``when``."""
        told = tuple(_scripted(turn) for turn in turns)
        self._history.append(TurnsScripted(at_ns=now_ns(), model=model, when=when, turns=told))
        super().script(*turns, model=model, when=when)

    def wait_for_request(self, count: int = 1, *, timeout_s: float = 30.0) -> None:
        """Block until ``count`` requests that are no title were made. Raises NotReachedError."""
        begun_ns = now_ns()
        super().wait_for_request(count, timeout_s=timeout_s)
        self._history.append(waited("request", begun_ns, what=f"request {count} to the model", count=count))


class RecordedServer(Server):
    """A server whose waits for a question are in the history."""

    def wait_for_question(self, session: str, timeout_s: float = 30.0) -> str:
        """The id of the question that is pending in this session. Raises NotReachedError."""
        begun_ns = now_ns()
        found = super().wait_for_question(session, timeout_s)
        self._history.append(waited("question", begun_ns, what=session, role=self.role, found=found))
        return found


class Furniture:
    """Notes what lies on the stage when the first process starts, and each later change of the configuration."""

    def __init__(self, sandbox: Sandbox, history: History) -> None:
        self._sandbox = sandbox
        self._history = history
        self._config = "{}"
        self._noted: str | None = None

    def configured(self, changes: Mapping[str, object]) -> None:
        """These top-level keys were set."""
        self._config = json.dumps(changes, default=str)

    def note(self) -> None:
        """A process is about to start."""
        if self._noted == self._config:
            return
        files, left_out = self._files() if self._noted is None else ((), 0)
        self._noted = self._config
        self._history.append(SandboxFurnished(at_ns=now_ns(), config=self._config, files=files, left_out=left_out))

    def _files(self) -> tuple[tuple[StagedFile, ...], int]:
        found = list(_texts(self._sandbox.project.root))
        kept = [one for one in found if one is not None][:MOST_FILES]
        return tuple(kept), len(found) - len(kept)


def waited(
    kind: str,
    begun_ns: int,
    *,
    what: str = "",
    role: str = "",
    count: int = 0,
    found: str = "",
    offset: SweptOffset | None = None,
) -> StepWaited:
    """A wait that has just ended; ``found``: the id of what had come."""
    now = now_ns()
    seconds = (now - begun_ns) / 1e9
    return StepWaited(
        at_ns=now, kind=kind, what=what, role=role, count=count, seconds=seconds, id=found, offset=offset
    )


def step_waited(trigger: Trigger, begun_ns: int) -> StepWaited:
    """The wait for a trigger that has just come."""
    kind = KINDS.get(type(trigger), "trigger")
    return waited(kind, begun_ns, what=trigger.describe(), count=getattr(trigger, "_count", 0))


def _scripted(turn: Turn) -> ScriptedTurn:
    def arguments(given: dict[str, Any]) -> str:
        return json.dumps(given)

    return ScriptedTurn(
        name=turn.name,
        words="".join(turn.words),
        calls=tuple((name, arguments(given)) for name, given in turn.calls),
        status=turn.status,
        stall_after=turn.stall_after,
        never_ends=turn.never_ends,
        barrier=turn.barrier.name if turn.barrier else "",
        repeats=turn.repeats,
        late_s=turn.late_s,
        pace_s=turn.pace_s,
        beyond=turn.beyond_a_script,
    )


def _texts(root: Path) -> Iterator[StagedFile | None]:
    """The project's files; None for one that is no short text."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in OURS or path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8") if path.stat().st_size <= MOST_CHARACTERS else None
        except (OSError, UnicodeError):
            text = None
        yield None if text is None else StagedFile(path=str(relative), text=text)

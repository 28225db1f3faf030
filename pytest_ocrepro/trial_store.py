"""Where a trial's evidence goes: through the gate, into its bundle. What failed on the way is kept for its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo, TrialResult
from pytest_ocrepro.publish.credentials import joined, secret_values
from pytest_ocrepro.publish.redaction import Masked, Redactor, Rule


def secrets_around_us() -> dict[str, str]:
    """Values of the user's environment that must not be stored, whatever prints them."""
    return secret_values(os.environ)


class TrialStore:
    """The bundle of one trial and the gate before it. Threads may write at the same time. Raises BundleError."""

    def __init__(self, run_dir: RunDir, info: TrialInfo, slug: str, rules: Sequence[Rule]) -> None:
        self._redactor = Redactor(secrets_around_us(), {}, rules)
        self._box_gate = Redactor({}, {}, names={})
        self._bundle = run_dir.open_trial(slug, info, gate=self._redactor)
        self._failure: BundleError | None = None

    @property
    def path(self) -> Path:
        """The bundle."""
        return self._bundle.path

    @property
    def relative(self) -> str:
        """The bundle, as results.jsonl names it."""
        return self._bundle.relative

    def hide(self, sandbox: Path) -> None:
        """From now on this place is called $SANDBOX."""
        self._box_gate = Redactor({}, {str(sandbox): "$SANDBOX", **_interpreter()}, names={})

    def learn(self, secrets: Mapping[str, str]) -> bool:
        """Mask these values too; whether any is new, and what was stored must pass again."""
        return self._redactor.learn(dict(secrets))

    def gate(self, text: str) -> str:
        """A text as it may be stored."""
        return self._redactor(self._box_gate(text))

    def sink(self, line: bytes) -> None:
        """Add an event. Raises nothing; see :meth:`check`."""
        self._write(lambda: self._bundle.sink(line))

    def rewrite(self, lines: Sequence[bytes]) -> None:
        """Replace all events. Raises nothing; see :meth:`check`."""
        self._write(lambda: self._bundle.rewrite(lines))

    def finish(self, judgement: Judgement, result: TrialResult) -> None:
        """Store what was said of the trial, and what was masked."""
        self._bundle.finish(judgement, result, masked=self._receipt())

    def close(self) -> None:
        """No event comes any more."""
        self._bundle.close()

    def check(self) -> None:
        """Raise the BundleError of the last event that could not be stored."""
        if self._failure is not None:
            raise self._failure

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BundleError as failure:  # may come in any thread
            self._failure = failure

    def _receipt(self) -> tuple[Masked, ...]:
        """Both gates': the first sees a token before the second. The sandbox's own place is nobody's secret."""
        boxed = (one for one in self._box_gate.receipt() if one.kind != "place")
        return joined(boxed, self._redactor.receipt())


def _interpreter() -> dict[str, str]:
    """A virtual environment's place says nothing to a reader; the system's (/usr) must stay as it is."""
    return {sys.prefix: "$PYTHON"} if sys.prefix != sys.base_prefix else {}

"""Judge a stored bundle again: the judge is pure, so today's judgement of it is the stored one, to the byte."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pytest_ocrepro import __version__
from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.judge.verdict import judge
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import RunDir, StoredTrial, TrialBundle
from pytest_ocrepro.publish.records import RunInfo
from pytest_ocrepro.publish.redaction import Redactor


class Rejudged(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle and what this version says of it.

    ``encoded``: the judgement as it would be stored. ``differs`` names the fields in which the stored one is another
    (``its bytes``: the same words, written another way). ``written_by``: the plugin's version, "" where not told.
    """

    bundle: StoredTrial
    judgement: Judgement
    encoded: bytes
    differs: tuple[str, ...] = ()
    written_by: str = ""

    @property
    def comparison(self) -> str:
        """One line: whether the stored judgement is the same."""
        name, writer = self.bundle.path.name, f"pytest-ocrepro {self.written_by or '(version not told)'}"
        if self.bundle.torn:
            return f"{name}: torn, judged as far as it goes: {'; '.join(self.bundle.problems)}"
        if not self.differs:
            return f"{name}: the same to the byte as stored by {writer}"
        return f"{name}: differs from what {writer} stored, in {', '.join(self.differs)} (this is {__version__})"

    @property
    def exit_code(self) -> int:
        """0 the same, 1 different, 2 nothing whole to compare with."""
        return 2 if self.bundle.torn else int(bool(self.differs))


def bundles_at(path: Path) -> tuple[Path, ...]:
    """The trial directory itself, or all of a run's. Raises UsageError where there is neither."""
    if (path / "trial.json").is_file() or (path / "history.jsonl").is_file():
        return (path,)
    try:
        found = RunDir.read(path).bundles()
    except UsageError:
        raise UsageError(f"there is no bundle in {path}; give a directory that holds a trial.json or a run") from None
    if not found:
        raise UsageError(f"there is no trial in {path}; the run ended before its first one")
    return found


def rejudge(path: Path) -> Rejudged:
    """One bundle, judged from its history. A torn one is judged as far as it goes. Raises BundleError."""
    bundle = TrialBundle.read(path)
    if not len(bundle.history):
        raise BundleError(f"{path.name}/history.jsonl holds no event; there is nothing to judge")
    # The places and names of the machine that wrote it were taken out one event at a time; what is left for the
    # gate are shapes that only show where the judge has joined two texts.
    judgement = storage.gated(judge(bundle.history), Redactor({}, {}, names={}))
    encoded = msgspec.json.encode(judgement)
    stored = storage.read_bytes(path / "judgement.json")
    return Rejudged(
        bundle=bundle,
        judgement=judgement,
        encoded=encoded,
        differs=() if stored is None else _differing(stored, encoded),
        written_by=_written_by(path),
    )


def _differing(stored: bytes, encoded: bytes) -> tuple[str, ...]:
    if stored == encoded:
        return ()
    old, new = (msgspec.json.decode(content, type=dict[str, object]) for content in (stored, encoded))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return tuple(names) or ("its bytes",)


def _written_by(path: Path) -> str:
    """A bundle lies two levels beneath its run; copied out of it, nobody knows."""
    info = storage.read_optional(path.resolve().parent.parent / "run.json", RunInfo)
    return info.plugin_version if info else ""

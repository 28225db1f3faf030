"""What run directories of other machines have to offer: read with distrust, and refused part by part.

A part is a file of a run or of a bundle, or a line of results.jsonl. What this version cannot read, what is reached
through a link, is too large or names something outside its run is left out, with one line that says so; all else
counts. Nothing here writes.

A trial is known by its name: its directory's name and a digest of its run's id; in a merged run the directory bears
that name already. So the same trial has the same name however often it was merged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.history import decode_event
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import BUNDLE_FILES
from pytest_ocrepro.publish.counting import Entry, clarity, place, shows, unjudged
from pytest_ocrepro.publish.records import SCHEMA, Origin, Proof, Receipt, RunInfo, TrialInfo, TrialResult
from pytest_ocrepro.publish.redaction import Redactor
from pytest_ocrepro.publish.run_folders import SAFE_NAME, is_run

DEPTH = 5  # artifact stores put a run into folders of their own
PROOFS = "issues"  # the folder of a run that has them
MOST_PROOFS = 1_000
MAX_TOLD = 10  # lines about one file; the rest is counted

_S = TypeVar("_S", bound=msgspec.Struct)


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a trial's bundle. ``files`` are those that can be taken over, ``digest`` is of what they say.

    ``seen``: the digests of all copies of this trial that were met so far, its own among them.
    """

    name: str
    path: Path
    info: TrialInfo
    result: TrialResult | None
    origin: Origin
    files: tuple[str, ...]
    history_bytes: int
    digest: str
    seen: frozenset[str]
    cut_line: int = 0  # of its history, the last, where it was cut off while it was written

    @property
    def rank(self) -> tuple[bool, bool, int, str]:
        """Of two copies of a trial the higher one is kept: judged before torn, longer before shorter."""
        return self.result is not None, "judgement.json" in self.files, self.history_bytes, self.digest


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has to offer. ``frames`` by run id; ``copies``, and ``lines`` of results.jsonl, by trial name.

    ``proofs``: what repro scripts did when they were run, by what they are of.
    """

    frames: dict[str, RunInfo]
    copies: dict[str, Copy]
    lines: dict[str, TrialResult]
    left_out: frozenset[str]
    proofs: dict[str, Proof] = {}


def runs_at(path: Path) -> tuple[Path, ...]:
    """The run itself, or all runs in a folder, at most five levels down; links inside it are not followed.

    Raises UsageError where there is none.
    """
    found = tuple(_runs_beneath(path.resolve(), DEPTH)) if path.is_dir() else ()
    if not found:
        raise UsageError(f"there is no run in {path}; give a directory that holds a run.json, or a folder of those")
    return found


def read_contents(run: Path, *, evidence: bool = True) -> Contents:
    """All that can be taken over from one run directory; never raises for what is in it.

    Without ``evidence`` histories and judgements are not opened: enough to count by, and cheap.
    """
    return _Reader(run, evidence=evidence).read()


def entries_of(contents: Contents) -> tuple[Entry, ...]:
    """The trials as they are counted, each once."""
    found = [Entry(result=line) for name, line in contents.lines.items() if name not in contents.copies]
    for name, copy in contents.copies.items():
        result = copy.result or contents.lines.get(name) or unjudged(copy.origin.run_id, copy.info, copy.path)
        found.append(Entry(result=result, info=copy.info, path=copy.path))
    return tuple(sorted(found, key=place))


def clearest_at(path: Path) -> Path:
    """The bundle itself; of a run the one that says most of what reproduced, else its first. Raises UsageError."""
    if (path / "trial.json").is_file():
        return path
    entries = [entry for run in runs_at(path)[-1:] for entry in entries_of(read_contents(run, evidence=False))]
    found = min(filter(shows, entries), key=clarity, default=next((one for one in entries if one.path), None))
    if found is None or found.path is None:
        raise UsageError(f"there is no trial with its evidence in {path}; give the directory of one")
    return found.path


def trial_name(run_id: str, bundle: str) -> str:
    """What a trial is called in every merged run."""
    digest = hashlib.sha256(f"{run_id}\n{bundle}".encode(errors="replace")).hexdigest()[:10]
    return f"{bundle[:130].rstrip('-.')}-{digest}"


class _History(msgspec.Struct, frozen=True, kw_only=True):
    digest: bytes
    size_bytes: int
    cut_line: int


class _Reader:
    """Reads one run, and keeps a list of what it could not read."""

    def __init__(self, run: Path, *, evidence: bool) -> None:
        self._run = run
        self._evidence = evidence
        self._left_out: set[str] = set()
        self._gate = Redactor({}, {})
        info = self._small(run / "run.json", RunInfo)
        self._known = info is not None
        self._info = info or RunInfo(run_id=run.name)
        self._merged = bool(self._info.parts)

    def read(self) -> Contents:
        copies = {copy.name: copy for copy in map(self._copy, self._bundles()) if copy is not None}
        lines = dict(self._lines())
        proofs = {f"{one.version} {one.script_sha256} {one.scenario}": one for one in self._proofs()}
        ids = {copy.origin.run_id for copy in copies.values()} | {line.run_id for line in lines.values()}
        guessed = tuple(RunInfo(run_id=run_id) for run_id in ids)
        frames = self._info.parts or ((self._info,) if self._known else guessed)
        return Contents(
            frames={frame.run_id: frame for frame in frames},
            copies=copies,
            lines=lines,
            left_out=frozenset({*self._left_out, *self._info.left_out}),
            proofs=proofs,
        )

    def _proofs(self) -> Iterator[Proof]:
        folder = self._run / PROOFS
        names = [] if folder.is_symlink() else sorted(name for name in _names(folder) if name.endswith(".json"))
        for name in names[:MOST_PROOFS]:
            found = self._small(folder / name, Proof)
            if found is not None:
                yield found

    def _bundles(self) -> Iterator[Path]:
        trials = self._run / "trials"
        if trials.is_symlink():
            self._leave_out("trials", "is a link; no link is followed")
            return
        try:
            with os.scandir(trials) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave_out("trials", f"cannot be read: {error.strerror}")
            return
        for entry in found:
            if not entry.is_dir(follow_symlinks=False) or not SAFE_NAME.fullmatch(entry.name):
                self._leave_out(f"trials/{entry.name}", "is no directory with a plain name")
            else:
                yield Path(entry.path)

    def _copy(self, path: Path) -> Copy | None:
        info = self._small(path / "trial.json", TrialInfo)
        if info is None:
            if not (path / "trial.json").exists():
                self._leave_out(f"trials/{path.name}", "has no trial.json, and says nothing without it")
            return None
        for other in sorted(set(_names(path)) - set(BUNDLE_FILES)):
            self._leave_out(f"trials/{path.name}/{other}", "is no file of a bundle")
        history = self._history(path / "history.jsonl") if self._evidence else None
        result = self._small(path / "result.json", TrialResult)
        judgement = self._small(path / "judgement.json", Judgement) if self._evidence else None
        receipt = self._small(path / "receipt.json", Receipt)
        found = {"history.jsonl": history, "receipt.json": receipt, "judgement.json": judgement}
        said = (info, None if result is None else msgspec.structs.replace(result, bundle=""), judgement, receipt)
        parts = [*map(msgspec.json.encode, said), *([history.digest] if history else [])]
        digest = hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]
        origin = self._small(path / "origin.json", Origin) or self._origin(path, result)
        return Copy(
            name=self._name(path.name, result),
            path=path,
            info=info,
            result=result,
            origin=msgspec.structs.replace(origin, copies=()),
            files=("trial.json", *(name for name, there in found.items() if there is not None)),
            history_bytes=history.size_bytes if history else 0,
            digest=digest,
            seen=frozenset({digest, *origin.copies}),
            cut_line=history.cut_line if history else 0,
        )

    def _name(self, bundle: str, result: TrialResult | None) -> str:
        return bundle if self._merged else trial_name(self._run_id(result), bundle)

    def _run_id(self, result: TrialResult | None) -> str:
        """The run's own word; without a run.json that of the result, for the directory may have been renamed."""
        return self._info.run_id if self._known or result is None else result.run_id

    def _origin(self, path: Path, result: TrialResult | None) -> Origin:
        return Origin(
            run_id=self._run_id(result),
            bundle=path.name,
            started=self._info.started,
            plugin_version=self._info.plugin_version,
            system=next((fact.value for fact in self._info.machine if fact.name == "system"), ""),
        )

    def _history(self, path: Path) -> _History | None:
        """Of a history that can be read to its end, or to where its writer was killed."""
        digest, size = hashlib.sha256(), 0

        def take(line: bytes) -> None:
            nonlocal size
            digest.update(line)
            size += len(line)
            decode_event(line)

        try:
            _, cut_line = storage.read_lines(path, take)
        except BundleError as error:
            self._leave_out("", str(error))
            return None
        if not path.exists():
            return None
        return _History(digest=digest.hexdigest().encode(), size_bytes=size, cut_line=cut_line)

    def _lines(self) -> Iterator[tuple[str, TrialResult]]:
        path = self._run / "results.jsonl"
        bad: list[tuple[int, str]] = []
        try:
            file = storage.open_regular(path, storage.MAX_FILE_BYTES)
            if file is None:
                return
            with file:
                for number, line in enumerate(storage.each_line(file, path), start=1):
                    found = self._line(line)
                    if isinstance(found, TrialResult):
                        yield self._name(found.bundle.removeprefix("trials/"), found), found
                    else:
                        bad.append((number, found))
        except BundleError as error:
            self._leave_out("", str(error))
        for number, why in bad[:MAX_TOLD]:
            self._leave_out(f"results.jsonl line {number}", why)
        if len(bad) > MAX_TOLD:
            self._leave_out("results.jsonl", f"{len(bad) - MAX_TOLD} more lines like these")

    def _line(self, line: bytes) -> TrialResult | str:
        """A result, or why there is none."""
        try:
            result = msgspec.json.decode(line, type=TrialResult)
            storage.check_numbers(line)
        except storage.UNDECODABLE as error:
            return f"is corrupt: {storage.short(error)}" if line.endswith(b"\n") else "was cut off"
        if result.schema > SCHEMA:
            return "was written by a newer pytest-ocrepro; update this one to read it"
        head, _, bundle = result.bundle.partition("/")
        if head != "trials" or not SAFE_NAME.fullmatch(bundle):
            return f"names a bundle that is not in its run: {result.bundle!r:.80}"
        return result

    def _small(self, path: Path, kind: type[_S]) -> _S | None:
        try:
            return storage.read_optional(path, kind)
        except BundleError as error:
            self._leave_out("", str(error))
            return None

    def _leave_out(self, part: str, why: str) -> None:
        told = f"{self._run.name}/{part} {why}" if part else f"{self._run.name}: {why}"
        self._left_out.add(self._gate(" ".join(told.split()))[:300])


def _runs_beneath(path: Path, depth: int) -> Iterator[Path]:
    if is_run(path):
        yield path
        return
    for name in sorted(_names(path)) if depth else ():
        child = path / name
        if child.is_dir() and not child.is_symlink():
            yield from _runs_beneath(child, depth - 1)


def _names(path: Path) -> Iterable[str]:
    try:
        return [child.name for child in path.iterdir()]
    except OSError:
        return ()

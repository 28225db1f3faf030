"""One run made of several: of shards, machines, operating systems and plugin versions.

A merge is a union: of frames by run id, of trials by name (intake says what that is). It is associative and
commutative, and merging what was merged changes nothing. What cannot be taken over and which copies of one trial
differed is told and kept in the records; neither ever ends a merge. Texts are taken over as they were stored: they
passed the gate where they were written.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import BUNDLE_FILES, RunDir
from pytest_ocrepro.publish.cases import store_proof
from pytest_ocrepro.publish.intake import Contents, Copy, read_contents, runs_at
from pytest_ocrepro.publish.page import render, write_report
from pytest_ocrepro.publish.records import Fact, Origin, RunInfo, TrialResult

MOST_VALUES = 4  # of one fact of the machine; beyond that they are counted

_V = TypeVar("_V")


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a merge: the page's path, and a line for all that was left out or was there in several forms."""

    page: Path
    runs: int
    trials: int
    warnings: tuple[str, ...]


def merge(inputs: Sequence[Path], out: Path) -> Merged:
    """Make a run of all runs in ``inputs``: in the directory ``out``, or only its page where that ends in ``.html``.

    Nothing is written outside ``out``, and no input is changed. Raises UsageError where there is no run to be had or
    ``out`` is taken, BundleError where it cannot be written.
    """
    runs = list(dict.fromkeys(run for path in inputs for run in runs_at(path) if not _same(run, out)))
    _check_out(out, runs)
    contents = union(*map(read_contents, runs))
    if not contents.frames:
        why = next(iter(sorted(contents.left_out)), "they hold nothing")
        raise UsageError(f"nothing of these runs can be read ({why}); give at least one whole run.json or trial")
    if out.suffix.lower() != ".html":
        late = store(contents, out)
        return _merged(contents, write_report(RunDir.read(out)), late)
    with tempfile.TemporaryDirectory(prefix="ocrepro-merge-") as scratch:
        late = store(contents, Path(scratch) / "run")
        storage.deliver(out, render(RunDir.read(Path(scratch) / "run")).encode())
    return _merged(contents, out, late)


def union(*parts: Contents) -> Contents:
    """All of them; of several copies of a trial, or forms of a frame, the one that says most."""
    copies = _strongest((part.copies for part in parts), lambda copy: copy.rank)
    origins = _strongest(({n: c.origin for n, c in part.copies.items()} for part in parts), _weight)
    seen: dict[str, set[str]] = {}
    for part in parts:
        for name, copy in part.copies.items():
            seen.setdefault(name, set()).update(copy.seen)
    return Contents(
        frames=_strongest((part.frames for part in parts), _weight),
        copies={
            name: msgspec.structs.replace(copy, seen=frozenset(seen[name]), origin=origins[name])
            for name, copy in copies.items()
        },
        lines=_strongest((part.lines for part in parts), _weight),
        left_out=frozenset().union(*(part.left_out for part in parts)),
        proofs=_strongest((part.proofs for part in parts), lambda proof: (proof.n, _weight(proof))),
    )


def frame_of(contents: Contents) -> RunInfo:
    """The frame of the merged run; it follows from the frames in it alone, in whichever order they came."""
    parts = sorted(contents.frames.values(), key=lambda part: (part.started, part.run_id))
    digest = hashlib.sha256("\n".join(sorted(contents.frames)).encode(errors="replace")).hexdigest()[:8]
    commands = {part.pytest_command for part in parts}
    return RunInfo(
        run_id=f"merged-{digest}",
        started=min((part.started for part in parts if part.started), default=""),
        plugin_version=", ".join(sorted({part.plugin_version for part in parts} - {""})),
        pytest_command=commands.pop() if len(commands) == 1 else (),
        machine=_facts(part.machine for part in parts),
        subjects=tuple(sorted({subject for part in parts for subject in part.subjects}, key=_encoded)),
        options=_facts(part.options for part in parts),
        parts=tuple(parts),
        left_out=tuple(sorted(contents.left_out)),
    )


def results_of(contents: Contents) -> tuple[TrialResult, ...]:
    """The lines of results.jsonl: of each trial its bundle's result, else the line that was kept of it."""
    lines = dict(contents.lines)
    lines |= {copy.name: copy.result for copy in contents.copies.values() if copy.result is not None}
    placed = [msgspec.structs.replace(result, bundle=f"trials/{name}") for name, result in lines.items()]
    return tuple(sorted(placed, key=lambda result: (result.scenario, result.version, result.bundle)))


def store(contents: Contents, out: Path) -> tuple[str, ...]:
    """Write the run into a new directory, without a page; returns what could no longer be read when it was copied."""
    late: list[str] = []
    try:
        (out / "trials").mkdir(parents=True)
        for copy in sorted(contents.copies.values(), key=lambda copy: copy.name):
            try:
                _write_bundle(copy, out / "trials" / copy.name)
            except BundleError as error:
                late.append(f"{copy.name}: {error}")
    except OSError as error:
        raise storage.unstored(out, error) from None
    content = b"".join(msgspec.json.encode(result) + b"\n" for result in results_of(contents))
    storage.replace(out / "results.jsonl", content)
    storage.replace(out / "run.json", msgspec.json.encode(frame_of(contents)))
    run = RunDir.read(out)
    for proof in contents.proofs.values():
        store_proof(run, proof)
    return tuple(late)


def _write_bundle(copy: Copy, target: Path) -> None:
    """The files in the order in which a running trial writes them, so that a torn merge reads like a torn trial."""
    target.mkdir()
    origin = msgspec.structs.replace(copy.origin, copies=tuple(sorted(copy.seen)))
    made: dict[str, Origin | TrialResult] = {"origin.json": origin}
    if copy.result is not None:
        made["result.json"] = msgspec.structs.replace(copy.result, bundle=f"trials/{copy.name}")
    for name in BUNDLE_FILES:
        if name in made:
            storage.replace(target / name, msgspec.json.encode(made[name]))
        elif name in copy.files:
            _take_over(copy.path / name, target / name)


def _take_over(source: Path, target: Path) -> None:
    """Byte by byte, so that it can be judged again; with the reader's limits, for it may have changed since."""
    file = storage.open_regular(source, storage.MAX_FILE_BYTES)
    if file is None:
        raise BundleError(f"{storage.where(source)} has vanished since it was read")
    with file, target.open("xb") as taken:
        for line in storage.each_line(file, source):
            taken.write(line)


def _check_out(out: Path, runs: Sequence[Path]) -> None:
    if not runs:
        raise UsageError(f"there is no run to merge but {out} itself; give the runs that it is to be made of")
    inside = next((run for run in runs if out.resolve().is_relative_to(run)), None)
    if inside is not None:
        raise UsageError(f"{out} lies in the run {inside}, and no input is changed; choose another place")
    if out.suffix.lower() == ".html":
        if out.is_dir() or not out.resolve().parent.is_dir():
            raise UsageError(f"{out} cannot be the page: give a file in a directory that exists")
        return
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UsageError(f"{out} is there already; name a directory that is to be made, or remove it first")


def _merged(contents: Contents, page: Path, late: Iterable[str]) -> Merged:
    differing = [copy for copy in contents.copies.values() if len(copy.seen) > 1]
    warnings = [f"left out: {line}" for line in (*sorted(contents.left_out), *late)]
    warnings += [
        f"{len(copy.seen)} copies of {copy.name} differ; the most complete one is kept"
        for copy in sorted(differing, key=lambda copy: copy.name)
    ]
    warnings += [
        f"the history of {copy.name} was cut off in line {copy.cut_line}; what stands before it is kept"
        for copy in sorted(contents.copies.values(), key=lambda copy: copy.name)
        if copy.cut_line
    ]
    trials = {*contents.copies, *contents.lines}
    return Merged(page=page, runs=len(contents.frames), trials=len(trials), warnings=tuple(warnings))


def _strongest(parts: Iterable[dict[str, _V]], weight: Callable[[_V], object]) -> dict[str, _V]:
    found: dict[str, list[_V]] = {}
    for part in parts:
        for key, value in part.items():
            found.setdefault(key, []).append(value)
    return {key: max(values, key=weight) for key, values in found.items()}  # type: ignore[arg-type]


def _weight(record: msgspec.Struct) -> tuple[int, bytes]:
    """A frame that is half-written is shorter than the whole one."""
    encoded = _encoded(record)
    return len(encoded), encoded


def _encoded(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def _facts(machines: Iterable[tuple[Fact, ...]]) -> tuple[Fact, ...]:
    """Each fact with all its values; machines that say nothing of it are not told apart."""
    values: dict[str, set[str]] = {}
    for machine in machines:
        for fact in machine:
            values.setdefault(fact.name, set()).add(fact.value)
    return tuple(
        Fact(name=name, value=" / ".join(sorted(found)) if len(found) <= MOST_VALUES else f"{len(found)} values")
        for name, found in sorted(values.items())
    )


def _same(run: Path, out: Path) -> bool:
    return run == out.resolve()

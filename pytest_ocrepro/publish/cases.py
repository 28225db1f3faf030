"""The scenarios of a run that reproduced, each on the newest version where it did: what is told to a maintainer.

<run>/issues/<case>.md      the issue text
<case>.sh      the repro script, where there can be one
<case>-<script>.json    what this script did when it was run (Proof); <script>: the begin of its SHA-256
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.counting import Cell, Entry, Row, clarity, matrix, scenario_of, shows
from pytest_ocrepro.publish.records import Proof, StoredTrial
from pytest_ocrepro.publish.repro import NOT_SHOWN, SHOWS, Script, repro_script
from pytest_ocrepro.publish.run_folders import slug
from pytest_ocrepro.publish.text import flat

FOLDER = "issues"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario that reproduced. ``entry``: the clearest trial of ``version``; ``row``: all its counts.

    ``controls``: the rows that show what is not the cause, of the same file. ``others``: what else reproduced on this
    version, the clearer first; it stands in where the clearest cannot be read.
    """

    row: Row
    version: str
    entry: Entry
    controls: tuple[Row, ...] = ()
    others: tuple[Entry, ...] = ()

    @property
    def scenario(self) -> str:
        """The node id without version and trial."""
        return self.row.scenario

    @property
    def cell(self) -> Cell:
        """The counts on this version."""
        return next(cell for cell in self.row.cells if cell is not None and cell.version == self.version)

    @property
    def rate(self) -> Rate:
        """How often it reproduced on this version."""
        return Rate(k=self.cell.k, n=self.cell.n)

    @property
    def name(self) -> str:
        """Of its files."""
        return _name_of(self.scenario, self.version)


def cases(entries: Sequence[Entry]) -> tuple[Case, ...]:
    """All of them, as the page orders them; a control that reproduced is one like the others."""
    rows = matrix(entries)
    found = (_case(row, rows, entries) for row in rows)
    return tuple(case for case in found if case is not None)


def choose(found: Sequence[Case], scenario: str | None) -> Case:
    """The one that ``scenario`` names (node id, test name with or without "test_", or title), else the clearest.

    Raises UsageError, which lists what there is.
    """
    if not found:
        raise UsageError("nothing reproduced in this run: there is nothing to report")
    if scenario is None:
        return min(found, key=lambda case: clarity(case.entry))
    fitting = [case for case in found if scenario in _names_of(case)]
    if len(fitting) != 1:
        known = ", ".join(_test(case) for case in found)
        raise UsageError(
            f"{flat(scenario)[:80]} names {len(fitting) or 'no'} scenario that reproduced; give one of {known}"
        )
    return fitting[0]


def trial_of(case: Case) -> StoredTrial:
    """The clearest trial that is whole; where none is, what there is of the clearest. Raises BundleError."""
    whole = (trial for trial in map(_read, (case.entry, *case.others)) if trial and trial.judgement)
    assert case.entry.path is not None  # noqa: S101  shows() has asked for it
    return next(whole, None) or TrialBundle.read(case.entry.path)


def _read(entry: Entry) -> StoredTrial | None:
    try:
        return TrialBundle.read(entry.path) if entry.path else None
    except BundleError:
        return None


def script_of(case: Case, trial: StoredTrial) -> Script:
    """Its repro script."""
    return repro_script(trial, case.rate)


def keep_proof(
    run: RunDir, case: Case, script: Script, codes: Iterable[int | None], seconds: Iterable[float]
) -> Proof:
    """Store what the runs of a script ended with (None: it had to be ended)."""
    ended = tuple(codes)
    proof = Proof(
        scenario=case.scenario,
        version=case.version,
        binary_sha256=case.entry.result.binary_sha256,
        script_sha256=digest(script),
        k=ended.count(SHOWS),
        n=ended.count(SHOWS) + ended.count(NOT_SHOWN),
        untold=len(ended) - ended.count(SHOWS) - ended.count(NOT_SHOWN),
        seconds=tuple(round(one, 1) for one in seconds),
    )
    store_proof(run, proof)
    return proof


def store_proof(run: RunDir, proof: Proof) -> None:
    """Put it beside the page; one of another script of the same case stays where it is. Raises BundleError."""
    named = _name_of(proof.scenario, proof.version)
    run.write_product(f"{FOLDER}/{named}-{_short(proof.script_sha256)}.json", msgspec.json.encode(proof))


def proof_of(run: RunDir, case: Case, script: Script) -> Proof | None:
    """What is stored of this very script; None where it was not run, or is another one now. Raises BundleError."""
    whole = digest(script)
    for name in (f"{case.name}-{_short(whole)}", case.name):  # the second: as they were called before
        stored = storage.read_optional(run.path / FOLDER / f"{name}.json", Proof)
        if stored is not None and stored.script_sha256 == whole:
            return stored
    return None


def digest(script: Script) -> str:
    """SHA-256 of its text."""
    return hashlib.sha256(script.text.encode("utf-8", "replace")).hexdigest()


def _case(row: Row, rows: Iterable[Row], entries: Iterable[Entry]) -> Case | None:
    same = [entry for entry in entries if scenario_of(entry.result) == row.scenario and shows(entry)]
    reproduced = {entry.result.version for entry in same}
    newest = next((cell.version for cell in reversed(row.cells) if cell and cell.version in reproduced), None)
    if newest is None:
        return None
    clearest, *others = sorted((entry for entry in same if entry.result.version == newest), key=clarity)
    file = row.scenario.partition("::")[0]
    controls = tuple(one for one in rows if one.control and one is not row and one.scenario.startswith(f"{file}::"))
    return Case(row=row, version=newest, entry=clearest, controls=controls, others=tuple(others))


def _name_of(scenario: str, version: str) -> str:
    return slug(scenario, version, 0).removesuffix("-t0")


def _short(sha256: str) -> str:
    """Enough to tell scripts apart; a stored text may hold anything."""
    return "".join(filter(str.isalnum, sha256))[:10] or "none"


def _test(case: Case) -> str:
    return flat(case.scenario.rpartition("::")[2])


def _names_of(case: Case) -> set[str]:
    return {case.scenario, case.row.title, case.name, _test(case), _test(case).removeprefix("test_")}

"""Repro scripts proved: run on the build that they were written for, in a sandbox, marked, bounded, and swept."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from pytest_ocrepro.errors import OcreproError, UsageError
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.cases import Case, cases, keep_proof, script_of, trial_of
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.records import Proof
from pytest_ocrepro.publish.repro import Script
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import NoInput, Process
from pytest_ocrepro.stage.sandbox import make_sandbox
from pytest_ocrepro.stage.subject import Build
from pytest_ocrepro.stage.supervisor import Supervisor

LIMIT_S, MOST_S = 150.0, 600.0  # of one run of a script: for each of its tries, and at most
NOWHERE = "http://127.0.0.1:9/"  # the discard port: a script brings what it needs
Tell = Callable[[str], object]


def prove(run: RunDir, case: Case, build: Build, *, times: int, ledger: Path, tell: Tell) -> Proof | None:
    """Run the case's script so often on this build and store what it did; None where there is no script.

    ``ledger`` as in the harness' session. Raises UsageError where the build is another one, StageError, BundleError.
    """
    if case.entry.result.binary_sha256 not in ("", build.sha256):
        what = f"{case.entry.result.binary_sha256[:12]}, and {build.path} is {build.sha256[:12]}"
        raise UsageError(f"{case.name} was seen on a build with sha256 {what}; give that build with --binary")
    script = script_of(case, trial_of(case))
    if not script.text:
        return None
    codes: list[int | None] = []
    seconds: list[float] = []
    with closing(Supervisor(ledger=ledger)) as supervisor:
        for number in range(1, times + 1):
            code, took_s = _once(script, build, supervisor, f"{supervisor.mark}.{number}")
            codes.append(code)
            seconds.append(took_s)
            tell(f"repro script of {case.name}: run {number} of {times} ended with {code} after {took_s:.0f} s")
    return keep_proof(run, case, script, codes, seconds)


def _once(script: Script, build: Build, supervisor: Supervisor, mark: str) -> tuple[int | None, float]:
    """The exit code (None: it had to be ended) and the seconds that it took."""
    begun = time.monotonic()
    sandbox = make_sandbox(binary=Path(build.path), registry_url=NOWHERE, mark=mark, marker=MARKER, git=False)
    try:
        path = sandbox.root / "repro.sh"
        path.write_text(script.text, encoding="utf-8")
        process = Process(
            "repro",
            ["bash", str(path)],
            supervisor=supervisor,
            history=History(),
            output=sandbox.output,
            stdin=NoInput(),
        )
        variables = sandbox.environment()
        process.start({**variables, "PATH": _with_python(variables["PATH"])}, str(sandbox.project.root))
        process.wait(min(MOST_S, LIMIT_S * script.tries))
        code = process.exit_code
    finally:
        supervisor.sweep(mark)
        sandbox.remove()
    return code, time.monotonic() - begun


def _with_python(path: str) -> str:
    """The script's ``python3``, where the system's directories have none."""
    if shutil.which("python3", path=path):
        return path
    found = shutil.which("python3")
    return f"{path}{os.pathsep}{Path(found).parent}" if found else path


def prove_all(run: RunDir, builds: Iterable[Build], *, times: int, ledger: Path, tell: Tell) -> Iterator[str]:
    """The script of each case that these builds can prove; yields a line for each. Errors are lines too."""
    by_hash = {build.sha256: build for build in builds}
    for case in cases(entries_in(run)):
        build = by_hash.get(case.entry.result.binary_sha256)
        if build is None:
            continue
        try:
            proof = prove(run, case, build, times=times, ledger=ledger, tell=tell)
            told = proof.in_words if proof is not None else script_of(case, trial_of(case)).why_not
        except OcreproError as error:
            told = str(error)
        yield f"repro script of {case.name}: {told}"

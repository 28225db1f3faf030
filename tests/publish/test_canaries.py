"""Secrets in every place that a run has: none gets into anything that is made of it."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import history as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.cli import main
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.publish.redaction import Redactor

if TYPE_CHECKING:
    from tests.data.publish import sample_run
else:
    _spec = importlib.util.spec_from_file_location(
        "ocrepro_sample_run", Path(__file__).parents[1] / "data" / "publish" / "sample_run.py"
    )
    sample_run = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sample_run)

CANARY = "CnRy4f1d9A7c2b0E6x"
# kind -> how it looks where it leaks; the gate knows the first by its value, the others by their shape or key
SECRETS = {
    "environment": CANARY,
    "quoted": json.dumps({"x": f'{CANARY}"\\'})[7:-4],
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "auth.json": f'{{"anthropic":{{"type":"api","key":"sk-ant-{CANARY}aaaa"}}}}',
    "bearer": f"Authorization: Bearer {CANARY}1",
    "url": f"https://user:{CANARY}@registry.example/x",
    "github": f"ghp_{CANARY}{CANARY}",
    "jwt": f"eyJ{CANARY}.eyJ{CANARY}.{CANARY}",
    "npmrc": f"//registry.npmjs.org/:_authToken=npm_{CANARY}{CANARY}",
    "env file": f"MY_API_KEY={CANARY}",
    "private key": f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
    "home": f"/home/annabel{CANARY[:0]}/notes",
}
FORBIDDEN = (CANARY, base64.b64encode(CANARY.encode()).decode()[:20], "annabel")


def words() -> str:
    return " ".join(f"{kind}: {secret} ;" for kind, secret in SECRETS.items())


def planted_events(info: TrialInfo) -> list[h.Event]:
    """The secrets in the prompt, the tool's output, file names, log lines, rows, calls and claims."""
    said = words()
    snapshot = sample_run.snapshot(1, 6.0, wakeups=1)
    tail = r.LogTail(
        path=f"/home/annabel/{CANARY}.log", pid=801, size_bytes=1, lines=(r.LogLine(text=said, message=said),)
    )
    lock = r.LockDirectory(path=f"/home/annabel/{CANARY}.lock", key=said, holder_pid=801, holder_alive=True)
    seen = msgspec.structs.replace(snapshot.snapshot, logs=(tail,), lock_directories=(lock,), missing=(said,))
    reading = r.DatabaseReading(path=said, size_bytes=1, wal_bytes=1, readable=False, error=said)
    return [
        *sample_run.overlap_events(info, 0.1),
        h.SnapshotTaken(at_ns=sample_run.ns(7), snapshot=seen),
        h.ProviderRequest(
            at_ns=sample_run.ns(7), request=1, pid=801, path=said, model="m", tools=0, title=False, last_text=said
        ),
        h.FaultInjected(at_ns=sample_run.ns(7), fault="x", detail=said, address=said),
        h.HttpCall(
            at_ns=sample_run.ns(8),
            role="s",
            method="GET",
            path=said,
            status=0,
            seconds=1,
            timeout_s=1,
            body=said,
            error=said,
        ),
        h.ProcessFound(
            at_ns=sample_run.ns(8),
            id=sample_run.identity(900),
            role="tool",
            argv=(said,),
            parent_pid=801,
            is_subject=False,
        ),
        h.MilestoneReached(at_ns=sample_run.ns(8), pid=801, role="first", milestone="ended", source="log", line=said),
        h.DatabaseRead(at_ns=sample_run.ns(9), when=said, reading=reading),
        h.Expectation(at_ns=sample_run.ns(9), claim=said, held=False, because=said),
        h.Note(at_ns=sample_run.ns(9), text=said),
        h.ProcessExited(at_ns=sample_run.ns(9), pid=900, role="tool", code=1, ours=False, output=said),
        h.Trouble(at_ns=sample_run.ns(9), what=said),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run as the harness writes it: everything through its gate, nothing else."""
    gate = Redactor({"MY_SECRET": CANARY}, {"/home/annabel": "~"}, names={"annabel": "$USER"})
    run = RunDir.create(tmp_path_factory.mktemp("canaries"), gate=gate)
    said = words()
    frame = sample_run.run_info(run.path.name)
    run.write_info(msgspec.structs.replace(frame, pytest_command=("pytest", said), plugin_version="0.1.0"))
    info, _, judgement = sample_run.overlap("1.15.4", 1)
    info = msgspec.structs.replace(info, title=said, docstring=said, replay=said)
    assert judgement is not None
    edges = tuple(msgspec.structs.replace(edge, evidence=(said,)) for edge in judgement.graph.edges)
    judgement = msgspec.structs.replace(
        judgement,
        reason=said,
        chain=(said, *judgement.chain),
        signature=f"oc-1 {said}",
        graph=msgspec.structs.replace(judgement.graph, edges=edges),
    )
    with run.open_trial("test_overlap-t1", info) as bundle:
        history = History(gate=gate, sink=bundle.sink)
        for event in planted_events(info):
            history.append(event)
        result = sample_run.result_of(run.info.run_id, info, judgement, bundle.relative)
        bundle.finish(judgement, result, masked=gate.receipt())
        run.append_result(result)
    return run


def decoded(content: bytes) -> str:
    """A file as its reader has it: unpacked, and with every packed part of a page unpacked too."""
    text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    parts = [text]
    for packed in re.findall(r"[A-Za-z0-9+/]{200,}={0,2}", text):
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4))
        parts.append(gzip.decompress(raw).decode() if raw[:2] == b"\x1f\x8b" else raw.decode(errors="replace"))
    return "\n".join(parts)


EXPORTS: dict[str, list[str]] = {
    "report": ["report", "{run}"],
    "merge": ["merge", "{run}", "-o", "{out}/merged"],
    "page": ["merge", "{run}", "-o", "{out}/page.html"],
    "diff": ["diff", "{run}", "{run}"],
    "diff --markdown": ["diff", "{run}", "{run}", "--markdown"],
    "diff --json": ["diff", "{run}", "{run}", "--json"],
    "trace": ["trace", "{run}", "-o", "{out}/trace.json.gz"],
    "github": ["github", "{run}"],
    "ctrf": ["ctrf", "{run}", "-o", "{out}/ctrf.json"],
    "judge": ["judge", "{run}"],
}


@pytest.mark.parametrize("export", list(EXPORTS))
@pytest.mark.parametrize("on_github", [False, True])
def test_no_secret_gets_out(
    run: RunDir, tmp_path: Path, export: str, monkeypatch: pytest.MonkeyPatch, *, on_github: bool
) -> None:
    step = tmp_path / "summary.md"
    if on_github:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    arguments = [word.format(run=run.path, out=tmp_path) for word in EXPORTS[export]]
    result = CliRunner().invoke(main, arguments, prog_name="ocrepro")
    assert result.exit_code in (0, 1), result.output
    files = [path for path in (*tmp_path.rglob("*"), run.path / "report.html") if path.is_file()]
    made = {str(path): decoded(path.read_bytes()) for path in files}
    made["stdout"], made["stderr"] = result.stdout, result.stderr
    assert sum("masked:" in text for text in made.values()) > 0, "the texts that held the secrets are there"
    for name, text in made.items():
        assert not [secret for secret in FORBIDDEN if secret in text], name


def test_the_secrets_would_be_found(run: RunDir, tmp_path: Path) -> None:
    """Without its gate the same run leaks all twelve, and the search sees them."""
    open_run = RunDir.create(tmp_path)
    info = sample_run.overlap("1.15.4", 1)[0]
    judgement = sample_run.overlap_judgement(0.1)
    sample_run.store(open_run, (info, planted_events(info), judgement))
    CliRunner().invoke(main, ["trace", str(open_run.path), "-o", str(tmp_path / "t.json.gz")])
    text = decoded((tmp_path / "t.json.gz").read_bytes())
    assert all(secret in text for secret in FORBIDDEN)
    packed = base64.b64encode(
        gzip.compress(f"{CANARY}{'x' * 400}{'y' * 300}".encode() + bytes(range(128)) * 3)
    ).decode()
    assert CANARY in decoded(f"<template>{packed}</template>".encode())

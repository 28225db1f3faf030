"""Secrets in every place that a run has: none gets into anything that is made of it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.cli import main
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle, TrialInfo
from pytest_ocrepro.publish.issue import issue_text
from pytest_ocrepro.publish.redaction import Redactor
from pytest_ocrepro.publish.repro import repro_script
from tests.data.publish import reproducing, sample_run

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
        whole = packed[: len(packed) // 4 * 4] if len(packed) % 4 == 1 else packed + "=" * (-len(packed) % 4)
        raw = base64.b64decode(whole)
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
    "issue": ["issue", "{run}", "--max-characters", "60000"],
    "show": ["show", "{run}"],
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
    files = [path for path in (*tmp_path.rglob("*"), *run.path.rglob("*")) if path.is_file()]
    made = {str(path): decoded(path.read_bytes()) for path in files}
    made["stdout"], made["stderr"] = result.stdout, result.stderr
    assert sum("masked:" in text for text in made.values()) > 0, "the texts that held the secrets are there"
    for name, text in made.items():
        assert not [secret for secret in FORBIDDEN if secret in text], name


# where it is put -> a value without the shape of a token, so that only its place can betray it
PLANTED = {
    "the environment of pytest": "Quetzal7canary01",
    "the environment of a process": "Quetzal7canary02",
    "auth.json": "Quetzal7canary03",
    "auth.json of a second home": "Quetzal7canary04",
    "a token in a prompt": "ghp_" + "Quetzal7canary05" * 2,
    "a token in a tool's output": "sk-ant-" + "Quetzal7canary06",
    "a file name": "CUST-Quetzal7canary07",
    "a log line": "glpat-" + "Quetzal7canary08abcd",
    "across the cut of a log line": "npm_" + "Quetzal7canary09" * 2,
    "a database row": "CUST-Quetzal7canary10",
    "a key's name": "password=Quetzal7canary11",
    "a URL": "https://bob:Quetzal7canary12@127.0.0.1/",
    "a scripted answer before the process that knows it": "Quetzal7canary02",
    "the environment of a process beneath": "Quetzal7canary13",
    "an auth.json that a process writes": "Quetzal7canary14",
}
# Stands in for opencode: prints, logs and stores all that it was given, and waits to be told to crash.
LEAKY = """
import json, os, pathlib, signal, sqlite3, subprocess, sys, time
if sys.argv[1:] == ["--version"]:
    sys.exit(print("9.9.9"))
data = pathlib.Path(os.environ["XDG_DATA_HOME"], "opencode")
keys = [path.read_text() for path in sorted(pathlib.Path(os.environ["HOME"]).parent.glob("**/auth.json"))]
said = [*sys.argv, os.environ["LEAKS_SECRET"], *keys, *os.listdir(), "https://bob:Quetzal7canary12@127.0.0.1/"]
said += ["password=Quetzal7canary11", "output of a tool: sk-ant-" + "Quetzal7canary06"]
print(*said, sep="\\n", flush=True)
(data / "log").mkdir(parents=True, exist_ok=True)
log = open(data / "log" / "x.log", "w", buffering=1)
for text in [*said, "glpat-" + "Quetzal7canary08abcd", *("x" * n + " npm_" + "Quetzal7canary09" * 2
             for n in range(1900, 1990, 7))]:
    log.write("INFO  2026-11-21T12:00:00 +1ms service=x " + text.replace(chr(10), " ") + chr(10))
rows = sqlite3.connect(data / "opencode.db")
rows.executescript(
    "CREATE TABLE session (id text PRIMARY KEY, title text NOT NULL);"
    "CREATE TABLE message (id text PRIMARY KEY, session_id text, time_created integer,"
    " time_updated integer, data text);"
    "CREATE TABLE part (id text PRIMARY KEY, message_id text, session_id text, time_created integer,"
    " time_updated integer, data text);"
)
state = {"type": "tool", "tool": "CUST-Quetzal7canary10", "state": {"status": "running", "input": {"x": said}}}
rows.execute("INSERT INTO session VALUES (?, ?)", ("ses_CUST-Quetzal7canary10", "t"))
error = {"role": "assistant", "time": {"created": 1}, "error": {"data": {"message": " ".join(said)}}}
rows.execute("INSERT INTO message VALUES ('msg_1', 'ses_1', 1, 1, ?)", (json.dumps(error),))
rows.execute("INSERT INTO part VALUES ('prt_1', 'msg_1', 'ses_1', 1, 1, ?)", (json.dumps(state),))
rows.commit()
late, beneath = "Quetzal7" + "canary14", "Quetzal7" + "canary13"
print(late, beneath, flush=True)
own = data / "later" / "opencode"
own.mkdir(parents=True)
(own / "auth.json").write_text(json.dumps({"anthropic": {"type": "api", "key": late}}))
tool = subprocess.Popen(
    ["sleep", "300"],
    env={**os.environ, "TOOL": said[1], "BENEATH_SECRET": beneath, "XDG_DATA_HOME": str(data / "later")},
)
pathlib.Path("ready").touch()
while not os.path.exists("go"):
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGSEGV)
"""
LEAKING = """
import json, os, threading, time
from pytest_ocrepro import for_ever, text
from pytest_ocrepro.events import ProcessFound, SnapshotTaken

def test_leaks(ocrepro):
    \"\"\"A scenario that knows Quetzal7canary01.\"\"\"
    second = ocrepro.sandbox.own_home("data", "worker")
    for folder, key in ((ocrepro.sandbox.data, "Quetzal7canary03"), (second / "opencode", "Quetzal7canary04")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "auth.json").write_text(json.dumps({"anthropic": {"type": "api", "key": key}}))
    ocrepro.project.write("of CUST-Quetzal7canary07.txt", "holds CUST-Quetzal7canary07")
    ocrepro.configure(provider={"x": {"options": {"apiKey": "Quetzal7canary01"}}})
    ocrepro.provider.script(for_ever(text("it is Quetzal7canary02, and Quetzal7canary13, and Quetzal7canary14")))
    prompt = f"use {os.environ['LEAKS_API_TOKEN']} and ghp_" + "Quetzal7canary05" * 2
    first = ocrepro.run(prompt, LEAKS_SECRET="Quetzal7canary02")
    ocrepro.wait_until((ocrepro.project.root / "ready").exists, what="Quetzal7canary01 is everywhere")
    ocrepro.database("when CUST-Quetzal7canary10 is there")
    ocrepro.note("a note of Quetzal7canary02")
    ocrepro.claim("CUST-Quetzal7canary07 is safe", held=False, because="Quetzal7canary03 is not")
    looked = lambda history: (
        any(one.snapshot.logs for one in history.of_type(SnapshotTaken))
        and any("sleep" in one.argv for one in history.of_type(ProcessFound))
    )
    def let_go_on():
        ocrepro.history.wait_for(looked, deadline_ns=time.monotonic_ns() + 30 * 10**9)
        ocrepro.project.write("go", "")
    thread = threading.Thread(target=let_go_on)
    thread.start()
    ocrepro.expect(first).to_finish()
    thread.join()
    ocrepro.claim("the log was seen", held=looked(ocrepro.history), because="nobody looked")
"""


def test_a_whole_session_lets_nothing_out(
    pytester: pytest.Pytester, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen secrets, each in its place, and a stand-in that repeats all that it sees: none gets out of the gate."""
    (stand_in.parent / "program.py").write_text(LEAKY)
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LEAKS_API_TOKEN", PLANTED["the environment of pytest"])
    pytester.makeini("[pytest]\nocrepro_redact =\n    customer = CUST-\\w+\n")
    pytester.makepyfile(test_it=LEAKING)
    ctrf = tmp_path / "ctrf.json"
    done = pytester.runpytest_subprocess(
        "--ocrepro", f"--ocrepro-binary={stand_in}", "--ocrepro-expect=any", f"--ocrepro-ctrf={ctrf}",
        "test_it.py", "--ocrepro-github=on", "-rs", "--junitxml=junit.xml", "-p", "no:cacheprovider", timeout=120,
    )  # fmt: skip
    done.assert_outcomes(passed=1)
    run = RunDir.read(pytester.path / "reports")
    stored = {str(path.relative_to(run.path)): path for path in run.path.rglob("*") if path.is_file()}
    assert {"report.html", "summary.md"} < set(stored)
    assert [name for name in stored if name.startswith("issues/")]
    for name, arguments in {"trace.json.gz": ["trace"], "merged": ["merge"], "page.html": ["merge"]}.items():
        made = CliRunner().invoke(main, [*arguments, str(run.path), "-o", str(tmp_path / name)])
        assert made.exit_code == 0, made.output
    others = [path for path in (tmp_path / "merged").rglob("*") if path.is_file()]
    others += [ctrf, tmp_path / "trace.json.gz", tmp_path / "page.html", pytester.path / "junit.xml"]
    texts = {str(path): decoded(path.read_bytes()) for path in (*stored.values(), *others)}
    texts["terminal"] = done.stdout.str() + done.stderr.str()
    for name, text in texts.items():
        assert not re.findall(r"Quetzal7\w*|uetzal7canary\w*|canary\d\d", text), name
    history = texts[str(next(path for name, path in stored.items() if name.endswith("history.jsonl")))]
    for mask in (
        "LEAKS_API_TOKEN", "LEAKS_SECRET", "BENEATH_SECRET", "auth.json-3-anthropic-key",
        "auth.json-anthropic-key", "auth.json-2-anthropic-key", "github-token",
        "sk-key", "customer", "gitlab-token", "npm-token", "by-key-name", "url-password",
    ):  # fmt: skip
        assert f"[masked:{mask}]" in history, mask
    (trial,) = run.bundles()
    told = {one.kind for one in TrialBundle.read(trial).masked}
    assert {"known-value", "customer", "github-token", "sk-key", "gitlab-token", "npm-token", "key-name"} <= told


def _furnished(said: str) -> h.SandboxFurnished:
    return h.SandboxFurnished(at_ns=0, config=json.dumps({"x": said}), files=(h.StagedFile(path=said, text=said),))


STEPS: dict[str, Callable[[str], list[h.Event]]] = {
    "a prompt": lambda said: [reproducing.process("first", "run", said)],
    "a variable": lambda said: [reproducing.process("first", "run", environment=(f"MINE={said}",))],
    "a file and the configuration": lambda said: [_furnished(said)],
    "what the model says": lambda said: [
        h.TurnsScripted(at_ns=0, model="m1", turns=(h.ScriptedTurn(name="t", words=said),))
    ],
    "a tool's arguments": lambda said: [
        h.TurnsScripted(
            at_ns=0, model="m1", turns=(h.ScriptedTurn(name="t", calls=(("bash", json.dumps({"command": said})),)),)
        )
    ],
    "a wait": lambda said: [h.StepWaited(at_ns=0, kind="condition", what=said)],
    "a call": lambda said: [h.HttpAsked(at_ns=0, role="s", method="POST", path="/x", body=json.dumps({"x": said}))],
}


@pytest.mark.parametrize("step", list(STEPS))
def test_no_secret_gets_into_a_script_or_its_issue_text(step: str) -> None:
    """A step that held one is masked; the script is then refused, or goes without it."""
    gate = Redactor({"MY_SECRET": CANARY}, {"/home/annabel": "~"}, names={"annabel": "$USER"})
    planted = STEPS[step](f"{words()} {CANARY}")  # earlier than what follows
    plain = list(reproducing.overlap().history)
    before = [one for one in plain if not (step.startswith("a file") and isinstance(one, h.SandboxFurnished))]
    history = History(gate=gate)
    for event in (*before[:1], *planted, *before[1:]):
        history.append(event)
    trial = msgspec.structs.replace(reproducing.overlap(), history=history)
    script = repro_script(trial)
    text = issue_text(sample_run.run_info("r"), trial, script=script, most=60_000)
    for secret in FORBIDDEN:
        assert secret not in script.text + script.why_not + text
    assert "[masked:" in script.text + script.why_not + text
    assert script.text or script.why_not


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

from __future__ import annotations

import gzip
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.cli import main
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.verdict import judge
from pytest_ocrepro.publish.bundle import RunDir, StoredTrial, TrialBundle
from pytest_ocrepro.publish.redaction import Redactor
from pytest_ocrepro.publish.trace import encode
from pytest_ocrepro.publish.trace_format import BEYOND_ALL_PIDS, TraceFile
from tests.data.publish import sample_run

CAPTURED = sorted(path.parent for path in (Path(__file__).parents[1] / "data" / "judge").glob("*/history.jsonl*"))
NASTY = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e\x00 \ud800"

Trace = dict[str, Any]
_number = st.integers(0, 5_000_000)


def stored(tmp_path: Path, case: sample_run.Case) -> StoredTrial:
    return TrialBundle.read(sample_run.store(RunDir.create(tmp_path / "reports"), case))


def decoded(content: bytes) -> Trace:
    found: Trace = json.loads(gzip.decompress(content))
    return found


def trace_of(events: list[h.Event]) -> Trace:
    history = History.of(events)
    info = sample_run.overlap("1.15.4", 1)[0]
    trial = StoredTrial(path=Path("x"), info=info, history=history, judgement=judge(history), result=None, torn=False)
    return decoded(encode(trial))


def complaints(trace: Trace) -> list[str]:
    """What a viewer could not draw: the rules of the Trace Event Format, and those of Perfetto's importer."""
    events = [event for event in trace["traceEvents"] if event["ph"] != "M"]
    names = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    return (
        _frame(trace)
        or _shapes(events)
        or [
            *_numbers(names),
            *_order(events),
            *_nesting(events),
            *_arrows(events),
            *_named(events, names),
        ]
    )


def _frame(trace: Trace) -> list[str]:
    """The object form: what a reader may find beside the events, and what names may say."""
    found = [f"unknown key {key}" for key in sorted(set(trace) - {"traceEvents", "displayTimeUnit", "otherData"})]
    if trace["displayTimeUnit"] not in ("ms", "ns"):
        found.append(f"no unit of time: {trace['displayTimeUnit']}")
    named: dict[str, tuple[str, type]] = {"process_name": ("name", str), "thread_name": ("name", str)}
    named |= {"process_sort_index": ("sort_index", int), "thread_sort_index": ("sort_index", int)}
    for event in trace["traceEvents"]:
        if event["ph"] == "M":
            key, kind = named.get(event["name"], ("", str))
            if not isinstance(event["args"].get(key), kind):
                found.append(f"metadata that nobody knows: {event}")
    return found


def _shapes(events: list[Trace]) -> list[str]:
    found = []
    for event in events:
        if event["ph"] not in "XiCsf":
            found.append(f"unknown phase {event['ph']}")
        whole = all(isinstance(event.get(key), int) for key in ("pid", "tid", "ts")) and event["ts"] >= 0
        if not whole or not isinstance(event.get("name"), str):
            found.append(f"not placed: {event}")
        if event["ph"] == "i" and event.get("s") not in ("g", "p", "t"):
            found.append(f"an instant of no scope: {event}")
        if event["ph"] == "C" and not all(isinstance(v, (int, float)) for v in event.get("args", {"": ""}).values()):
            found.append(f"counts what is no number: {event}")
        if event["ph"] == "X" and not (isinstance(event.get("dur"), int) and event["dur"] >= 0):
            found.append(f"begins and has no end: {event}")
    return found


def _numbers(names: list[Trace]) -> list[str]:
    found = []
    for what, key in (("process_name", "pid"), ("thread_name", "tid")):
        used = [event[key] for event in names if event["name"] == what]
        found += [f"{what} {number} twice" for number in sorted(set(used)) if used.count(number) > 1]
    return found


def _named(events: list[Trace], names: list[Trace]) -> list[str]:
    processes = {event["pid"] for event in names if event["name"] == "process_name"}
    threads = {(event["pid"], event["tid"]) for event in names if event["name"] == "thread_name"}
    return [
        f"on no track: {event}"
        for event in events
        if event["pid"] not in processes or (event["ph"] != "C" and (event["pid"], event["tid"]) not in threads)
    ]


def _order(events: list[Trace]) -> list[str]:
    last: dict[tuple[int, int], int] = defaultdict(int)
    found = []
    for event in events:
        track = event["pid"], event["tid"]
        if event["ts"] < last[track]:
            found.append(f"back in time: {event}")
        last[track] = event["ts"]
    return found


def _nesting(events: list[Trace]) -> list[str]:
    """On one track a slice lies within another or beside it."""
    open_until: dict[tuple[int, int], list[int]] = defaultdict(list)
    found = []
    for event in events:
        if event["ph"] != "X":
            continue
        ends = open_until[event["pid"], event["tid"]]
        while ends and ends[-1] <= event["ts"]:
            ends.pop()
        if ends and event["ts"] + event["dur"] > ends[-1]:
            found.append(f"cuts into another: {event}")
        ends.append(event["ts"] + event["dur"])
    return found


def _arrows(events: list[Trace]) -> list[str]:
    """Each has one beginning and one end, in this order, and both lie in a slice of their track."""
    found = []
    arrows: dict[int, list[Trace]] = defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            arrows[event["id"]].append(event)
    for number, ends in arrows.items():
        if [end["ph"] for end in ends] != ["s", "f"]:
            found.append(f"arrow {number} has not one beginning and one end")
        if len({(end["cat"], end["name"]) for end in ends}) > 1 or ends[-1]["ts"] < ends[0]["ts"]:
            found.append(f"the ends of arrow {number} do not belong together")
        if any(not _bound(end, events) for end in ends):
            found.append(f"arrow {number} hangs in the air")
        if ends[-1].get("bp") != "e":
            found.append(f"arrow {number} binds to the next slice")
    return found


def _bound(end: Trace, events: list[Trace]) -> bool:
    return any(
        event["ph"] == "X"
        and (event["pid"], event["tid"]) == (end["pid"], end["tid"])
        and event["ts"] <= end["ts"] < event["ts"] + event["dur"]
        for event in events
    )


def tracks(trace: Trace) -> dict[tuple[int, int], str]:
    return {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }


def on(trace: Trace, track: str, ph: str = "X") -> list[Trace]:
    """What is drawn on the tracks of this name."""
    named = {key for key, name in tracks(trace).items() if name == track}
    return [e for e in trace["traceEvents"] if e["ph"] == ph and (e["pid"], e["tid"]) in named]


# --- it loads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["overlap", "alone", "question", "killed_server", "write_lock"])
def test_every_case_makes_a_trace_that_loads(tmp_path: Path, case: str) -> None:
    trace = decoded(encode(stored(tmp_path, getattr(sample_run, case)("1.15.4", 1))))
    assert complaints(trace) == []
    assert trace["otherData"]["opencode"] == "1.15.4"


@pytest.mark.parametrize("folder", CAPTURED, ids=lambda path: path.name)
def test_every_captured_history_makes_a_trace_that_loads(folder: Path) -> None:
    packed = folder / "history.jsonl.gz"
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / "history.jsonl").read_bytes()
    events = [decode_event(line) for line in text.splitlines()]
    trace = trace_of(events)
    assert complaints(trace) == []
    lives = on(trace, "life")
    starts = [event for event in events if isinstance(event, (h.ProcessStarted, h.ProcessFound))]
    assert len(lives) == len({(event.id.pid, event.id.start_ticks) for event in starts}) > 0
    milestones = [event for event in events if isinstance(event, h.MilestoneReached)]
    assert len([e for e in on(trace, "milestones", "i") if "told by" in e["args"]]) == len(milestones)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda events: events.append({"ph": "B", "pid": 1, "tid": 1, "ts": 1, "name": "x"}), "unknown phase B"),
        (lambda events: [e.pop("dur") for e in events if e["ph"] == "X"], "begins and has no end"),
        (lambda events: events.reverse(), "back in time"),
        (
            lambda events: events.remove(next(e for e in events if e["ph"] == "f")),
            "has not one beginning and one end",
        ),
        (lambda events: [e.update(ts=0) for e in events if e["ph"] == "s"], "hangs in the air"),
        (lambda events: [e.pop("bp", 0) for e in events], "binds to the next slice"),
        (lambda events: [e.update(name="other") for e in events if e["ph"] == "f"], "do not belong together"),
        (lambda events: [e.update(cat="other") for e in events if e["ph"] == "s"], "do not belong together"),
        (lambda events: [e.update(id=7) for e in events if e["ph"] == "f"], "has not one beginning and one end"),
        (lambda events: [e.update(s="x") for e in events if e["ph"] == "i"], "an instant of no scope"),
        (lambda events: [e["args"].update(value="x") for e in events if e["ph"] == "C"], "counts what is no number"),
        (lambda events: events[0].update(name="procces_name"), "metadata that nobody knows"),
        (lambda events: [e.update(dur=10**9) for e in events if e["ph"] == "X"], "cuts into another"),
        (lambda events: [e.update(ts=0.5) for e in events if e["ph"] == "i"], "not placed"),
        (lambda events: events.append(next(e for e in events if e["name"] == "thread_name")), "twice"),
        (lambda events: events.remove(next(e for e in events if e["name"] == "thread_name")), "on no track"),
    ],
)
def test_the_check_finds_what_would_not_load(tmp_path: Path, spoil: Any, words: str) -> None:
    trace = decoded(encode(stored(tmp_path, sample_run.overlap("1.15.4", 1))))
    twin = {"ph": "X", "pid": 801, "tid": 801, "ts": 4_000_000, "dur": 3_000_000, "name": "another"}
    if words == "cuts into another":
        trace["traceEvents"].append(twin)
    spoil(trace["traceEvents"])
    assert any(words in line for line in complaints(trace))


@given(st.lists(st.tuples(_number, _number), max_size=30))
def test_lanes_keep_apart_what_overlaps(spans: list[tuple[int, int]]) -> None:
    file = TraceFile(0)
    group = file.process("locks")
    for start, length in sorted(spans):
        file.slice(file.lane(group, "one", start, start + length), start, start + length, "held")
    trace = decoded(file.encode({}))
    assert complaints(trace) == []
    assert len(on(trace, "one")) + sum(len(on(trace, f"one ({n})")) for n in range(2, 40)) == len(spans)


@given(st.tuples(_number, _number), st.tuples(_number, _number))
def test_an_arrow_is_drawn_where_and_only_where_both_slices_are_there(
    one: tuple[int, int], two: tuple[int, int]
) -> None:
    file = TraceFile(0)
    group = file.process("p")
    drawn = [file.slice(file.track(group, "t"), start, start + length, "s") for start, length in (one, two)]
    told = file.arrow(drawn[0], drawn[1], "waits")
    trace = decoded(file.encode({}))
    assert complaints(trace) == []
    assert told == any(event["ph"] == "s" for event in trace["traceEvents"])
    overlap_us = min(s.end_us for s in drawn) - max(s.start_us for s in drawn)
    assert told == (overlap_us > 0)


def test_the_same_trial_makes_the_same_bytes(tmp_path: Path) -> None:
    trial = stored(tmp_path, sample_run.overlap("1.15.4", 1))
    assert encode(trial) == encode(trial)


# --- it tells ---------------------------------------------------------------------------------------------------


def test_the_holder_is_drawn_to_the_waiter(tmp_path: Path) -> None:
    trace = decoded(encode(stored(tmp_path, sample_run.overlap("1.15.4", 1))))
    (hold,) = on(trace, "npm-install:$SANDBOX/config/opencode")
    assert hold["name"] == "first (pid 801) holds"
    begins = on(trace, "npm-install:$SANDBOX/config/opencode", "s")
    ends = on(trace, "waits", "f")
    assert {event["id"] for event in begins} <= {event["id"] for event in ends}
    assert len(begins) == 1
    names = {event["name"] for event in on(trace, "waits")}
    assert names == {
        "waits for lock directory npm-install:$SANDBOX/config/opencode",
        "waits for an answer of registry 127.0.0.1:41873 (stalled: will not answer)",
    }


def test_processes_and_threads_have_their_own_numbers(tmp_path: Path) -> None:
    trace = decoded(encode(stored(tmp_path, sample_run.overlap("1.15.4", 1))))
    assert tracks(trace)[801, 801] == "opencode"
    assert tracks(trace)[812, 813] == "HeapHelper"
    ours = {tid for tid in (tid for _, tid in tracks(trace)) if tid >= BEYOND_ALL_PIDS}
    assert len(ours) > 5
    (main,) = (event for event in on(trace, "opencode") if event["pid"] == 812)
    assert main["name"] == "epoll_pwait2 (ep_poll)"
    assert main["args"]["looks that saw it so"] == 2
    assert main["args"]["it ran in between"] is True
    helper = next(event for event in on(trace, "HeapHelper") if event["pid"] == 812)
    assert helper["args"]["it ran in between"] is False


def test_a_thread_that_changed_is_not_drawn_through(tmp_path: Path) -> None:
    info, events, _ = sample_run.overlap("1.15.4", 1)
    events = [e for e in events if not isinstance(e, h.SnapshotTaken)]
    one, two = (sample_run.snapshot(number, at, wakeups=0) for number, at in ((1, 5.0), (2, 8.0)))
    busy = [
        msgspec.structs.replace(
            p, threads=(msgspec.structs.replace(p.threads[0], state="R", wchan=None, syscall="running"),)
        )
        for p in two.snapshot.processes
    ]
    two = msgspec.structs.replace(two, snapshot=msgspec.structs.replace(two.snapshot, processes=tuple(busy)))
    trace = trace_of([*events, one, two])
    assert complaints(trace) == []
    asleep, runs = (event for event in on(trace, "opencode") if event["pid"] == 812)
    assert (asleep["name"], runs["name"]) == ("epoll_pwait2 (ep_poll)", "running")
    assert asleep["dur"] == runs["dur"] == 14_000  # as long as the looks took
    assert info.version


def test_requests_calls_and_faults_last(tmp_path: Path) -> None:
    asked = decoded(encode(stored(tmp_path / "a", sample_run.question("1.15.4", 1))))
    (request,) = on(asked, "requests")
    assert (request["name"], request["dur"]) == ("server (pid 950) asks m1", 200_000)
    assert [event["name"] for event in on(asked, "requests", "i")] == ["finished"]
    calls = [e for key, name in tracks(asked).items() if name.startswith("to server") for e in on(asked, name)]
    assert "POST /question/que_77/reply: no answer within 5 s" in {event["name"] for event in calls}
    assert max(event["dur"] for event in calls) == 5_000_000
    stalled = decoded(encode(stored(tmp_path / "b", sample_run.overlap("1.15.4", 1))))
    (fault,) = on(stalled, "registry stall")
    assert (fault["ts"], fault["dur"]) == (50_000, 11_850_000)


def test_a_pid_that_is_given_again_is_two_processes() -> None:
    start = sample_run.trial_started(sample_run.overlap("1.15.4", 1)[0])
    first = sample_run.run_started(0.1, 801, "first", "m")
    second = msgspec.structs.replace(
        sample_run.run_started(5.0, 801, "second", "m"), id=r.ProcessId(pid=801, start_ticks=9_999)
    )
    gone = h.ProcessExited(at_ns=sample_run.ns(3), pid=801, role="first", code=0, ours=False)
    late = h.MilestoneReached(at_ns=sample_run.ns(6), pid=801, role="second", milestone="started", source="log")
    trace = trace_of([start, first, gone, second, late])
    assert complaints(trace) == []
    one, two = on(trace, "life")
    assert (one["name"], one["dur"], two["name"]) == ("first", 2_900_000, "second")
    assert one["pid"] != two["pid"]
    (milestone,) = (event for event in on(trace, "milestones", "i") if event["name"] == "started")
    assert milestone["pid"] == two["pid"]


def test_a_torn_trial_and_an_empty_one_make_a_trace(tmp_path: Path) -> None:
    torn = stored(tmp_path, (*sample_run.overlap("1.15.4", 1)[:2], None))
    trace = decoded(encode(torn))
    assert complaints(trace) == []
    assert trace["otherData"]["problems"] == ["pytest ended before this trial was judged"]
    assert complaints(trace_of([])) == []


# --- it keeps quiet ---------------------------------------------------------------------------------------------


def test_texts_of_the_subject_stay_text(tmp_path: Path) -> None:
    info, events, judgement = sample_run.overlap("1.15.4", 1)
    nasty = NASTY.replace("\ud800", "")
    events += [
        h.Note(at_ns=sample_run.ns(1), text=nasty),
        h.ProviderRequest(
            at_ns=sample_run.ns(2),
            request=1,
            pid=801,
            path=nasty,
            model=nasty,
            tools=0,
            title=False,
            last_text="x" * 1_000_000,
        ),
    ]
    content = encode(stored(tmp_path, (info, events, judgement)))
    text = gzip.decompress(content).decode()
    assert complaints(json.loads(text)) == []
    assert not any(character in text for character in "\x1b\u202e\x00")
    assert len(text) < 100_000
    assert "characters cut" in text


def test_no_canary_gets_into_a_trace(tmp_path: Path) -> None:
    """A secret in every place that a history has: the trace is made behind the gate."""
    canary = "cnry-4f1d9a7c2b"
    gate = Redactor({"MY_SECRET": canary}, {"/home/annabel": "~"}, names={"annabel": "$USER"})
    info, events, judgement = sample_run.overlap("1.15.4", 1)
    assert judgement is not None
    planted = [_planted(event, canary) for event in events]
    assert json.dumps(msgspec.to_builtins(planted)).count(canary) > 100
    run = RunDir.create(tmp_path / "reports", gate=gate)
    with run.open_trial("t", _planted(info, canary)) as bundle:
        history = History(gate=gate, sink=bundle.sink)
        for event in planted:
            history.append(event)
        told = _planted(judgement, canary)
        bundle.finish(told, sample_run.result_of("r", info, told, bundle.relative))
    text = gzip.decompress(encode(TrialBundle.read(bundle.path))).decode()
    assert "[masked:MY_SECRET]" in text
    assert canary not in text
    assert "annabel" not in text


_FREE = ("text", "line", "argv", "detail", "because", "claim", "evidence", "chain", "label", "message", "why",
         "output", "path", "key", "docstring", "replay", "target", "reason", "address")  # fmt: skip


def _planted(record: Any, canary: str) -> Any:
    """The record with the canary at the end of every free text."""
    return msgspec.convert(_through(msgspec.to_builtins(record), canary), type(record))


def _through(value: Any, canary: str, *, free: bool = False) -> Any:
    if isinstance(value, dict):
        return {name: _through(item, canary, free=name in _FREE) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_through(item, canary, free=free) for item in value]
    return f"{value} {canary} /home/annabel/x" if free and isinstance(value, str) else value


# --- the command ------------------------------------------------------------------------------------------------


def ask(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["trace", *map(str, arguments)], prog_name="ocrepro")
    return result.exit_code, result.stdout, result.stderr


def test_the_command_writes_the_trial_or_the_clearest_of_a_run(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "reports")
    sample_run.store(run, sample_run.alone("1.15.4", 1))
    bundle = sample_run.store(run, sample_run.overlap("1.15.4", 1))
    code, stdout, stderr = ask(run.path, "-o", tmp_path / "t.json.gz")
    assert (code, stderr) == (0, "")
    assert stdout == f"{bundle.name}: {(tmp_path / 't.json.gz').as_uri()}\n"
    assert (tmp_path / "t.json.gz").read_bytes() == encode(TrialBundle.read(bundle))
    assert ask(bundle, "-o", tmp_path / "u.json.gz")[0] == 0
    assert (tmp_path / "u.json.gz").read_bytes() == (tmp_path / "t.json.gz").read_bytes()


@pytest.mark.parametrize("place", ["nothing", "empty"])
def test_no_trial_is_one_line_and_exit_code_2(tmp_path: Path, place: str) -> None:
    RunDir.create(tmp_path, run_id="empty")
    code, stdout, stderr = ask(tmp_path / place, "-o", tmp_path / "t.json.gz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "t.json.gz").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    bundle = sample_run.store(RunDir.create(tmp_path / "reports"), sample_run.overlap("1.15.4", 1))
    code, _, stderr = ask(bundle, "-o", tmp_path / "nowhere" / "t.json.gz")
    assert (code, stderr.count("\n")) == (2, 1)


def test_names_of_tracks_are_told_apart() -> None:
    file = TraceFile(0)
    pids = [file.process("p", pid=5) for _ in range(3)]
    assert pids[0] == 5
    assert all(a != b for a, b in itertools.combinations(pids, 2))

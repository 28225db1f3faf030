"""Runs that somebody wrote to do harm, before every command that reads one.

``pytest tests/publish/test_hostile.py --hypothesis-profile=fuzz`` tries 1,500 of them (about 10 minutes).
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_ocrepro.cli import main
from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.events import SandboxFurnished, StagedFile
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.verdict import judge
from pytest_ocrepro.publish import rejudgement, storage
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.cases import FOLDER
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.repro import repro_script
from tests.data.publish import reproducing, sample_run

CAPTURED = Path(__file__).parents[1] / "data" / "judge"
REAL = ("overlap-1.18.34", "writer-in-transaction-1.18.34", "crash-in-bash-1.18.34", "stdin-open-1.18.34")
EXAMPLES = 1500 if settings.get_current_profile_name() == "fuzz" else 8
SCRIPTED = (reproducing.overlap, reproducing.held_lock, reproducing.killed_server, reproducing.pending_question)

TEXTS = (
    '"+PWNED+"', "'+PWNED+'", "{PWNED}", "\nPWNED\n", "\u2028PWNED", "\\", "../../../PWNED",
    "", "\0", "\u202e", "\ud800", "x" * 70_000, "../../etc/passwd", "/dev/zero", "--help",
    "<script>alert(1)</script>", "`$(touch PWNED)`", "'; touch PWNED; '", "a\nb\n::error::x", "-->", "1e400", "nan",
    "[::1", "127.0.0.1:99999999", "http://[", "%s%n{0}", "deadlock", "999.0.0-" + "9" * 50,
    "2026-99-99T99:99:99Z", "0001-01-01T00:00:00+14:00",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**308, 10**400, 10**4000)
FRACTIONS = (0.0, -1.0, 1e308, -1e308, 5e-324, 1e18, 10**400)

Step = str | int


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with made-up trials and real ones."""
    run = RunDir.create(tmp_path_factory.mktemp("sound"), run_id="r1")
    run.write_info(sample_run.run_info("r1"))
    first = sample_run.store(run, sample_run.overlap("1.18.34", 1))
    sample_run.store(run, sample_run.alone("1.18.34", 1))
    for made in SCRIPTED:
        reproducing.store(run, made(), f"test_{made.__name__}")
    for name in REAL:
        bundle = run.path / "trials" / name
        bundle.mkdir()
        shutil.copy(first / "trial.json", bundle)
        shutil.copy(CAPTURED / name / "history.jsonl", bundle)
        line = json.loads((first / "result.json").read_bytes())
        (bundle / "result.json").write_text(json.dumps({**line, "bundle": f"trials/{name}"}))
        events = map(decode_event, (bundle / "history.jsonl").read_bytes().splitlines())
        (bundle / "judgement.json").write_bytes(msgspec.json.encode(judge(History.of(events))))
    return run.path


def _places(value: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Any]]:
    if path:
        yield path, value
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*path, key))


def _worse(value: Any, chance: random.Random) -> Any:
    """Another value of the same type, so that most get past the check of the schema."""
    if value is None or isinstance(value, bool):
        return chance.choice((None, not value, 5, "x"))
    if isinstance(value, str) and chance.random() < 0.5:
        at = chance.randint(0, len(value))
        return value[:at] + chance.choice(TEXTS) + value[at:]
    if isinstance(value, (str, int, float)):
        return chance.choice(TEXTS if isinstance(value, str) else NUMBERS if isinstance(value, int) else FRACTIONS)
    return chance.choice(([], value * 2, value * 40, value[::-1], [[]]) if isinstance(value, list) else ({}, None))


def spoil(record: Any, chance: random.Random) -> Any:
    places = list(_places(record))
    if places:
        path, value = chance.choice(places)
        inner = record
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = _worse(value, chance)
    return record


def spoil_file(file: Path, chance: random.Random) -> None:
    many = chance.choice((1, 1, 2, 5))
    if file.suffix == ".json":
        record = json.loads(file.read_bytes())
        for _ in range(many):
            record = spoil(record, chance)
        file.write_text(json.dumps(record))
        return
    lines = file.read_bytes().splitlines()
    for number in (chance.randrange(len(lines)) for _ in range(many)):
        lines[number] = json.dumps(spoil(json.loads(lines[number]), chance)).encode()
        if chance.random() < 0.2:
            lines += lines[number : number + 1]
            chance.shuffle(lines)
    file.write_bytes(b"\n".join(lines) + chance.choice((b"", b"\n")))


Words = tuple[Path | str, ...]


def commands(run: Path, trial: Path, sound: Path, out: Path) -> Iterator[Words]:
    yield from ((name, run) for name in ("report", "show", "judge", "issue", "repro", "github"))
    yield "judge", "--json", run
    yield "issue", trial
    yield "diff", run, sound
    yield "diff", "--markdown", sound, run
    yield "merge", run, "-o", out
    yield "ctrf", run, "-o", out / "ctrf"
    yield "trace", trial, "-o", out / "trace"


def ask(words: Words) -> Result:
    return CliRunner().invoke(main, list(map(str, words)), prog_name="ocrepro")


def polite(said: Result) -> bool:
    """An answer, or one line of refusal: never an exception that nobody meant."""
    return said.exception is None or isinstance(said.exception, SystemExit)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_no_run_makes_a_command_fall(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    place = tmp_path / str(seed)
    run = Path(shutil.copytree(sound, place / "r1"))
    for file in chance.sample(sorted(run.rglob("*.json*")), chance.choice((1, 2, 4))):
        spoil_file(file, chance)
    trial = chance.choice(sorted((run / "trials").iterdir()))
    monkeypatch.chdir(run)
    for words in commands(run, trial, sound, place / "out"):
        said = ask(words)
        assert polite(said), (seed, words[0], said.exc_info)
    assert not list(place.rglob("PWNED"))
    assert {path.name for path in place.iterdir()} <= {"r1", "out"}
    shutil.rmtree(place)


def test_the_property_finds_a_command_that_falls(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert polite(ask(("judge", sound)))
    monkeypatch.setattr(rejudgement, "rejudge", lambda _: 1 / 0)
    assert not polite(ask(("judge", sound)))


def injected(script: str) -> bool:
    """Whether a text of the bundle became code of the script: a name instead of a part of a literal."""
    head, _, rest = script.partition("<<'PY'")
    python, _, tail = rest[rest.find("\n") :].partition("\nPY\n")
    comments = [line for line in (head + tail).splitlines() if "PWNED" in line and not line.startswith("#")]
    names = {node.id for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Name)}
    return bool(comments) or "PWNED" in names


@settings(max_examples=EXAMPLES * 10, deadline=None, database=None)
@given(made=st.sampled_from(SCRIPTED), seed=st.integers(0, 2**32))
def test_no_text_of_a_bundle_becomes_code_of_its_repro_script(made: Callable[[], StoredTrial], seed: int) -> None:
    chance, trial = random.Random(seed), made()  # noqa: S311
    events = [json.loads(msgspec.json.encode(event)) for event in trial.history]
    for number in (chance.randrange(len(events)) for _ in range(chance.choice((1, 2, 4)))):
        events[number] = spoil(events[number], chance)
    try:
        history = History.of([decode_event(json.dumps(event)) for event in events])
    except storage.UNDECODABLE:
        return
    title = chance.choice((trial.info.title, *TEXTS))
    info = msgspec.structs.replace(trial.info, title=title)
    script = repro_script(msgspec.structs.replace(trial, history=history, info=info)).text
    assert not script or not injected(script), script


def test_a_path_of_a_bundle_stays_in_the_project_of_the_script() -> None:
    file = StagedFile(path="../../.bashrc", text="")
    made = reproducing.overlap(furnished=SandboxFurnished(at_ns=0, files=(file,)))
    assert "lies outside of it: '../../.bashrc'" in repro_script(made).why_not


@pytest.mark.parametrize("line", ["import PWNED.x\nPWNED()", 'f = f"{PWNED}"', "x = 1"])
def test_the_property_finds_code_in_a_script(line: str) -> None:
    assert injected(f"#!/bin/sh\npython3 - <<'PY' || exit\n{line}\nPY\n") == ("PWNED" in line)
    assert injected("#!/bin/sh\n# x\nPWNED\npython3 - <<'PY'\nx\nPY\n")


@pytest.mark.parametrize("number", ["1" + "0" * 30, "-" + "9" * 20, "9" * 4000])
def test_a_number_with_which_nobody_can_reckon_is_refused_where_it_stands(
    sound: Path, tmp_path: Path, number: str
) -> None:
    bundle = Path(shutil.copytree(sound / "trials" / REAL[0], tmp_path / "one"))
    kept = (bundle / "history.jsonl").read_bytes().splitlines(keepends=True)
    line = f'{{"event":"note","at_ns":{number},"text":""}}\n'
    (bundle / "history.jsonl").write_bytes(b"".join((*kept[:2], line.encode(), *kept[2:])))
    with pytest.raises(BundleError, match=r"history\.jsonl line 3 is corrupt"):
        TrialBundle.read(bundle)


def test_numbers_that_a_counter_may_hold_and_digits_in_a_text_are_read() -> None:
    storage.check_numbers(
        b'{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1e18, "d": "%s"}' % (b"7" * 40)
    )
    for content in (
        b"[18446744073709551616]",
        b"[-9223372036854775809]",
        b'{"a": {"b": [1e19]}}',
        b"-1E+300",
        b'{"a":\n -2.5e+20}',
        b"[0,1e19]",
    ):
        with pytest.raises(ValueError, match="larger than any counter"):
            storage.check_numbers(content)


@given(
    number=st.integers(min_value=1 << 64)
    | st.integers(max_value=-(1 << 63) - 1)
    | st.floats(min_value=1.1e18, max_value=1e308),
    words=st.text(max_size=9),
    indent=st.none() | st.integers(0, 3),
    small=st.integers(0, 1 << 62) | st.floats(0, 1e17),
)
def test_no_way_of_writing_a_large_number_gets_by(
    number: float, words: str, indent: int | None, small: float
) -> None:
    """Wherever it stands and however it is spaced; beside hashes and small numbers."""
    around = [{"id": "4e31-7e22" + words, "n": small}, small]
    storage.check_numbers(json.dumps(around, indent=indent).encode())
    for value in (number, [number, *around], {"a": around, "b": {words: number}}):
        with pytest.raises(ValueError, match="larger than any counter"):
            storage.check_numbers(json.dumps(value, indent=indent).encode())


def test_a_history_of_very_many_events_is_refused_and_never_written(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "MAX_LINES", 20)
    bundle = Path(shutil.copytree(sound / "trials" / REAL[0], tmp_path / "one"))
    with pytest.raises(BundleError, match=r"history\.jsonl has more than 20 lines; it was not read"):
        TrialBundle.read(bundle)
    info = TrialBundle.peek(bundle)[0]
    with RunDir.create(tmp_path / "reports").open_trial("t", info) as writer:
        for _ in range(20):
            writer.sink(b'{"event":"note","at_ns":1,"text":""}\n')
        with pytest.raises(BundleError, match="the history would pass 20 events"):
            writer.sink(b'{"event":"note","at_ns":1,"text":""}\n')
        writer.sink(b"{}\n")
        assert len(TrialBundle.read(writer.path).history) == 20


@pytest.fixture
def elsewhere(tmp_path: Path, sound: Path) -> Path:
    """What a run must not lead to: trials of somebody else, and a file of the user."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(sound / "trials", folder)
    (folder / "precious.md").write_text("mine")
    return folder


def test_trials_behind_a_link_are_not_read(sound: Path, tmp_path: Path, elsewhere: Path) -> None:
    run = Path(shutil.copytree(sound, tmp_path / "r1"))
    shutil.rmtree(run / "trials")
    (run / "trials").symlink_to(elsewhere)
    assert RunDir.read(run).bundles() == ()
    result = RunDir.read(run).results()[0]
    with pytest.raises(BundleError, match="not in this run"):
        RunDir.read(run).bundle_of(result)
    for words in commands(run, run / "trials" / REAL[0], sound, tmp_path / "out"):
        assert polite(ask(words))


def test_nothing_is_written_through_a_link_of_a_run(sound: Path, tmp_path: Path, elsewhere: Path) -> None:
    run = Path(shutil.copytree(sound, tmp_path / "r1"))
    (run / "report.html").symlink_to(elsewhere / "precious.md")
    assert ask(("report", run)).exit_code == 0
    assert not (run / "report.html").is_symlink()
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    (run / FOLDER).symlink_to(elsewhere)
    assert polite(ask(("report", run)))
    with pytest.raises(BundleError, match=f"r1/{FOLDER} is a link; nothing was written through it"):
        RunDir.read(run).write_product(f"{FOLDER}/precious.md", b"theirs")
    assert (elsewhere / "precious.md").read_text() == "mine"
    assert sorted(os.listdir(elsewhere)) == sorted([*os.listdir(sound / "trials"), "precious.md"])  # noqa: PTH208

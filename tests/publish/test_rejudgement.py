from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_ocrepro.cli import main
from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.rejudgement import bundles_at, rejudge
from pytest_ocrepro.stage.subject import PINNED, fetch

TWO_TRIALS = """
    import pytest

    def test_fails_fast(ocrepro):
        ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()

    @pytest.mark.ocrepro(issue="o/r#1")
    def test_waits(ocrepro):
        ocrepro.registry.stall()
        ocrepro.expect(ocrepro.run("a token=abcdef123456 in the prompt", model="hang", deadline_s=3.0)).to_finish()
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run lies that each test gets a copy of."""
    return tmp_path_factory.mktemp("kept") / "reports"


@pytest.fixture
def made(
    kept: Path, pytester: pytest.Pytester, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunDir:
    """A run of two trials, written by the plugin itself."""
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    if not kept.exists():
        pytester.makepyfile(test_two=TWO_TRIALS)
        options = ("--ocrepro", f"--ocrepro-binary={stand_in}", f"--ocrepro-reports={kept}", "-p", "no:cacheprovider")
        pytester.runpytest_subprocess(*options, "test_two.py", timeout=120)
    run = RunDir.read(shutil.copytree(kept, tmp_path / "reports", symlinks=True))
    assert [path.name for path in run.bundles()] == [
        "test_two-test_fails_fast-9.9.9-t1",
        "test_two-test_waits-9.9.9-t1",
    ]
    return run


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["judge", *map(str, arguments)], prog_name="ocrepro")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_stored_trial_is_judged_the_same_to_the_byte(made: RunDir) -> None:
    for path in made.bundles():
        found = rejudge(path)
        assert found.encoded == (path / "judgement.json").read_bytes()
        assert (found.differs, found.exit_code, found.written_by) == ((), 0, "0.1.0")


def test_the_command_prints_sentence_verdict_chain_and_whether_it_is_the_same(made: RunDir) -> None:
    result = ask(made.path)
    assert (result.exit_code, result.stderr) == (0, "")
    fast, waits = result.stdout.split("test_two-test_fails_fast-9.9.9-t1: the same to the byte as stored by ")
    assert "not-seen: 1 claim(s) held: first answers or fails fast\nverdict: failed-fast (proved)" in fast
    assert waits.startswith("pytest-ocrepro 0.1.0\n")
    said = " ".join(waits.split())
    assert 'hangs, and what it waits for could not be seen; so "first answers or fails fast" does not hold: ' in said
    assert "\nrefuted by: any log line" in waits
    assert result.stdout.count("the same to the byte") == 2


def test_json_is_what_is_stored_and_nothing_else(made: RunDir) -> None:
    path = made.bundles()[1]
    result = ask("--json", path)
    assert result.stdout_bytes == (path / "judgement.json").read_bytes() + b"\n"
    assert result.stderr.startswith(f"{path.name}: the same to the byte")


def test_an_edited_history_is_told_by_its_fields_and_writer(made: RunDir) -> None:
    path = made.bundles()[0]
    edit(path / "history.jsonl", '"code":1', '"code":-9')
    result = ask(path)
    assert result.exit_code == 1
    assert "verdict: crashed (proved)" in result.stdout
    told = result.stdout.splitlines()[-1]
    assert told.startswith(f"{path.name}: differs from what pytest-ocrepro 0.1.0 stored, in verdict, processes")
    assert ask(made.path).exit_code == 1


def test_the_same_words_written_another_way_are_not_the_same_bytes(made: RunDir) -> None:
    path = made.bundles()[0]
    stored = json.loads((path / "judgement.json").read_text())
    (path / "judgement.json").write_text(json.dumps(stored, indent=1))
    assert rejudge(path).differs == ("its bytes",)


def test_a_torn_bundle_is_judged_as_far_as_it_goes_and_told_in_one_line(made: RunDir) -> None:
    path = made.bundles()[1]
    (path / "judgement.json").unlink()
    with (path / "history.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 5)
    result = ask(path)
    assert result.exit_code == 2
    assert "verdict: stalled" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "torn, judged as far as it goes: line " in result.stderr
    assert "ended before this trial was judged" in result.stderr


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("history.jsonl", b'{"event":"note","at_ns":1}\nrubbish\n{}\n', "history.jsonl line 1 is corrupt"),
        ("history.jsonl", b"", "holds no event; there is nothing to judge"),
        ("judgement.json", b'{"verdict": 3}', "judgement.json is corrupt"),
        ("trial.json", b"\xff", "trial.json is corrupt"),
        ("trial.json", b'{"schema": 99, "scenario": "a", "title": "b"}', "written by a newer pytest-ocrepro"),
    ],
)
def test_a_damaged_bundle_is_one_line_and_the_others_are_judged(
    made: RunDir, file: str, content: bytes, words: str
) -> None:
    path = made.bundles()[0]
    (path / file).write_bytes(content)
    with pytest.raises(BundleError, match=words):
        rejudge(path)
    result = ask(made.path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert "verdict: stalled" in result.stdout


def test_where_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a directory that holds a"):
        bundles_at(tmp_path / "nothing")
    run = RunDir.create(tmp_path)
    with pytest.raises(UsageError, match="there is no trial in"):
        bundles_at(run.path)
    assert ask(tmp_path / "nothing").exit_code == 2


def test_a_bundle_without_its_run_is_judged_too(made: RunDir, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    made.bundles()[0].rename(alone)
    found = rejudge(alone)
    assert (found.exit_code, found.written_by) == (0, "")
    assert "stored by pytest-ocrepro (version not told)" in found.comparison


@pytest.mark.real
def test_a_real_hang_is_judged_the_same_to_the_byte(pytester: pytest.Pytester) -> None:
    build = fetch(PINNED)
    scenario = Path(__file__).parents[2] / "scenarios/test_overlap_during_plugin_install.py"
    (pytester.path / "test_overlap.py").write_text(scenario.read_text())
    node = "test_overlap.py::test_run_started_while_another_installs_its_plugin"
    pytester.runpytest_subprocess("--ocrepro", f"--ocrepro-binary={build.path}", node)
    (path,) = RunDir.read(pytester.path / "reports").bundles()
    found = rejudge(path)
    assert found.encoded == (path / "judgement.json").read_bytes()
    assert found.judgement.verdict == "blocked"
    assert len(found.judgement.chain) == 4

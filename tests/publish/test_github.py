from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.cli import main
from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.publish.bundle import RunDir, RunInfo, TrialResult
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.github import SUMMARY_BYTES, Note, append_summary, inert, notes_of, summary
from pytest_ocrepro.publish.handout import entries_in
from tests.data.publish import sample_run

FRAME = RunInfo(run_id="r", started="2026-11-21T00:30:12+00:00", plugin_version="0.1.0")
KNOWN_COMMANDS = {
    "error",
    "warning",
    "notice",
    "debug",
    "group",
    "endgroup",
    "add-mask",
    "set-output",
    "stop-commands",
}
NASTY = (
    "a\n::error file=x::y\r\n  ::add-mask::z\x85::stop-commands::t ##[error]q %0A::error::w <img src=x onerror=a> "
    "[l](http://e.example) |c| `` ``` `d` \x1b[31m\u202e</summary></details>"
)


def runner_sees(line: str) -> tuple[str, dict[str, str], str] | None:
    """A line as actions/runner takes it: its two ways to write a command, by the rules of its ActionCommand."""
    told = line.lstrip()
    if told.startswith("::") and (end := told.find("::", 2)) >= 0:
        name, _, properties = told[2:end].partition(" ")
        if name in KNOWN_COMMANDS:
            pairs = (one.split("=", 1) for one in properties.split(",") if "=" in one)
            return name, {key.strip(): _plain(value, "%3A:", "%2C,") for key, value in pairs}, _plain(told[end + 2 :])
    found = re.search(r"##\[([^\] ]*)[^\]]*\](.*)", line)
    return (found[1], {}, found[2]) if found and found[1] in KNOWN_COMMANDS else None


def _plain(text: str, *more: str) -> str:
    for one in ("%0D\r", "%0A\n", *more, "%25%"):
        text = text.replace(one[:3], one[3:])
    return text


def commands_in(text: str) -> list[tuple[str, dict[str, str], str]]:
    lines = re.split(r"\r\n|\r|\n", text)
    return [found for found in map(runner_sees, lines) if found]


def result(number: int = 0, **fields: object) -> TrialResult:
    info, _, judgement = sample_run.overlap("1.15.4", 1)
    assert judgement is not None
    base = sample_run.result_of("r", info, judgement, "trials/x")
    return msgspec.structs.replace(base, **{"scenario": f"tests/test_{number}.py::test_x", **fields})


def entries(*results: TrialResult) -> list[Entry]:
    return [Entry(result=one) for one in results]


# --- the log ----------------------------------------------------------------------------------------------------


def test_the_stand_in_for_the_runner_sees_commands() -> None:
    assert commands_in("::error file=a.py,title=b%3A c%2C%25::d%0Ae") == [
        ("error", {"file": "a.py", "title": "b: c,%"}, "d\ne")
    ]
    assert [name for name, _, _ in commands_in("x\r \t::add-mask::y\nz ##[error]w")] == ["add-mask", "error"]
    assert commands_in("a ::error::b\n::nonsense::c\n[error]d") == []


@given(
    st.lists(st.sampled_from(["::error::", "##[error]", "\n", "\r", " ", "\t", "\x85", "\u2028", "%0A", "a", ":"]))
)
def test_no_text_of_the_subject_is_a_command(parts: list[str]) -> None:
    assert commands_in(inert("".join(parts))) == []


def test_what_is_no_command_stays_as_it_is() -> None:
    for text in ("a::b", "std::vector", "x ::error::", "## heading", "[error]", "", "10:20"):
        assert inert(text) == text


# --- annotations ------------------------------------------------------------------------------------------------


def test_an_annotation_is_one_command_whatever_it_says() -> None:
    nasty = result(title=NASTY, reason=NASTY, expected=f"failed: {NASTY}", scenario=f"a,b:c%.py::{NASTY}")
    (note,) = notes_of(entries(nasty))
    ((name, properties, message),) = commands_in(note.command)
    assert (name, properties["file"]) == ("error", "a,b:c%.py")
    assert set(properties) == {"file", "title"}
    assert "<U+202E>" in message
    assert "%0A::error::w" in message, "a per cent sign of the subject comes out as one"
    assert not re.search(r"[\r\n\x1b\u202e]", note.command)


@given(st.text(max_size=80), st.text(max_size=80))
def test_every_text_comes_out_as_it_went_in(title: str, message: str) -> None:
    note = Note(level="warning", file="a.py", title=title, message=message)
    if re.search(
        r"[\x00-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]", title + message
    ):
        return  # notes_of makes these visible first
    assert commands_in(note.command) == [("warning", {"file": "a.py", "title": title}, message)]


def test_levels_follow_what_pytest_made_of_it() -> None:
    found = notes_of(
        entries(
            result(1, expected="xfailed: known on 1.15.4"),
            result(2, expected="failed: not listed as known on 1.15.4"),
            result(3, result="inconclusive", expected="failed: inconclusive, which is never a pass"),
            result(4, result="not-seen", expected="passed: not seen"),
            result(5, result="not-seen", expected="failed: seems fixed on 1.15.4"),
        )
    )
    assert [(note.level, note.file) for note in found] == [
        ("error", "tests/test_2.py"),
        ("error", "tests/test_5.py"),
        ("warning", "tests/test_3.py"),
        ("notice", "tests/test_1.py"),
    ]


def test_there_is_one_a_scenario_and_never_more_than_nine() -> None:
    many = [result(number, trial=trial, expected="failed: x") for number in range(30) for trial in range(1, 6)]
    found = notes_of(entries(*many, result(99, expected="xfailed: y")))
    assert len(found) == 9
    assert found[-1].title == "and 23 more scenarios"
    assert found[-1].level == "error"
    assert len(notes_of(entries(*many[: 9 * 5]))) == 9
    assert all("more" not in note.title for note in notes_of(entries(*many[: 9 * 5])))
    assert notes_of([]) == ()


# --- the summary ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made: RunDir = sample_run.make_run(tmp_path_factory.mktemp("sample"), trials=3)
    return made


def test_the_summary_has_the_sentence_the_matrix_and_what_reproduced(run: RunDir) -> None:
    text = summary(run.info, entries_in(run))
    assert text.startswith("### 3 of 4 scenarios reproduced on opencode 1.14.48, 1.15.4 and 1.18.34\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows)
    assert r"● 3/3 \(95 % CI 44-100 %\)" in text
    assert r"○ 0/2 +1? \(rules out \> 78 %\)" in text
    assert text.count("<details>") == text.count("</details>") == 4, "three that reproduced, one that is inconclusive"
    assert "first (pid 801) waits for an answer of registry" in text


def test_texts_of_the_subject_are_neither_markup_nor_html() -> None:
    nasty = result(title=NASTY, reason=NASTY, chain=(NASTY,), signature=NASTY, version=NASTY, issue=(NASTY,))
    text = summary(FRAME, entries(nasty))
    outside = re.sub(r"(?s)^(`{3,})\n.*?\n\1$", "", text, flags=re.MULTILINE)
    assert text.count("\n````\n") == 2, "the fence is longer than the longest in the text"
    html = re.findall(r"<[a-z/][^>]*>", outside.replace("\\<", ""))
    assert html == ["<details>", "<summary>", "</summary>", "</details>"]
    assert "&lt;img src=x onerror=a&gt;" in outside
    markdown = [line for line in outside.splitlines() if not line.startswith("<")]  # in HTML it means nothing
    assert not re.search(r"(?<!\\)\]\(http", "\n".join(markdown))
    assert all(line.replace("\\|", "").count("|") == 4 for line in outside.splitlines() if line.startswith("|"))
    assert not re.search("[\x1b\u202e\x85]", text)


def test_a_summary_never_passes_its_limit_and_says_what_had_no_room() -> None:
    many = entries(*(result(number, reason="x" * 1_900, trial=1) for number in range(800)))
    text = summary(FRAME, many)
    assert 800_000 < len(text.encode()) <= SUMMARY_BYTES
    assert re.search(r"_\d+ sections had no room here; the page has all\._\n\Z", text)
    small = summary(FRAME, many, limit_bytes=2_000)
    assert len(small.encode()) <= 2_000
    assert "had no room" in small
    assert "had no room" not in summary(FRAME, many[:3])


def test_what_other_steps_left_takes_room(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    many = entries(*(result(number, reason="x" * 1_900) for number in range(800)))
    file.write_text("y" * 500_000)
    assert append_summary(file, FRAME, many)
    assert file.read_text().startswith("y" * 500_000 + "### ")
    assert file.stat().st_size <= SUMMARY_BYTES
    full = file.stat().st_size
    file.write_text("y" * SUMMARY_BYTES)
    assert not append_summary(file, FRAME, many)
    assert file.stat().st_size == SUMMARY_BYTES > full - 1
    with pytest.raises(BundleError, match="cannot be written"):
        append_summary(tmp_path / "nowhere" / "x", FRAME, many)


def test_what_was_left_out_of_a_merge_is_told() -> None:
    text = summary(msgspec.structs.replace(FRAME, left_out=("a", "b"), parts=(FRAME, FRAME)), entries(result()))
    assert "Not in these numbers: 2 parts of the runs that could not be read." in text
    assert "2 runs merged" in text


# --- the command ------------------------------------------------------------------------------------------------


def ask(run: Path, monkeypatch: pytest.MonkeyPatch, step: Path | None) -> Result:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    if step is not None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    return CliRunner().invoke(main, ["github", str(run)], prog_name="ocrepro")


def test_the_command_adds_the_summary_and_prints_annotations(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "summary.md"
    result = ask(run.path, monkeypatch, file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert file.read_text() == summary(run.info, entries_in(run))
    assert len(commands_in(result.stdout)) == len(result.stdout.splitlines()) == 4


def test_without_a_job_the_command_prints_the_summary_to_look_at(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ask(run.path, monkeypatch, None)
    assert result.stdout == summary(run.info, entries_in(run))
    assert commands_in(result.stdout) == []


def test_a_summary_that_cannot_be_written_is_one_line_and_the_annotations_come(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ask(run.path, monkeypatch, tmp_path / "nowhere" / "summary.md")
    first, *rest = result.stdout.splitlines()
    assert first.startswith("ocrepro: the job summary ")
    assert len(rest) == 4

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_ocrepro.catalogue import catalogue, scenarios_in
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.known import WIDTH, with_known, write_known

SOURCE = '''"""Some scenarios — with a dash that is no ASCII."""

import pytest

ISSUE = "a/b#1"


# a comment that must stay
@pytest.mark.ocrepro(issue=ISSUE, known={"1.14.48": "1/20", "1.15.4": "6/20"})
def test_one(ocrepro):
    """It says known={"1.0.0": "3/3"} in its text."""
    ocrepro.claim("é", held=True, because="x")


@pytest.mark.ocrepro(issue=ISSUE)
def test_two(ocrepro): ...


@pytest.mark.ocrepro(issue=ISSUE, control=True)
def test_control(ocrepro): ...
'''


def rate(text: str) -> Rate:
    k, _, n = text.partition("/")
    return Rate(k=int(k), n=int(n))


def rates(**told: str) -> dict[str, Rate]:
    return {version.replace("_", ".").removeprefix("v"): rate(text) for version, text in told.items()}


def known_of(source: str, test: str) -> dict[str, str]:
    """What Python itself reads in the mark."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == test:
            calls = (one for one in node.decorator_list if isinstance(one, ast.Call))
            (mark,) = (one for one in calls if ast.unparse(one.func).endswith("mark.ocrepro"))
            told = [ast.literal_eval(word.value) for word in mark.keywords if word.arg == "known"]
            return dict(told[0]) if told else {}
    raise AssertionError(test)


def test_new_versions_are_added_in_order_and_nothing_else_is_touched() -> None:
    written = with_known(SOURCE, {"test_one": rates(v1_2_1="5/5", v1_18_34="14/20")})
    assert known_of(written.text, "test_one") == {
        "1.2.1": "5/5", "1.14.48": "1/20", "1.15.4": "6/20", "1.18.34": "14/20",
    }  # fmt: skip
    assert list(known_of(written.text, "test_one")) == ["1.2.1", "1.14.48", "1.15.4", "1.18.34"]
    before, after = SOURCE.splitlines(), written.text.splitlines()
    changed = [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert [before[number][:21] for number in changed] == ["@pytest.mark.ocrepro("]
    assert written.notes == ()


def test_a_mark_without_a_list_gets_one() -> None:
    written = with_known(SOURCE, {"test_two": rates(v1_2_1="5/5")})
    assert '@pytest.mark.ocrepro(issue=ISSUE, known={"1.2.1": "5/5"})\ndef test_two' in written.text
    assert known_of(written.text, "test_one") == known_of(SOURCE, "test_one")


def test_two_marks_in_one_file() -> None:
    written = with_known(SOURCE, {"test_one": rates(v1_2_1="5/5"), "test_two": rates(v1_2_1="6/9")})
    assert known_of(written.text, "test_one")["1.2.1"] == "5/5"
    assert known_of(written.text, "test_two") == {"1.2.1": "6/9"}


@pytest.mark.parametrize(
    ("seen", "kept", "notes"),
    [
        ({"v1_14_48": "30/40"}, "30/40", []),
        ({"v1_14_48": "8/10"}, "1/20", ["test_one on 1.14.48: known 1/20, now 8/10; the longer series was kept"]),
        ({"v1_14_48": "0/40"}, "1/20", ["test_one on 1.14.48: known 1/20, now 0/40; kept, check by hand"]),
        ({"v1_14_48": "4/4"}, "1/20", []),
        ({"v1_15_4": "20/20"}, "1/20", []),
    ],
)
def test_the_longer_series_counts_and_what_speaks_against_it_is_told(
    seen: dict[str, str], kept: str, notes: list[str]
) -> None:
    written = with_known(SOURCE, {"test_one": rates(**seen)})
    assert known_of(written.text, "test_one")["1.14.48"] == kept
    assert list(written.notes) == notes


def test_what_was_not_seen_is_not_written() -> None:
    assert with_known(SOURCE, {"test_two": rates(v1_2_1="0/50"), "test_control": rates(v1_2_1="0/9")}).text == SOURCE
    assert with_known(SOURCE, {"test_three": rates(v1_2_1="5/5")}).text == SOURCE
    assert with_known(SOURCE, {}).text == SOURCE


def test_writing_twice_changes_nothing_more() -> None:
    seen = {"test_one": rates(v1_2_1="5/5"), "test_two": rates(v1_2_1="6/9")}
    once = with_known(SOURCE, seen).text
    assert with_known(once, seen).text == once


def test_a_long_list_is_broken_as_the_formatter_has_it(tmp_path: Path) -> None:
    many = {"test_one": {f"1.{minor}.{patch}": Rate(k=9, n=10) for minor in range(4) for patch in range(4)}}
    few = {"test_two": {f"1.{minor}.0": Rate(k=9, n=10) for minor in range(6)}}
    text = with_known(with_known(SOURCE, many).text, few).text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert len(known_of(text, "test_one")) == 18
    assert len(known_of(text, "test_two")) == 6
    file = tmp_path / "test_long.py"
    file.write_text(text)
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", str(WIDTH), "--diff", str(file)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    if "No module named ruff" not in done.stderr:  # the extra `lint`, which a user's machine need not have
        assert done.stdout == ""
    more = with_known(text, {"test_one": rates(v1_19_0="7/7")}).text
    assert len(known_of(more, "test_one")) == 19


def test_a_short_list_that_stood_on_several_lines_goes_on_doing_so() -> None:
    tall = '@pytest.mark.ocrepro(\n    issue=ISSUE,\n    known={"1.2.0": "5/5"},\n)\ndef test_tall(ocrepro): ...\n'
    written = with_known(tall, {"test_tall": rates(v1_3_0="6/6")}).text
    assert written == tall.replace('"5/5"}', '"5/5", "1.3.0": "6/6"}')


def test_a_list_that_two_marks_share_is_not_written_to() -> None:
    mark = "@pytest.mark.ocrepro(issue=ISSUE, known=KNOWN)"
    shared = f'KNOWN = {{"1.2.0": "5/5"}}\n{mark}\ndef test_a(ocrepro): ...\n{mark}\ndef test_b(ocrepro): ...\n'
    written = with_known(shared, {"test_b": rates(v1_3_0="6/6")}).text
    assert written.startswith(shared.rpartition(mark)[0])
    assert known_of(written, "test_b") == {"1.2.0": "5/5", "1.3.0": "6/6"}


@pytest.mark.parametrize("file", sorted(catalogue().glob("test_*.py")), ids=lambda file: file.name)
def test_the_catalogue_itself_can_be_written(file: Path) -> None:
    tests = [one.test for one in scenarios_in(file)]
    text = with_known(file.read_text(), {test: rates(v1_99_0="5/6") for test in tests}).text
    assert [known_of(text, test)["1.99.0"] for test in tests] == ["5/6"] * len(tests)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def test_one(ocrepro): ...\n", "::test_one has no mark ocrepro"),
        ("@pytest.mark.ocrepro(known=KNOWN)\ndef test_one(ocrepro): ...\n", "is not written out in the mark"),
        ("@pytest.mark.ocrepro(known={1: 2})\ndef test_one(ocrepro): ...\n", "is not written out in the mark"),
        ("def test_one(ocrepro:\n", "is no Python file"),
    ],
)
def test_what_cannot_be_written_into_is_told_and_left(tmp_path: Path, source: str, words: str) -> None:
    file = tmp_path / "test_x.py"
    file.write_text(source)
    with pytest.raises(UsageError, match=words):
        write_known(file, {"test_one": rates(v1_0_0="5/5")})
    assert file.read_text() == source
    with pytest.raises(UsageError, match="cannot be read"):
        write_known(tmp_path / "none.py", {})

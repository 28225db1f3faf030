from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro.cli import main
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.publish.comparison import compare_paths
from pytest_ocrepro.publish.comparison_section import compared, comparison_blocks
from pytest_ocrepro.publish.document import Paragraph, Part, Picture, Sheet
from pytest_ocrepro.publish.page import render
from pytest_ocrepro.publish.pictures.paired import Pair, paired
from tests.data.publish import sample_run

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "</script><img src=x onerror=alert(1)> \x1b[31m\u202e"


def run_of(folder: Path, k: int, n: int, title: str = "a title") -> Path:
    run = RunDir.create(folder)
    info, _, judgement = sample_run.overlap("1.15.4", 1)
    assert judgement is not None
    base: TrialResult = sample_run.result_of(run.path.name, info, judgement, "trials/x")
    for trial in range(n):
        told = {"result": "reproduced"} if trial < k else {"result": "not-seen", "verdict": "completed"}
        run.append_result(
            msgspec.structs.replace(base, title=title, trial=trial + 1, bundle=f"trials/t{trial}", **told)
        )
    return run.path


def test_what_got_worse_is_told_drawn_and_listed(tmp_path: Path) -> None:
    one, two = run_of(tmp_path / "one", 0, 12), run_of(tmp_path / "two", 11, 12)
    blocks = comparison_blocks(compare_paths([one], [two]))
    sentence, picture, table = blocks[0], blocks[-2], blocks[-1]
    assert isinstance(sentence, Paragraph)
    assert "1 worse, 0 better" in str(sentence.text)
    assert isinstance(picture, Picture)
    shown = [node.text for node in ET.fromstring(picture.svg).iter(f"{SVG}text")]  # noqa: S314 - made by us
    assert {"0/12", "11/12", "worse", "a title"} <= set(shown)
    assert isinstance(table, Part)
    assert isinstance(table.blocks[0], Sheet)
    assert table.blocks[0].rows[0][2:4] == (("0/12",), ("11/12",))


def test_the_command_puts_it_on_the_page_and_without_another_set_there_is_no_section(tmp_path: Path) -> None:
    one, two = run_of(tmp_path / "one", 0, 12, NASTY), run_of(tmp_path / "two", 11, 12, NASTY)
    assert 'id="compared"' not in render(RunDir.read(two))
    done = CliRunner().invoke(main, ["report", str(two), "--against", str(one)])
    assert done.exit_code == 0, done.output
    page = (two / "report.html").read_text(encoding="utf-8")
    assert 'id="compared"' in page
    assert "1 worse" in page
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    done = CliRunner().invoke(main, ["report", str(two), "--against", str(tmp_path / "two" / "missing")])
    assert done.exit_code == 2


@pytest.mark.parametrize("rate", [None, (0, 0)])
def test_a_side_without_a_conclusive_trial_has_no_bar(rate: tuple[int, int] | None) -> None:
    pair = Pair(label="x", note="1.0", first=rate, second=(1, 2), told="inconclusive")
    picture = ET.fromstring(paired([pair], "t"))  # noqa: S314 - made by us
    assert "no conclusive trial" in [node.text for node in picture.iter(f"{SVG}text")]
    assert len([*picture.iter(f"{SVG}rect")]) == 1


def test_another_set_that_is_gone_does_not_take_the_page_with_it(tmp_path: Path) -> None:
    (told,) = compared(tmp_path / "gone", RunDir.read(run_of(tmp_path / "one", 1, 2)))
    assert isinstance(told, Paragraph)
    assert "The other run set could not be read: there is no run in" in str(told.text)

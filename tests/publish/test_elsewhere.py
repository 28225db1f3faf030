from __future__ import annotations

import gzip
import shlex
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.publish import ctrf, trace
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.elsewhere import command, replayed
from pytest_ocrepro.publish.github import summary
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.page import write_report
from tests.data.publish import sample_run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ocrepro-binary=/home/ann/builds/opencode"], ["--ocrepro-binary=PATH/opencode"]),
        (["--ocrepro-binary=/a b/x/opencode"], ["--ocrepro-binary=PATH/opencode"]),
        (["--ocrepro-reports", "/tmp/r/"], ["--ocrepro-reports", "PATH/r"]),
        (["/srv/jobs/test_x.py::test[1 2/3]"], ["PATH/test_x.py::test[1 2/3]"]),
        (["scenarios/test_x.py::test[1.18.34]"], ["scenarios/test_x.py::test[1.18.34]"]),
        (["--ocrepro-version", "1.18.34", "-k", "a or b"], ["--ocrepro-version", "1.18.34", "-k", "a or b"]),
        (["--ocrepro-schedule=start 2 0 s after start 1"], ["--ocrepro-schedule=start 2 0 s after start 1"]),
        (["$PROJECT/scenarios"], ["$PROJECT/scenarios"]),
    ],
)
def test_no_place_of_this_machine_is_told_and_all_else_is(words: list[str], told: list[str]) -> None:
    assert shlex.split(command(words)) == told
    assert shlex.split(replayed(shlex.join(words))) == told


@pytest.mark.parametrize("line", ["", "pytest 'torn", "pytest  --ocrepro   x", "ocrepro dump --pid 7"])
def test_a_line_without_a_place_is_told_as_it_is(line: str) -> None:
    assert replayed(line) == line


def test_no_replay_line_that_leaves_the_machine_names_a_place_of_it(tmp_path: Path) -> None:
    info, events, judgement = sample_run.overlap("1.15.4", 1)
    line = "pytest --ocrepro --ocrepro-binary=/srv/ann/opencode --ocrepro-seed 7 /srv/ann/test_x.py::test"
    run = RunDir.create(tmp_path)
    path = sample_run.store(run, (msgspec.structs.replace(info, replay=line), events, judgement))
    page, job = write_report(run).read_text(), summary(run.info, entries_in(run))
    dashboard = ctrf.encode(run.info, entries_in(run)).decode()
    perfetto = gzip.decompress(trace.encode(TrialBundle.read(path))).decode()
    issues = [issue.read_text() for issue in (run.path / "issues").glob("*.md")]
    assert issues
    for text in (page, job, dashboard, perfetto, *issues):
        assert "PATH/opencode" in text
        assert "/srv/ann" not in text

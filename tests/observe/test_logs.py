from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.history import History
from pytest_ocrepro.observe.logs import LogTailer, parse_line, rank, written_at
from pytest_ocrepro.observe.portable import PortableReader
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import MILESTONES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_ocrepro.readings import LogTail

DATA = Path(__file__).parent.parent / "data" / "observe" / "logs"
CASES = sorted(DATA.glob("*.log"))


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_milestones_of_real_logs(case: Path) -> None:
    """``<case>.milestones`` lists, in the order in which they are first seen, what ``<case>.log`` reaches."""
    lines = [parse_line(text) for text in case.read_text().splitlines()]
    reached = dict.fromkeys(line.milestone for line in lines if line.milestone)
    assert list(reached) == case.with_suffix(".milestones").read_text().split()
    assert all(line.level and line.message for line in lines)


def test_there_is_a_real_log_of_every_dialect() -> None:
    assert {case.stem.partition("-")[0] for case in CASES} >= {"1.14.48", "1.15.4", "1.18.34"}


def test_the_older_dialect() -> None:
    line = parse_line("INFO  2026-11-20T23:21:56 +0ms service=plugin name=X loading internal plugin")
    assert (line.level, line.service, line.message) == ("INFO", "plugin", "loading internal plugin")
    assert (line.run, line.milestone) == ("", "plugins-loading")


def test_a_value_with_spaces_does_not_end_in_the_message() -> None:
    text = "INFO  2026-11-21T00:43:10 +36ms service=session id=ses_e title=New session - 2026 time={} created"
    assert (parse_line(text).message, parse_line(text).milestone) == ("created", "session-created")


def test_the_newer_dialect() -> None:
    line = parse_line(
        'timestamp=2026-11-21T00:43:14.128Z level=INFO run=58cf0712 message="creating instance" directory=/p'
    )
    assert (line.level, line.run, line.message) == ("INFO", "58cf0712", "creating instance")
    assert (line.service, line.milestone) == ("", "instance-created")
    quoted = parse_line('timestamp=2026Z level=ERROR run=1 message="a \\"b\\" c\\n" cause="x=y message=z"')
    assert (quoted.level, quoted.message) == ("ERROR", 'a "b" c\n')


@pytest.mark.parametrize(
    ("fields", "milestone"),
    [
        ("message=loop session.id=ses_1 step=0", "turn-started"),
        ("message=loop session.id=ses_1 step=2", "model-answered"),
        ("message=stream modelID=m1 small=true", ""),
        ("message=stream modelID=m1 small=false", "model-asked"),
        ("message=created id=pty_1", ""),
        ("message=loading", ""),
        ("message=loading path=/p", "config-loading"),
        ('message="enabled LSP servers" serverIds=x', "services-started"),
        ("message=init", ""),
    ],
)
def test_words_that_need_their_fields(fields: str, milestone: str) -> None:
    assert parse_line(f"timestamp=2026-11-21T00:43:14.128Z level=INFO run=1 {fields}").milestone == milestone


@pytest.mark.parametrize(
    "text", ["", " ", "INFO", "INFO  2026-11-20T23:21:56", "    at Object.<anonymous>", "\0\0", "x=" * 10_000]
)
def test_rubbish_is_kept_as_text(text: str) -> None:
    line = parse_line(text)
    assert (line.text, line.level, line.milestone) == (text[:2000], "", "")


@given(st.text(max_size=120), st.sampled_from(CASES), st.data())
def test_no_line_makes_it_raise(garbage: str, case: Path, data: st.DataObject) -> None:
    real = data.draw(st.sampled_from(case.read_text().splitlines()))
    at = data.draw(st.integers(0, len(real)))
    for text in (garbage, real[:at] + garbage + real[at:]):
        assert parse_line(text).milestone in ("", *MILESTONES)


def test_ranks_follow_the_order_of_milestones() -> None:
    assert rank("") < rank("started") < rank("plugins-loading") < rank("ended")


# --- following files

WRITER = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print('ready', flush=True)
for line in sys.stdin:
    os.write(log, line.encode())
    print('written', flush=True)
"""


class Writer:
    """A stand-in that has a log open and appends what it is told."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.pid = child.pid

    def write(self, line: str) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline().strip() == "written"


@contextmanager
def writer(path: Path) -> Iterator[Writer]:
    path.parent.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield Writer(child)
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "opencode" / "log"


def modern(run: str, message: str = "bootstrapping", **fields: str) -> str:
    rest = "".join(f" {key}={value}" for key, value in fields.items())
    return f"timestamp=2026-11-21T00:43:14.128Z level=INFO run={run} message={message}{rest}"


def by_pid(tails: tuple[LogTail, ...]) -> dict[int | None, LogTail]:
    return {tail.pid: tail for tail in tails}


def test_two_processes_that_share_a_log_are_told_apart(folder: Path) -> None:
    tailer = LogTailer(Reader())
    path = folder / "opencode.log"
    with writer(path) as one, writer(path) as two:
        one.write(modern("aaaa", "bootstrapping"))
        two.write(modern("bbbb", "loading", path="/p"))
        one.write(modern("aaaa", "interlude"))
        tails = by_pid(tailer.poll([folder], [two.pid, one.pid]))
        two.write(modern("bbbb", "created", id="ses_1"))
        later = by_pid(tailer.poll([folder], [two.pid, one.pid]))
    assert set(tails) == {one.pid, two.pid}
    assert [line.message for line in tails[one.pid].lines] == ["bootstrapping", "interlude"]
    assert (tails[one.pid].milestone, tails[two.pid].milestone) == ("bootstrapping", "config-loading")
    assert later[two.pid].milestone == "session-created"
    assert later[one.pid] == tails[one.pid]
    assert [line.milestone for line in tailer.reached(two.pid)] == ["config-loading", "session-created"]


def test_what_is_learned_outlives_the_process(folder: Path) -> None:
    tailer = LogTailer(Reader())
    with writer(folder / "opencode.log") as one:
        one.write(modern("aaaa"))
        tailer.poll([folder], [one.pid])
        one.write(modern("aaaa", "created", id="ses_1"))
    assert by_pid(tailer.poll([folder], [one.pid]))[one.pid].milestone == "session-created"


def test_a_run_that_was_never_seen_alive_is_nobody_s(folder: Path) -> None:
    with writer(folder / "opencode.log") as one:
        one.write(modern("aaaa"))
    (tail,) = LogTailer(Reader()).poll([folder], [one.pid])
    assert (tail.pid, tail.milestone) == (None, "bootstrapping")


def test_a_process_that_has_logged_nothing_is_not_guessed(folder: Path) -> None:
    with writer(folder / "opencode.log") as one, writer(folder / "opencode.log") as silent:
        one.write(modern("aaaa"))
        assert set(by_pid(LogTailer(Reader()).poll([folder], [silent.pid, one.pid]))) == {one.pid}


def test_a_log_of_one_s_own(folder: Path) -> None:
    tailer = LogTailer(Reader())
    legacy = "INFO  2026-11-20T23:21:56 +0ms service=default bootstrapping [object Object]"
    with writer(folder / "2026-11-20T232156.log") as one, writer(folder / "2026-11-20T232157.log") as two:
        one.write(legacy)
        one.write("a second line of the same message")
        two.write(legacy.replace("bootstrapping", "creating instance"))
        tails = by_pid(tailer.poll([folder], [one.pid, two.pid]))
        assert {pid: (tail.milestone, len(tail.lines)) for pid, tail in tails.items()} == {
            one.pid: ("bootstrapping", 2),
            two.pid: ("instance-created", 1),
        }
        assert tailer.log_bytes(one.pid) == (folder / "2026-11-20T232156.log").stat().st_size


def test_a_line_that_is_not_complete_is_not_a_line_yet(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "opencode.log"
    tailer = LogTailer(Reader())
    path.write_text(modern("aaaa") + "\n" + modern("aaaa", "created")[:-3])
    assert [len(tail.lines) for tail in tailer.poll([folder], [])] == [1]
    with path.open("a") as file:
        file.write("ted id=ses_1\n")
    assert [tail.lines[-1].milestone for tail in tailer.poll([folder], [])] == ["session-created"]


def test_a_log_that_was_cut_is_begun_anew(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "opencode.log"
    tailer = LogTailer(Reader())
    path.write_text((modern("aaaa") + "\n") * 5)
    tailer.poll([folder], [])
    path.write_text(modern("bbbb") + "\n")
    assert {tail.lines[-1].run: len(tail.lines) for tail in tailer.poll([folder], [])} == {"aaaa": 5, "bbbb": 1}


def test_a_huge_log_is_not_read_whole(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "opencode.log"
    path.touch()
    os.truncate(path, 5 << 30)  # a hole: 5 GB without a block on disk
    with path.open("a") as file:
        file.write("\n" + modern("aaaa", "created", id="ses_1") + "\n")
    tailer = LogTailer(Reader())
    (tail,) = tailer.poll([folder], [])
    assert tail.milestone == "session-created"
    assert tail.size_bytes < 1000, "the megabyte of zeros before it is nobody's line"
    os.truncate(path, 6 << 30)
    with path.open("a") as file:
        file.write("\n" + modern("aaaa", "loop", step="0") + "\n")
    (tail,) = tailer.poll([folder], [])
    assert tail.milestone == "turn-started", "a flood between two looks is skipped"


def test_memory_is_bounded(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "opencode.log").write_text(
        (modern("aaaa") + "\n") * 2000 + "".join(modern(str(n)) + "\n" for n in range(99))
    )
    tailer = LogTailer(Reader(), shown_lines=10_000)
    tails = tailer.poll([folder], [])
    assert len(tails) == 64
    (folder / "2026.log").write_text("x\n" * 2000)
    with writer(folder / "2026.log") as one:
        assert len(by_pid(tailer.poll([folder], [one.pid]))[one.pid].lines) == 400
        assert len(by_pid(LogTailer(Reader()).poll([folder], [one.pid]))[one.pid].lines) == 100


@given(data=st.binary(max_size=2000))
def test_no_bytes_make_it_raise(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "rubbish" / "opencode" / "log"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("opencode.log", "2026.log"):
        (folder / name).write_bytes(data + b"\n" + modern("aaaa").encode() + b"\n")
    tails = LogTailer(Reader()).poll([folder, folder / "absent"], [])
    assert "bootstrapping" in {tail.milestone for tail in tails}


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("timestamp=2026-11-21T09:21:09.243Z level=INFO run=76b8d5ae message=loading", 1795252869.243),
        ("INFO  2026-11-20T23:21:56 +0ms service=plugin loading internal plugin", 1795216916.0),
        ("ERROR 2026-11-20T23:21:56 +12ms service=x failed", 1795216916.0),
        ("    at 2026-11-20T23:21:56 of a second line", None),
        ("timestamp=2026-99-20T23:21:56Z level=INFO", None),
        ("timestamp=" + "9" * 5000, None),
        ("", None),
    ],
)
def test_when_a_line_was_written(text: str, at: float | None) -> None:
    assert written_at(text) == at


SECRET = "0123456789abcdefghij-the-secret-itself-KLMNOPQRSTUVWXYZ"


def halves() -> list[str]:
    return [SECRET[:length] for length in range(8, len(SECRET))] + [
        SECRET[-length:] for length in range(8, len(SECRET))
    ]


@pytest.mark.parametrize("at", [100, 1950, 1980, 1992, 2000, 7980, 26_500])
def test_a_long_line_is_cut_behind_the_gate(folder: Path, at: int) -> None:
    history = History(gate=lambda text: text.replace(SECRET, "*"))
    folder.mkdir(parents=True)
    before = "x" * (at - len(modern("aaaa", "")))
    (folder / "opencode.log").write_text(modern("aaaa", before + SECRET + "y" * 40_000) + "\n")
    (tail,) = LogTailer(Reader(), excerpt=history.excerpt).poll([folder], [])
    (line,) = tail.lines
    assert len(line.text) == 2000
    assert not [half for half in halves() if half in line.text + line.message]


def test_the_rest_of_a_line_whose_beginning_was_skipped_is_not_shown(folder: Path) -> None:
    """It could begin in the middle of a secret, which no gate would know."""
    folder.mkdir(parents=True)
    path = folder / "2026.log"
    growing = LogTailer(Reader())
    with writer(path) as one, path.open("a") as file:
        one.write("first")
        growing.poll([folder], [one.pid])
        file.write("x" * (1 << 20) + SECRET[:20])
        file.flush()
        for _ in range(3):
            growing.poll([folder], [one.pid])
        file.write(SECRET[20:] + "x" * 100 + "\nlast\n")
        file.flush()
        for _ in range(3):
            (seen,) = growing.poll([folder], [one.pid])
        (late,) = LogTailer(Reader()).poll([folder], [one.pid])
        file.write("x" * (9 << 20) + SECRET + "y" * ((1 << 20) - 30) + "\nafter the flood\n")
        file.flush()
        for _ in range(3):
            (flooded,) = growing.poll([folder], [one.pid])
    assert [line.text for line in seen.lines] == ["first", "last"]
    assert [line.text for line in late.lines] == ["last"]
    assert [line.text for line in flooded.lines] == ["first", "last", "after the flood"]


def test_a_system_that_tells_no_position_knows_the_writer_of_a_log_of_its_own_alone(folder: Path) -> None:
    tailer = LogTailer(PortableReader())
    with writer(folder / "2026.log") as own, writer(folder / "opencode.log") as shared:
        own.write("its own")
        shared.write(modern("aaaa"))
        tails = tailer.poll([folder], [own.pid, shared.pid])
    assert {(Path(tail.path).name, tail.pid) for tail in tails} == {("2026.log", own.pid), ("opencode.log", None)}
    assert tailer.log_bytes(own.pid) > 0
    assert tailer.last(shared.pid) is None

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.versions.journal import (
    AnyRecord,
    Chosen,
    Fetched,
    Journal,
    Opened,
    Plan,
    Skipped,
    Tried,
    read_journal,
    trials_of,
)

PLAN = Plan(kind="bisect", scenarios=("s.py::test",), versions=("1.0.0", "1.1.0"))
RECORDS: tuple[AnyRecord, ...] = (
    Opened(tool="0.1.0", wall="2026-11-21T00:00:00+00:00"),
    Fetched(version="1.1.0", sha256="ab", seconds=2.5),
    Skipped(version="1.0.0", reason="not published"),
    Chosen(batch=1, phase="calibrate", trials=(("s.py::test", "1.1.0", 7),)),
    Tried(batch=1, phase="calibrate", scenario="s.py::test", version="1.1.0", seed=7, result="reproduced",
          signs=("oc-1 blocked", "database-error: locked"), seconds=3.25, load=0.5),
)  # fmt: skip


def written(path: Path) -> bytes:
    with Journal(path) as journal:
        for record in (PLAN, *RECORDS):
            journal.append(record)
    return path.read_bytes()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "folder/journal.jsonl"
    assert written(path).count(b"\n") == 1 + len(RECORDS)
    with Journal(path) as journal:
        assert journal.records == [PLAN, *RECORDS]
        assert journal.plan == PLAN
        assert journal.read.warnings("j") == []


def test_each_record_is_on_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    size = len(written(tmp_path / "j"))
    assert len(synced) == 1 + len(RECORDS)
    assert synced == sorted(set(synced))
    assert synced[-1] == size


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(min_value=0))
def test_cut_anywhere_it_holds_the_whole_lines_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j"
    content = written(path)
    kept = content[: cut % len(content)]
    path.write_bytes(kept)
    everything: list[AnyRecord] = [PLAN, *RECORDS]
    whole = kept.count(b"\n")
    with Journal(path) as journal:
        assert journal.records == everything[:whole]
        assert journal.read.torn == (not kept.endswith(b"\n") and kept != b"")
        assert len(journal.read.warnings("j")) == journal.read.torn
        for record in everything[whole:]:
            journal.append(record)
    assert path.read_bytes() == content


def test_an_edited_line_is_told_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = written(path).splitlines(keepends=True)
    lines[5] = lines[5].replace(b'"reproduced"', b'"not-seen"')
    path.write_bytes(b"".join(lines))
    read = read_journal(path)
    assert read.edited == (6,)
    assert [one.result for one in trials_of(read.records)] == ["not-seen"]
    assert read.warnings("j") == ["j: edited by hand (lines 6); what they say counts"]


def test_a_line_that_was_taken_out_is_told(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert read_journal(path).edited == (3,)


def test_a_journal_of_another_version_is_refused_whatever_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(json.dumps({"check": "x", "data": {"record": "plan", "schema": 9, "shape": [1]}}) + "\n")
    with pytest.raises(UsageError, match=r"is of another version of pytest-ocrepro \(schema 9, this one writes 1\)"):
        Journal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello\n", "is not a journal"),
        (b"\x00\xff\n", "is not a journal"),
        (b'{"check":"x"}\n', "is not a journal"),
        (b"[" * 100_000 + b"\n", "is not a journal"),
        (b'{"check":"x","data":{"record":"opened"}}\n', "line 1: a journal has its plan in line 1 and nowhere else"),
        (b'{"check":"x","data":{"record":"plan","kind":"bisect","scenarios":[],"versions":[]}}\nhello\n',
         "line 2 is no record of a journal"),
    ],
)  # fmt: skip
def test_what_is_no_journal_is_refused_in_one_line_and_left_as_it_was(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        Journal(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(UsageError, match="another process writes"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def test_a_directory_and_a_device_are_no_journals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        Journal(tmp_path)
    with pytest.raises(UsageError, match="is no journal"):
        read_journal(Path("/dev/zero"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_journal(tmp_path / "none")


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(PLAN)
        before = path.read_bytes()
        write = os.write

        def full(fd: int, data: bytes) -> int:
            if path.stat().st_size > len(before):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data[:10])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UsageError, match=r"No space left on device\): free space and go on with --resume"):
            journal.append(RECORDS[0])
        monkeypatch.undo()
        assert path.read_bytes() == before
        journal.append(RECORDS[0])
    assert read_journal(path).edited == ()
    assert read_journal(path).records == (PLAN, RECORDS[0])

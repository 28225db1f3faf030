from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ocrepro.publish import evidence
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.counting import Entry, place
from pytest_ocrepro.publish.evidence import Evidence, gather
from pytest_ocrepro.publish.packing import ON_THE_PAGE
from pytest_ocrepro.publish.trial_view import View, view_of
from tests.data.publish import sample_run


def entries(tmp_path: Path, *cases: sample_run.Case) -> list[Entry]:
    run = RunDir.create(tmp_path)
    found = []
    for case in cases:
        path = sample_run.store(run, case)
        info, result, _ = TrialBundle.peek(path)
        assert result is not None
        found.append(Entry(result=result, info=info, path=path))
    return sorted(found, key=place)


def read(entry: Entry) -> View:
    assert entry.path is not None
    return view_of(entry, TrialBundle.read(entry.path))


def drawn(found: Evidence) -> list[str]:
    return [anchor for anchor, (chunk, _) in found.where.items() if chunk == ON_THE_PAGE]


def test_all_that_reproduced_is_kept_and_three_of_the_others(tmp_path: Path) -> None:
    cases = [case("1.15.4", n) for n in range(1, 9) for case in (sample_run.overlap, sample_run.alone)]
    found = gather(entries(tmp_path, *cases), read, None)
    assert len(drawn(found)) == len(found.drawn) == 2
    assert found.kept == 8 + 3
    assert (found.like_others, found.no_room) == (5, 0)
    assert found.left_out.endswith("have 5 trials like others that did not reproduce.")


def test_the_clearest_is_drawn_open_whichever_it_is(tmp_path: Path) -> None:
    listed = entries(tmp_path, *(sample_run.overlap("1.15.4", n) for n in range(1, 4)))
    found = gather(listed, read, listed[2])
    assert drawn(found) == [listed[2].anchor]
    assert " open>" in found.drawn[0].partition("\n")[0]
    assert " open>" not in gather(listed, read, None).drawn[0].partition("\n")[0]


def test_where_there_is_no_room_every_group_gets_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = ("1.14.48", "1.15.4")
    listed = entries(tmp_path, *(sample_run.overlap(v, n) for v in versions for n in range(1, 40)))
    monkeypatch.setattr(evidence, "PACKED_CHARACTERS", 60_000)
    found = gather(listed, read, None)
    assert sum(map(len, found.chunks)) < 60_000
    kept = [sum(v in anchor for anchor in found.where) for v in versions]
    assert min(kept) > 3
    assert sum(kept) + found.no_room == 78
    assert found.no_room > 10
    assert f"{found.no_room} trials for which there was no room" in found.left_out


def test_what_is_not_drawn_for_its_size_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "DRAWN_CHARACTERS", 50_000)
    listed = entries(tmp_path, *(sample_run.overlap(f"1.15.{n}", 1) for n in range(6)))
    found = gather(listed, read, listed[5])
    assert found.kept == 6
    assert 2 <= len(found.drawn) <= 4
    assert listed[5].anchor in drawn(found)


def test_a_bundle_that_cannot_be_read_is_nowhere_and_the_next_is_drawn(tmp_path: Path) -> None:
    listed = entries(tmp_path, *(sample_run.overlap("1.15.4", n) for n in (1, 2, 3)))
    found = gather(listed, lambda entry: None if entry is listed[0] else read(entry), None)
    assert found.where == {listed[1].anchor: (ON_THE_PAGE, 0), listed[2].anchor: (0, 0)}
    assert found.anchors == {listed[1].anchor}

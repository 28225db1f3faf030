from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_ocrepro.versions.certificate import Certificate, certify
from pytest_ocrepro.versions.journal import Fetched, Opened, Plan, Tried, read_journal
from pytest_ocrepro.versions.search import Why
from tests.data.versions import coin_subject as cs


def certified(path: Path, world: cs.World, plan: Plan | None = None, **limits: Any) -> Certificate:
    _, why = cs.search(path, world, plan, **limits)
    return certify(read_journal(path).records, why)


def test_a_found_build_is_named_with_fresh_rates_of_both_sides(tmp_path: Path) -> None:
    told = certified(tmp_path / "j", cs.World())
    assert (told.why, told.named, told.exit_code) == (Why.FOUND, True, 0)
    assert told.answers[0].suspects == ("1.4.2",)
    failing, clean = told.sides
    assert (failing.version, clean.version) == ("1.4.2", "1.4.1")
    assert failing.fresh.n == clean.fresh.n >= 8
    assert failing.whole.n >= failing.fresh.n
    assert told.p is not None
    assert told.p < 0.05
    assert told.compare == "https://github.com/anomalyco/opencode/compare/v1.4.1...v1.4.2"
    assert told.downloads == len({row.version for row in told.tallies if row.rate.n})


def test_a_fix_is_told_in_release_order(tmp_path: Path) -> None:
    mirrored = cs.World(versions=cs.VERSIONS[::-1], first="1.3.0")
    plan = msgspec.structs.replace(mirrored.plan(), versions=cs.VERSIONS, find_fix=True)
    told = certified(tmp_path / "j", mirrored, plan)
    assert told.answers[0].suspects == ("1.3.1",)
    assert told.compare.endswith("v1.3.0...v1.3.1")
    assert [row.version for row in told.tallies] == list(cs.VERSIONS)


def test_builds_that_no_trial_can_tell_apart_are_a_set_and_no_name(tmp_path: Path) -> None:
    told = certified(tmp_path / "j", cs.World(unfit=("1.4.1", "1.4.2")))
    assert (told.why, told.named) == (Why.FOUND, False)
    assert told.answers[0].suspects == ("1.4.1", "1.4.2", "1.4.3")
    plan = msgspec.structs.replace(cs.World().plan(), find_fix=True)
    mirrored = cs.World(versions=cs.VERSIONS[::-1], first="1.3.0", unfit=("1.3.1", "1.3.2"))
    told = certified(tmp_path / "k", mirrored, plan)
    assert told.answers[0].suspects == ("1.3.1", "1.3.2", "1.3.3")


def test_before_the_evidence_reaches_there_is_a_set_and_no_name(tmp_path: Path) -> None:
    told = certified(tmp_path / "j", cs.World(), most_trials=9)
    assert (told.why, told.named, told.exit_code) == (Why.BUDGET, False, 1)
    assert len(told.answers) > 1
    assert sum(one.probability for one in told.answers) >= told.confidence
    assert "1.4.2" in {version for one in told.answers for version in one.suspects}


@pytest.mark.parametrize(
    ("world", "why", "code"),
    [
        (cs.World(p=0.0), Why.NEVER, 1),
        (cs.World(first="1.0.0"), Why.ALWAYS, 1),
        (cs.World(broken=cs.VERSIONS), Why.TROUBLE, 3),
        (cs.World(unfit=cs.VERSIONS), Why.NOTHING_LEFT, 1),
    ],
)
def test_without_an_answer_nothing_is_named(tmp_path: Path, world: cs.World, why: Why, code: int) -> None:
    told = certified(tmp_path / "j", world)
    assert (told.why, told.named, told.exit_code) == (why, False, code)
    assert told.compare == ""


def test_two_stretches_are_both_told(tmp_path: Path) -> None:
    class TwoStretches(cs.World, frozen=True, kw_only=True):
        def present(self, version: str) -> bool:
            return 8 <= self.versions.index(version) < 20 or self.versions.index(version) >= 30

    plan = TwoStretches().plan(monotone=False)
    told = certified(tmp_path / "j", TwoStretches(p=0.95), plan)
    assert told.answers[0].suspects == (cs.VERSIONS[30],)
    assert told.not_monotone > 0.5
    assert [one.failing for one in told.transitions][-1] == cs.VERSIONS[30]
    assert len(told.transitions) >= 2


def test_each_sign_is_asked_for_alone(tmp_path: Path) -> None:
    class TwoFaults(cs.World, frozen=True, kw_only=True):
        """Locked from 1.4.2 on; from 1.6.0 on malformed too."""

        def trial(self, version: str, seed: int) -> Tried:
            tried = cs.World.trial(self, version, seed)
            late = self.versions.index(version) >= self.versions.index("1.6.0")
            more = ("database-error: malformed",) if late else ()
            signs = (*tried.signs, "database-error: locked", *more) if tried.signs else ()
            return msgspec.structs.replace(tried, signs=signs)

    told = certified(tmp_path / "j", TwoFaults(p=0.95), TwoFaults().plan(signature="any"))
    by_sign = {sign: found for sign, found, _ in told.by_sign}
    assert by_sign["database-error: locked"][0].suspects == ("1.4.2",)
    suspects = {version for one in by_sign["database-error: malformed"] for version in one.suspects}
    assert "1.6.0" in suspects
    assert "1.4.2" not in suspects


def test_signs_that_always_come_together_are_told_once(tmp_path: Path) -> None:
    assert certified(tmp_path / "j", cs.World(signs=(cs.OURS, "database-error: locked"))).by_sign == ()


def test_a_change_between_two_copies_of_one_file_is_a_contradiction(tmp_path: Path) -> None:
    """1.4.1 and 1.4.3 are one file, between them lies one that cannot be had: they cannot differ."""
    cs.search(tmp_path / "j", cs.World(unfit=("1.4.2",), twins=(("1.4.1", "1.4.3"),)))
    told = certify(read_journal(tmp_path / "j").records, Why.FOUND)
    assert told.same_bytes
    assert not told.named


def test_the_machine_and_the_edits_are_told() -> None:
    plan = cs.World().plan()
    tried = [msgspec.structs.replace(cs.World().trial("1.7.4", seed), batch=seed + 1, phase="calibrate", load=load)
             for seed, load in ((0, 0.5), (1, 7.25))]  # fmt: skip
    told = certify(
        [plan, Opened(), Fetched(version="1.7.4", sha256="a", seconds=60.0), *tried], Why.BUDGET, edited=(4,)
    )
    assert told.load == (0.5, 7.25)
    assert told.edited == (4,)
    assert told.seconds == 70.0

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from pytest_ocrepro.cli import main
from pytest_ocrepro.judge.rates import fisher, newcombe
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.publish.comparison import Comparison, Direction, compare_paths
from pytest_ocrepro.publish.comparison_words import in_markdown, in_text
from tests.data.publish import sample_run

NASTY = "a|b <img src=x> `c` [d](http://e.example) \x1b[31m\u202e\n::error ::f"


def results(scenario: str, version: str, *, k: int, n: int, **fields: object) -> list[TrialResult]:
    """``k`` of ``n`` reproduced; ``fields`` are of the reproduced ones."""
    info, _, judgement = sample_run.overlap(version, 1)
    assert judgement is not None
    base = sample_run.result_of("r", info, judgement, "trials/x")
    base = msgspec.structs.replace(base, scenario=scenario, title=scenario.rpartition("::")[2])
    bad = {"verdict": "blocked", "signature": "oc-1", "seconds_to_verdict": 8.0, **fields}
    good = {"result": "not-seen", "verdict": "completed", "signature": "", "seconds_to_verdict": 2.0, "findings": ()}
    return [msgspec.structs.replace(base, trial=t + 1, **(bad if t < k else good)) for t in range(n)]


def run_of(folder: Path, *groups: list[TrialResult]) -> Path:
    run = RunDir.create(folder)
    for number, result in enumerate(result for group in groups for result in group):
        run.append_result(msgspec.structs.replace(result, run_id=run.path.name, bundle=f"trials/t{number}"))
    return run.path


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["diff", *map(str, arguments)], prog_name="ocrepro")


def directions(found: Comparison) -> dict[str, str]:
    return {change.title: str(change.direction) for change in found.changes}


def test_a_rate_that_rose_beyond_chance_is_worse_and_the_command_says_no(tmp_path: Path) -> None:
    one = run_of(
        tmp_path / "one", results("a.py::rose", "1.0.0", k=1, n=20), results("a.py::same", "1.0.0", k=5, n=20)
    )
    two = run_of(
        tmp_path / "two", results("a.py::rose", "1.0.0", k=14, n=20), results("a.py::same", "1.0.0", k=6, n=20)
    )
    result = ask(one, two)
    assert (result.exit_code, result.stderr) == (1, "")
    rose, same = (line for line in result.stdout.splitlines() if line.startswith(("rose", "same")))
    assert rose.split()[1:4] == ["1.0.0", "1/20", "14/20"]
    assert rose.endswith("worse")
    assert same.endswith("not told apart")
    assert "Of 2 pairs of rates 1 worse, 0 better, 1 not told apart" in result.stdout
    back = ask(two, one)
    assert back.exit_code == 0
    assert "0 worse, 1 better" in back.stdout


def test_the_numbers_are_those_of_rates(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=2, n=12))
    two = run_of(tmp_path / "two", results("a.py::t", "1.0.0", k=9, n=15))
    (change,) = compare_paths([one], [two]).changes
    assert change.difference == pytest.approx(9 / 15 - 2 / 12)
    assert change.interval == newcombe(9, 15, 2, 12)
    assert change.p == change.adjusted == fisher(2, 12, 9, 15)


def test_one_small_p_among_many_is_what_chance_makes(tmp_path: Path) -> None:
    """The same pair of rates is told apart alone, and not as one of twenty."""
    pair = (results("a.py::t0", "1.0.0", k=0, n=8), results("a.py::t0", "1.0.0", k=5, n=8))
    alone = compare_paths([run_of(tmp_path / "a", pair[0])], [run_of(tmp_path / "b", pair[1])])
    assert directions(alone) == {"t0": "worse"}
    others = [results(f"a.py::t{number}", "1.0.0", k=4, n=8) for number in range(1, 20)]
    among = compare_paths([run_of(tmp_path / "c", pair[0], *others)], [run_of(tmp_path / "d", pair[1], *others)])
    assert set(directions(among).values()) == {"not told apart"}
    (found,) = (change for change in among.changes if change.title == "t0")
    assert found.p == alone.changes[0].p
    assert found.adjusted == pytest.approx(min(1.0, 20 * (found.p or 0)))


def test_too_few_trials_to_tell_anything_are_told(tmp_path: Path) -> None:
    few = compare_paths(
        [run_of(tmp_path / "a", results("a.py::t", "1.0.0", k=0, n=3))],
        [run_of(tmp_path / "b", results("a.py::t", "1.0.0", k=3, n=3))],
    )
    assert "; 1 of them with too few trials to tell even none from all (" in few.headline
    enough = compare_paths(
        [run_of(tmp_path / "c", results("a.py::t", "1.0.0", k=0, n=4))],
        [run_of(tmp_path / "d", results("a.py::t", "1.0.0", k=4, n=4))],
    )
    assert "too few" not in enough.headline
    assert directions(enough) == {"t": "worse"}


def test_what_is_not_on_both_sides_or_not_conclusive_is_never_a_change(tmp_path: Path) -> None:
    lost = [msgspec.structs.replace(r, result="inconclusive") for r in results("a.py::lost", "1.0.0", k=9, n=9)]
    old = results("a.py::old", "1.0.0", k=9, n=9)
    new = results("a.py::new", "1.0.0", k=9, n=9)
    one = run_of(tmp_path / "one", old, results("a.py::lost", "1.0.0", k=0, n=9))
    found = compare_paths([one], [run_of(tmp_path / "two", new, lost)])
    assert directions(found) == {"old": "only in the first", "new": "only in the second", "lost": "inconclusive"}
    assert not found.worse
    assert found.headline == "Nothing to compare: no scenario has conclusive trials on both sides"
    assert "0/0 +9?" in in_text(found)


def test_verdicts_signatures_times_and_builds_that_changed_are_told(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=4, n=4))
    after = results("a.py::t", "1.0.0", k=4, n=4, verdict="livelock", signature="oc-2", seconds_to_verdict=3.0)
    two = run_of(tmp_path / "two", [msgspec.structs.replace(r, binary_sha256="b" * 64) for r in after])
    (change,) = compare_paths([one], [two]).changes
    assert change.direction is Direction.NOT_TOLD_APART
    assert set(change.remarks) == {
        "another build of the same version: 9f3a1c000000 → bbbbbbbbbbbb",
        "verdict gone: blocked (4)",
        "verdict new: livelock (4)",
        "signature gone: oc-1 (4)",
        "signature new: oc-2 (4)",
        "median time to the verdict: 8.0 s → 3.0 s",
    }


def test_versions_are_compared_each_with_itself_or_across(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", *(results("a.py::t", version, k=0, n=10) for version in ("1.9.0", "1.10.0")))
    two = run_of(tmp_path / "two", *(results("a.py::t", version, k=9, n=10) for version in ("1.10.0", "1.11.0")))
    assert [change.version for change in compare_paths([one], [two]).changes] == ["1.10.0", "1.9.0", "1.11.0"]
    across = compare_paths([one], [two], across=True)
    assert [change.version for change in across.changes] == ["1.9.0 → 1.10.0", "1.9.0 → 1.11.0", "1.10.0 → 1.11.0"]
    assert len(across.worse) == 3
    own = compare_paths([two], [two], across=True)
    assert [change.version for change in own.changes] == ["1.10.0 → 1.11.0"]


def test_trials_that_are_in_both_sets_are_told(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=1, n=3))
    found = compare_paths([one], [tmp_path / "one"])
    assert found.shared == 3
    assert "3 trials of these are in both, and count on both sides" in in_text(found)


def test_a_folder_of_shards_is_one_set(tmp_path: Path) -> None:
    for _ in range(3):
        run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=1, n=4))
    found = compare_paths([tmp_path / "one"], [tmp_path / "one" / "latest"])
    (change,) = found.changes
    assert change.first is not None
    assert (change.first.k, change.first.n) == (3, 12)
    assert len(found.first.runs) == 3


def test_json_is_the_record(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=1, n=4))
    result = ask(one, one, "--json")
    assert result.exit_code == 0
    assert msgspec.json.decode(result.stdout, type=Comparison) == compare_paths([one], [one])
    assert json.loads(result.stdout)["changes"][0]["first"]["k"] == 1


def test_texts_of_the_subject_stay_text(tmp_path: Path) -> None:
    fields = {"signature": NASTY, "title": NASTY}
    one = run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=1, n=4))
    two = run_of(tmp_path / "two", results("a.py::t", "1.0.0", k=4, n=4, **fields))
    found = compare_paths([one], [two])
    text, markdown = in_text(found), in_markdown(found)
    for shown in (text, markdown):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert not any(line.lstrip().startswith("::") for line in shown.splitlines())
    assert "<img" in text
    assert r"\<img src=x\> \`c\` \[d\]\(http\://e.example\)" in markdown
    assert all(line.count("|") - line.count("\\|") == 8 for line in markdown.splitlines() if line.startswith("|"))
    assert all(len(line) <= 118 for line in text.splitlines() if line.startswith("    "))


@pytest.mark.parametrize(
    "arguments", [("nowhere", "nowhere"), ("one",), ("one", "two", "three"), ("--yaml", "a", "b")]
)
def test_usage_errors_exit_with_2(
    tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ask(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_what_could_not_be_read_is_told_and_the_rest_compared(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", results("a.py::t", "1.0.0", k=1, n=4))
    with (one / "results.jsonl").open("a") as file:
        file.write("rubbish\n")
    result = ask(one, one)
    assert result.exit_code == 0
    assert result.stderr.startswith("ocrepro: left out: ")
    assert "1/4" in result.stdout
    assert "1 part left out" in result.stdout

from __future__ import annotations

from pytest_ocrepro.judge.judgement import Finding, Grade, Graph, Judgement, ProcessJudgement, Result, Verdict
from pytest_ocrepro.publish.prose import WIDTH, judgement_in_words, paragraph, summary_table
from pytest_ocrepro.publish.records import TrialInfo, TrialResult
from tests.data.publish import sample_run

LINK = "second (pid 20) waits for lock directory npm-install:$SANDBOX/x [inferred: its log ends at [here]; mkdir]"


def judgement(chain: tuple[str, ...] = (LINK,), reason: str = "second goes on: blocked") -> Judgement:
    process = ProcessJudgement(
        role="second",
        pid=20,
        argv=("opencode", "run"),
        exit=None,
        verdict=Verdict.BLOCKED,
        grade=Grade.STRONG,
        milestone="config-loading",
        next_milestone="services-started",
        seconds=4.1,
        because=(),
        chain=chain,
        refuted_by="it goes on",
    )
    return Judgement(
        result=Result.REPRODUCED,
        reason=reason,
        verdict=Verdict.BLOCKED,
        grade=Grade.STRONG,
        seconds_to_verdict=4.1,
        chain=chain,
        processes=(process,),
        findings=(Finding(kind="stale-lock-directory", text="left by pid 3"),),
        leaked=(),
        signature="oc-1a2b3c blocked",
        graph=Graph(),
    )


def test_a_link_and_its_evidence_stand_on_lines_of_their_own() -> None:
    info = TrialInfo(scenario="a.py::b", title="b", version="1.18.34")
    assert judgement_in_words(info, judgement()).splitlines() == [
        "a.py::b, opencode 1.18.34, trial 1",
        "reproduced: second goes on: blocked",
        "verdict: blocked (strong) after 4.1 s",
        "chain:",
        "  second (pid 20) waits for lock directory npm-install:$SANDBOX/x",
        "      inferred: its log ends at [here]; mkdir",
        "findings:",
        "  stale-lock-directory: left by pid 3",
        "refuted by: it goes on",
        "signature: oc-1a2b3c blocked",
    ]


def test_what_the_subject_printed_cannot_move_the_cursor() -> None:
    text = judgement_in_words(TrialInfo(scenario="a", title="b"), judgement(reason="it said \x1b[2J\x9b and \u202e"))
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}


def test_lines_are_wrapped_and_paths_stay_whole() -> None:
    path = "/a-b" * 60
    lines = paragraph(f"{'word ' * 40}{path} end", "  ")
    assert path in [line.strip() for line in lines]
    assert all(len(line) <= WIDTH for line in lines if path not in line)


def results(*cases: sample_run.Case) -> list[TrialResult]:
    return [sample_run.result_of("r", info, judgement, "trials/t") for info, _, judgement in cases if judgement]


def test_the_table_for_a_terminal() -> None:
    cases = [
        case for n in (1, 2, 3) for case in (sample_run.overlap("1.15.4", n), sample_run.write_lock("1.18.34", n))
    ]
    table = summary_table(results(*cases))
    heads = (
        "scenario                                  version  rate       verdict      reason",
        "A run that starts while another install…  1.15.4   ● 3/3      blocked      the second run",
        "A run that finds the database locked sa…  1.18.34  ○ 0/2 +1?  failed-fast  it said 'data",
    )
    assert [line[: len(head)] for line, head in zip(table.splitlines(), heads, strict=True)] == list(heads)
    assert max(map(len, table.splitlines())) == 120


def test_the_table_keeps_to_its_width_and_shows_no_control_characters() -> None:
    info, _, judgement = sample_run.hostile()
    assert judgement is not None
    lines = summary_table(results((info, [], judgement))).splitlines()
    assert len(lines) == 2
    assert len(lines[1]) <= 120
    assert lines[1].isprintable()
    assert summary_table([]) == ""

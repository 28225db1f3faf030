"""A run whose model has said its last word (anomalyco/opencode#44901)."""

import shutil

import pytest

from pytest_ocrepro import Trial, bash, broken_off, for_ever, text

STAYS = ("anomalyco/opencode#44901", "anomalyco/opencode#17516", "anomalyco/opencode#3213")
NO_GIT = "anomalyco/opencode#28605"
NO_FINISH = "anomalyco/opencode#4384"
RUNS = 3
PATIENCE_S = 60.0  # for what ends at once or never: the start alone takes long on a busy machine
MANY = 6


@pytest.mark.ocrepro(issue=STAYS, profile="ci", soak=("a tool and words",), title="last answer, and then the end")
@pytest.mark.parametrize("turn", ["words", "a tool and words"])
def test_last_answer_and_then_the_end(ocrepro: Trial, turn: str) -> None:
    """Each of three runs, one after the other, must end once its model has finished.

    No report says what starts it: this asks whether it comes without a cause of its own, from a model that finishes
    as it should, and 0 of n tells no more than how rare that is. Refuted by runs that all end. What we found: all of
    ours did.
    """
    for _ in range(RUNS):
        ocrepro.provider.script(*(() if turn == "words" else (bash("true"),)), text("done"))
        ocrepro.expect(ocrepro.run("hi", args=("--format", "json"))).to_complete()


@pytest.mark.ocrepro(issue=NO_GIT, profile="ci", title="directory without git")
def test_directory_without_git(ocrepro: Trial) -> None:
    """A run must answer in a directory that is no repository, and print the answer.

    Refuted by an answer on its output. What we found: each build tried gives it.
    """
    shutil.rmtree(ocrepro.project.root / ".git")
    ocrepro.provider.script(for_ever(text("done")))
    run = ocrepro.run("hi")
    ocrepro.expect(run).to_complete()
    ocrepro.claim("the answer is printed", held="done" in run.output, because=" ".join(run.output.split())[-80:])


@pytest.mark.ocrepro(
    issue=NO_FINISH,
    profile="ci",
    title="answer without a finish",
    known={"1.18.34": "8/8"},
)
def test_answer_without_a_finish(ocrepro: Trial) -> None:
    """A local server that closes behind its last word, with no finish, must not keep the run for ever.

    Refuted by a run that ends before its sixth request. What we found: builds from 1.14.34 to 1.18.20 end with exit
    0, and print nothing of it; from 1.18.25 on, as up to 1.3.2, they ask again as soon as they are answered, 1.18.34
    nine times when we watched for 40 s.
    """
    ocrepro.provider.script(for_ever(broken_off(4, text("one two three"))))
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
    if ocrepro.expect(run).not_to_ask_for_ever(MANY, timeout_s=PATIENCE_S):
        ocrepro.expect(run).to_finish()


@pytest.mark.ocrepro(issue=(*STAYS, NO_GIT, NO_FINISH), profile="ci", control=True)
def test_one_answer(ocrepro: Trial) -> None:
    """Control: one run in a repository, whose model says its last word and that it has finished."""
    ocrepro.provider.script(text("done"))
    ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete()

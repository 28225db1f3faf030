"""The interactive program in a terminal: beside a run, at its first prompt, hung up (anomalyco/opencode#50348)."""

import shutil
from collections.abc import Callable
from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Terminal, Trial, for_ever, text

BESIDE = ("anomalyco/opencode#50348", "anomalyco/opencode#41806", "anomalyco/opencode#40439")
BEHIND = "anomalyco/opencode#12767"
PATIENCE_S = 60.0  # for what comes at once or never: the start alone takes long on a busy machine
LIMIT_S = 20.0
ENTER, INTERRUPT = "\r", "\x03"


def opened(ocrepro: Trial) -> Terminal:
    """An interactive program that shows its prompt; the model's provider stands beside it."""
    ocrepro.provider.script(for_ever(text("done")))
    terminal = ocrepro.interactive()
    terminal.wait_for(
        lambda shown: "mock" in shown, what="the prompt of the interactive program", timeout_s=PATIENCE_S
    )
    if not terminal.host.alive:
        raise NotReachedError(f"the interactive program ended with {terminal.host.exit_code} before its prompt")
    return terminal


@pytest.mark.ocrepro(
    issue=BESIDE, profile="ci", soak=("without git",), title="run beside an interactive program in one project"
)
@pytest.mark.parametrize("project", ["with git", "without git"])
def test_run_beside_an_interactive_program(ocrepro: Trial, project: str) -> None:
    """A run must answer while an interactive program idles in the same project, with git or without.

    The report says that each such run parks for good where there is a ``.git``, for a child of git that nobody
    collects. Refuted by runs that are answered in both. What we found: on 1.14.48, 1.15.4 and 1.18.34 they are, with
    git and without.
    """
    if project == "without git":
        shutil.rmtree(ocrepro.project.root / ".git")
    opened(ocrepro)
    ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)).to_complete()


@pytest.mark.ocrepro(issue="anomalyco/opencode#41806", profile="ci", title="first prompt of an interactive program")
def test_first_prompt_of_an_interactive_program(ocrepro: Trial) -> None:
    """What is typed into a program that shows its prompt must reach the model.

    The report tells of one that draws its screen and takes no prompt. Refuted by the typed word on the screen, and by
    a request to the model that holds it. What we found: 1.14.48, 1.15.4 and 1.18.34 take it.
    """
    terminal = opened(ocrepro)
    terminal.type("hello")
    shown = in_time(ocrepro, lambda: "hello" in terminal.screen, what="the typed word on the screen")
    ocrepro.claim(
        "what is typed is on the screen",
        held=shown,
        because="it is" if shown else f"not within {PATIENCE_S:g} s of the screen's first words",
        finding="" if shown else "dead-screen",
    )
    if not shown:
        return
    terminal.type(ENTER)
    asked = in_time(
        ocrepro,
        lambda: any("hello" in one.last_text for one in ocrepro.provider.requests() if not one.title),
        what="a request with the typed word",
    )
    ocrepro.claim(
        "the model is asked",
        held=asked,
        because="it was" if asked else f"not within {PATIENCE_S:g} s of the prompt",
        finding="" if asked else "lost-prompt",
    )


def in_time(ocrepro: Trial, happened: Callable[[], bool], *, what: str) -> bool:
    """Whether it has happened before the patience is over."""
    with suppress(NotReachedError):
        ocrepro.wait_until(happened, what=what, timeout_s=PATIENCE_S)
    return happened()


def must_be_gone(ocrepro: Trial) -> None:
    """No opencode may outlive its terminal."""
    try:
        ocrepro.wait_until(lambda: not ocrepro.alive(), what="the end of everybody", timeout_s=LIMIT_S)
        left = []
    except NotReachedError:
        left = ocrepro.alive()
    ocrepro.claim(
        "nothing is left of it",
        held=not left,
        because="; ".join(left) or "nothing of it is alive",
        finding="surviving-process" if left else "",
    )


@pytest.mark.ocrepro(issue=BEHIND, profile="ci", title="terminal that is closed beneath an interactive program")
def test_terminal_that_is_closed(ocrepro: Trial) -> None:
    """An interactive program must end, with all that it has started, when its terminal is closed.

    Refuted by nobody who is alive 20 s later. What we found: builds up to 1.3.0 live on, later ones are gone at once.
    """
    opened(ocrepro).hang_up()
    must_be_gone(ocrepro)


@pytest.mark.ocrepro(issue=(*BESIDE, BEHIND), profile="ci", control=True)
def test_interactive_program_that_is_told_to_end(ocrepro: Trial) -> None:
    """Control: the same program, ended by the key that ends it."""
    opened(ocrepro).type(INTERRUPT)
    must_be_gone(ocrepro)

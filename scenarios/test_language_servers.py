"""Language servers that outlive the opencode that has started them (anomalyco/opencode#18632)."""

from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Trial, for_ever, text, tool

ISSUE = "anomalyco/opencode#18632"
PATIENCE_S = 90.0
LIMIT_S = 20.0


def servers(ocrepro: Trial) -> list[str]:
    """Those that are alive."""
    return [one for one in ocrepro.alive(tools_only=True) if "language_server.py" in one]


def must_have_written(ocrepro: Trial) -> None:
    """The model is asked again behind the tool; a language server that starts beside it has time to."""
    ocrepro.provider.wait_for_request(2, timeout_s=PATIENCE_S)
    with suppress(NotReachedError):
        ocrepro.wait_until(ocrepro.language_server_started, what="a language server", timeout_s=LIMIT_S)


def end_behind_it(ocrepro: Trial, end: str, *, stays: bool) -> None:
    """An opencode whose tool has written a file with a language server, and that ends; nobody may be left."""
    ocrepro.configure(model="mock/m1", lsp=ocrepro.language_server(stays=stays))
    write = tool("write", filePath=str(ocrepro.project.root / "a.stub"), content="a line\n")
    ocrepro.provider.script(write, for_ever(text("done")))
    if end == "of a run":
        if not ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete():
            return
    elif end == "of a server":
        server = ocrepro.serve()
        server.prompt(server.new_session(), "begin")
        must_have_written(ocrepro)
        server.process.terminate()
        server.process.wait_for_end()
    else:
        terminal = ocrepro.interactive("--prompt", "begin")
        must_have_written(ocrepro)
        terminal.hang_up()
    if not ocrepro.language_server_started():
        pytest.skip("this build starts no language server for a file that its tool writes")
    nobody_is_left(ocrepro)


def nobody_is_left(ocrepro: Trial) -> None:
    """Within 20 s of the end at the latest."""
    with suppress(NotReachedError):
        ocrepro.wait_until(lambda: not servers(ocrepro), what="the end of all servers", timeout_s=LIMIT_S)
    left = servers(ocrepro)
    ocrepro.claim(
        "no language server is left",
        held=not left,
        because="; ".join(left) or "none is alive",
        finding="surviving-process" if left else "",
    )


@pytest.mark.ocrepro(
    issue=ISSUE,
    profile="ci",
    soak=("of a run", "of a terminal"),
    title="language server behind the end of its opencode",
    known={"1.14.48": "2/5", "1.15.4": "2/5", "1.18.34": "4/11"},
)
@pytest.mark.parametrize("end", ["of a run", "of a server", "of a terminal"])
def test_language_server_behind_the_end(ocrepro: Trial, end: str) -> None:
    """An opencode that ends must end the language servers that it has started, if they do not go by themselves.

    The server does not end with its input, as one that is busy. Refuted by no such server that is alive 20 s behind
    the end of a run, of a server that gets SIGTERM, or of a program whose terminal is closed. What we found: on
    1.14.48 and 1.18.34 a server that gets SIGTERM leaves it behind; a run ends it, and so does a closed terminal.
    """
    end_behind_it(ocrepro, end, stays=True)


@pytest.mark.ocrepro(issue=ISSUE, profile="ci", soak=("of a run", "of a terminal"), control=True)
@pytest.mark.parametrize("end", ["of a run", "of a server", "of a terminal"])
def test_language_server_that_behaves(ocrepro: Trial, end: str) -> None:
    """Control: a language server that ends with its input, or when it is told to."""
    end_behind_it(ocrepro, end, stays=False)

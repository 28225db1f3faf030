"""The scenario's own moves are in the history, so that the evidence says what was done and not only what was seen."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pytest_ocrepro.events import HttpAsked, HttpCall, SandboxFurnished, TurnsScripted
from pytest_ocrepro.history import History
from pytest_ocrepro.stage.process import NoInput, Process
from pytest_ocrepro.stage.supervisor import Supervisor
from pytest_ocrepro.stage.turns import bash, for_ever, never_ending, text
from pytest_ocrepro.steps import RecordedProvider, RecordedServer


def test_a_script_is_told_turn_by_turn() -> None:
    history = History()
    provider = RecordedProvider(history)
    try:
        provider.script(bash("sleep 3"), for_ever(text("all done")), model="m2")
        provider.script(never_ending(), when="a phrase")
    finally:
        provider.close()
    first, second = history.of_type(TurnsScripted)
    assert (first.model, first.when, second.when) == ("m2", "", "a phrase")
    call, words = first.turns
    assert call.calls[0][0] == "bash"
    assert json.loads(call.calls[0][1])["command"] == "sleep 3"
    assert (words.words.split(), words.repeats) == (["all", "done"], True)
    assert second.turns[0].never_ends


def test_a_call_is_told_before_its_answer(tmp_path: Path) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    history, server = History(), HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.handle_request, daemon=True).start()
    supervisor = Supervisor()
    try:
        process = Process("x", ["true"], supervisor=supervisor, history=history, output=tmp_path, stdin=NoInput())
        process.start({"PATH": "/usr/bin:/bin"}, str(tmp_path))
        process.wait_for_end()
        recorded = RecordedServer(process, server.server_port, history)
        assert recorded.call("POST", "/session", {"a": 1}, purpose="make a session").status == 200
    finally:
        supervisor.close()
        server.server_close()
    kinds = [type(event) for event in history if isinstance(event, HttpAsked | HttpCall)]
    assert kinds == [HttpAsked, HttpCall]
    asked = history.of_type(HttpAsked)[0]
    assert (asked.method, asked.path, json.loads(asked.body)) == ("POST", "/session", {"a": 1})


def test_files_and_configuration_are_told_when_a_process_starts(
    pytester: pytest.Pytester, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    pytester.makepyfile(
        test_it="""
        from pytest_ocrepro.events import SandboxFurnished

        def test_it(ocrepro):
            ocrepro.project.write("notes/a.txt", "written by the scenario")
            ocrepro.configure(snapshot=False)
            ocrepro.expect(ocrepro.run("hi", model="bogus/x")).to_finish()
            told = ocrepro.history.of_type(SandboxFurnished)
            assert [(one.path, one.text) for one in told[-1].files] == [("notes/a.txt", "written by the scenario")]
            assert '"snapshot"' in told[-1].config
        """
    )
    result = pytester.runpytest_subprocess("--ocrepro", f"--ocrepro-binary={stand_in}", "test_it.py")
    result.assert_outcomes(passed=1)
    assert SandboxFurnished.__struct_config__.tag == "sandbox-furnished"

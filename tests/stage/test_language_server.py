from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_ocrepro.stage.language_server import EXTENSION, has_started, language_server

WAIT_S = 20.0


class Editor:
    """What opencode is to the server."""

    def __init__(self, folder: Path, *, stays: bool) -> None:
        entry = cast("dict[str, Any]", language_server(folder, stays=stays)["stub"])
        assert entry["extensions"] == [EXTENSION]
        self.server = subprocess.Popen(entry["command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, **message: object) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.server.stdin is not None
        self.server.stdin.write(b"Content-Length: %d\r\nContent-Type: x\r\n\r\n" % len(body) + body)
        self.server.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        length = int(self.server.stdout.readline().partition(b":")[2])
        assert self.server.stdout.readline() == b"\r\n"
        return cast("dict[str, Any]", json.loads(self.server.stdout.read(length)))

    def close_input(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()


@pytest.fixture
def editors(tmp_path: Path) -> Iterator[list[Editor]]:
    made = [Editor(tmp_path, stays=False), Editor(tmp_path, stays=True)]
    yield made
    for one in made:
        one.server.kill()
        one.server.wait()
        for stream in (one.server.stdin, one.server.stdout):
            assert stream is not None
            stream.close()


def test_it_answers_and_says_that_a_file_has_no_faults(editors: list[Editor], tmp_path: Path) -> None:
    for editor in editors:
        editor.send(id=1, method="initialize", params={})
        assert editor.receive()["result"]["capabilities"]
        editor.send(method="textDocument/didOpen", params={"textDocument": {"uri": "file:///a.stub"}})
        told = editor.receive()
        assert (told["method"], told["params"]["uri"]) == ("textDocument/publishDiagnostics", "file:///a.stub")
    assert has_started(tmp_path)


def test_one_ends_with_its_input_and_the_other_does_not(editors: list[Editor]) -> None:
    ends, stays = editors
    for editor in editors:
        editor.send(id=1, method="shutdown")
        assert editor.receive()["result"] is None
        editor.send(method="exit")
        editor.send(id=2, method="any")
    assert ends.server.wait(WAIT_S) == 0
    assert stays.receive()["id"] == 2  # whoever stays has read what comes behind the exit
    stays.close_input()
    assert stays.server.poll() is None


def test_nobody_has_started_one_that_was_only_written(tmp_path: Path) -> None:
    language_server(tmp_path, stays=False)
    assert not has_started(tmp_path)

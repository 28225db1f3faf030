"""A language server that opencode starts for files with one extension: it speaks the protocol and knows nothing.

Messages have a head with their length (Language Server Protocol 3.17, base protocol). One that ``stays`` lives on
when its input ends and when it is told to exit, as a server does that is busy: who has started it must end it.
"""

from __future__ import annotations

import sys
from pathlib import Path

EXTENSION = ".stub"
PROGRAM_NAME = "language_server.py"
STARTED = "language-server-started"

PROGRAM = """
import json, pathlib, signal, sys
pathlib.Path(sys.argv[1]).touch()
stays = sys.argv[2] == "stays"
def receive():
    length = 0
    for line in iter(sys.stdin.buffer.readline, b""):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
        elif not line.strip():
            return json.loads(sys.stdin.buffer.read(length))
    return None
def send(**message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    sys.stdout.buffer.flush()
while (asked := receive()) is not None:
    method = asked.get("method")
    if method == "exit" and not stays:
        break
    if method == "textDocument/didOpen":
        uri = asked["params"]["textDocument"]["uri"]
        send(method="textDocument/publishDiagnostics", params={"uri": uri, "diagnostics": []})
    elif method and "id" in asked:
        send(id=asked["id"], result={"capabilities": {"textDocumentSync": 1}} if method == "initialize" else None)
if stays:
    signal.pause()
"""


def language_server(folder: Path, *, stays: bool) -> dict[str, object]:
    """Write the program into a folder; the value of opencode's ``lsp`` key. It leaves a file there when it starts."""
    program = folder / PROGRAM_NAME
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-I", str(program), str(folder / STARTED), "stays" if stays else "ends"]
    return {"stub": {"command": command, "extensions": [EXTENSION]}}


def has_started(folder: Path) -> bool:
    """Somebody has started the one of this folder."""
    return (folder / STARTED).exists()

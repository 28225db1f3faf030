"""What a stand-in build does: ``stand_in_subject.py VERSION FIRST_BAD words of opencode``.

Builds from FIRST_BAD on die of their database; those before it ask the model and print its answer.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def ask() -> None:
    config = json.loads(Path(os.environ["OPENCODE_CONFIG"]).read_text())
    url = config["provider"]["mock"]["options"]["baseURL"] + "/chat/completions"
    body = {"model": "m1", "stream": True, "tools": [{}], "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        print(answer.read().decode())


def main() -> None:
    version, first_bad, *words = sys.argv[1:]
    if words == ["--version"]:
        print(version)
    elif number(version) >= number(first_bad):
        print("Error: database is locked", file=sys.stderr)
        sys.exit(1)
    else:
        ask()


main()

"""The command ``ocrepro``: a door without logic, one module a family of commands.

builds: which opencode, and what this machine can observe. stored: what can be done with a run on disk. exports: what
can be made of it. search: over many builds. covered: the scenarios themselves.
attached: what can be told of processes that run already.

Exit codes: 0 done, 1 the answer is no (each command says when), 2 our error or a usage error in one line.
"""

from pytest_ocrepro.cli import attached, builds, covered, exports, search, stored
from pytest_ocrepro.cli.group import main

__all__ = ["attached", "builds", "covered", "exports", "main", "search", "stored"]

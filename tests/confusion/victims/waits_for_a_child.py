"""Waits for the end of a tool: ``sleep`` for as long as the prompt says."""

import subprocess

from acting import WORD, answer, begin

begin()
subprocess.run(["sleep", WORD], check=True)
answer()

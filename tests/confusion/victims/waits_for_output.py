"""The tool has ended, but something that it left in the background keeps its output open."""

import subprocess

from acting import WORD, answer, begin

begin()
command = f"setsid sleep {WORD} & exit 0"
subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True)
answer()

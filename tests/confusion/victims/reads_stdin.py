"""Wants the rest of its prompt from standard input."""

import sys

from acting import answer, begin

begin()
sys.stdin.read()
answer()

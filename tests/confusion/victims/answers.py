"""Answers at once: the control."""

from acting import answer, begin

begin()
answer()

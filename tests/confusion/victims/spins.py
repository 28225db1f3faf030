"""Turns in a circle and does nothing."""

from acting import begin

begin()
while True:
    pass

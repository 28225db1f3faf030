"""Ends well and has done nothing."""

from acting import begin

begin()

"""``python -m pytest_ocrepro.cli``."""

from pytest_ocrepro.cli import main

main(prog_name="ocrepro")

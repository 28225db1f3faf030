from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ocrepro.publish.counting import scenario_of, unjudged
from pytest_ocrepro.publish.records import TrialInfo


@pytest.mark.parametrize(
    ("scenario", "version", "key"),
    [
        ("s/test_a.py::test_b[1.15.4]", "1.15.4", "s/test_a.py::test_b"),
        ("s/test_a.py::test_b[immediate-1.15.4]", "1.15.4", "s/test_a.py::test_b[immediate]"),
        ("s/test_a.py::test_b[1.15.4-x]", "1.15.4", "s/test_a.py::test_b[x]"),
        ("s/test_a.py::test_b[0.0.0-dev-2026-t7]", "0.0.0-dev-2026", "s/test_a.py::test_b"),
        ("s/test_a.py::test_b", "1.15.4", "s/test_a.py::test_b"),
        ("s/test_a.py::test_b[1.15.40]", "1.15.4", "s/test_a.py::test_b[1.15.40]"),
    ],
)
def test_a_scenario_is_the_same_on_every_version(scenario: str, version: str, key: str) -> None:
    info = TrialInfo(scenario=scenario, title="t", version=version, trial=7)
    assert scenario_of(unjudged("r", info, Path("x"))) == key

from __future__ import annotations

import threading

import pytest

from pytest_ocrepro.bounded import within
from pytest_ocrepro.errors import StageError


def test_what_ends_is_run_and_what_fails_is_raised() -> None:
    done: list[str] = []
    within(20, lambda: done.append(threading.current_thread().name))
    assert done == ["ocrepro-bounded"]
    with pytest.raises(ZeroDivisionError):
        within(20, lambda: 1 / 0)


def test_what_hangs_is_left_and_told() -> None:
    end = threading.Event()
    try:
        with pytest.raises(StageError, match=r"^no end within 0\.05 s; a file that is read may hang$"):
            within(0.05, end.wait)
    finally:
        end.set()

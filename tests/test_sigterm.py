from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_ocrepro.sigterm import OrderlyEnd


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_first_one_is_a_ctrl_c_and_the_second_one_is_the_kernel_s() -> None:
    end = OrderlyEnd()
    end.begin()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_it_is_given_back_and_never_taken_from_anybody() -> None:
    first, second = OrderlyEnd(), OrderlyEnd()
    first.begin()
    taken = signal.getsignal(signal.SIGTERM)
    second.begin()
    second.end()
    assert signal.getsignal(signal.SIGTERM) == taken
    first.end()
    first.end()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    first.begin()
    first.end()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_another_thread_cannot_take_it_and_does_not_try() -> None:
    thread = threading.Thread(target=OrderlyEnd().begin)  # an error in it would be a failure here
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_fork_of_somebody_ends_of_it_as_ever() -> None:
    code = """
import os, signal
from pytest_ocrepro.sigterm import OrderlyEnd
OrderlyEnd().begin()
if os.fork() == 0:
    signal.raise_signal(signal.SIGTERM)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout, done.stderr) == (f"{-signal.SIGTERM}\n", "")

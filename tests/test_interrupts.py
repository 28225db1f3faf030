from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.interrupts import PUT_OFF, OrderlyEnd, PutOff


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
from pytest_ocrepro.interrupts import OrderlyEnd
OrderlyEnd().begin()
if os.fork() == 0:
    signal.raise_signal(signal.SIGTERM)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout, done.stderr) == (f"{-signal.SIGTERM}\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_comes_while_the_page_is_written_is_put_off_once(number: int) -> None:
    OrderlyEnd().begin()
    before, told = signal.getsignal(number), list[str]()
    with PutOff(told.append) as put_off:
        assert (put_off.came, told) == (False, [])
        signal.raise_signal(number)
    assert (put_off.came, told) == (True, [PUT_OFF])
    assert signal.getsignal(number) == before
    with PutOff(told.append):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


CLAIM = 'def test_it(ocrepro): ocrepro.claim("it is so", held=True, because="it is")'
HOOKS = """
import os, signal
import pytest

@pytest.hookimpl({how})
def pytest_sessionfinish():
    os.kill(os.getpid(), signal.{name})
"""


@pytest.mark.parametrize("how", ["tryfirst=True", "trylast=True"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_one_signal_behind_the_last_trial_costs_neither_page_nor_order(
    pytester: pytest.Pytester, stand_in: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    """Of us, before and behind what other plugins do then."""
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(pytester.path / "cache"))
    pytester.makeconftest(HOOKS.format(name=name, how=how))
    scenario = pytester.makepyfile(CLAIM)
    done = pytester.runpytest_subprocess(
        "--ocrepro", f"--ocrepro-binary={stand_in}", "--ocrepro-expect=any", scenario
    )
    assert done.ret is pytest.ExitCode.INTERRUPTED
    assert PUT_OFF in done.errlines
    done.stdout.fnmatch_lines(["report: file://*"])
    (page,) = (pytester.path / "reports").glob("2*/report.html")
    assert page.stat().st_size > 0
    assert list((pytester.path / "cache/supervisors").iterdir()) == []


FAILS = """
import pytest

@pytest.hookimpl({how})
def pytest_sessionfinish():
    raise FileNotFoundError("a directory that another process has removed")
"""


@pytest.mark.parametrize("how", ["tryfirst=True", "trylast=True"])
def test_a_plugin_that_fails_behind_the_last_trial_costs_no_page(
    pytester: pytest.Pytester, stand_in: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(pytester.path / "cache"))
    pytester.makeconftest(FAILS.format(how=how))
    scenario = pytester.makepyfile(CLAIM)
    done = pytester.runpytest_subprocess(
        "--ocrepro", f"--ocrepro-binary={stand_in}", "--ocrepro-expect=any", scenario
    )
    assert done.ret == 1
    assert "FileNotFoundError: a directory that another process has removed" in done.errlines
    done.stdout.fnmatch_lines(["report: file://*"])
    assert done.stdout.str().count("report: file://") == 1
    (page,) = (pytester.path / "reports").glob("2*/report.html")
    assert page.stat().st_size > 0
    assert list((pytester.path / "cache/supervisors").iterdir()) == []


def test_what_is_ignored_or_ends_at_once_stays_so() -> None:
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with PutOff(print) as put_off:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert not put_off.came
    finally:
        signal.signal(signal.SIGINT, ignored)

"""A step that may hang in the kernel (a file of a stuck process, a lost file system), waited for so long only."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pytest_ocrepro.errors import StageError


def within(limit_s: float, step: Callable[[], object]) -> None:
    """Run it in a thread of its own. Raises what it raises, and StageError when it is not over in time.

    It then goes on beside us, for nobody can end it.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  raised again by who waits
            failed.append(error)

    thread = threading.Thread(target=run, name="ocrepro-bounded", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise StageError(f"no end within {limit_s:g} s; a file that is read may hang")
    if failed:
        raise failed[0]

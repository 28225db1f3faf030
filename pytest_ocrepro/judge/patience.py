"""How long opencode itself waits for an answer of the model before it gives up the request and asks again.

Read from the builds: 1.18.30 and 1.18.34 have a timeout of 300 s until the headers and one of 300 s between two
pieces (``headerTimeout ?? 300000``, ``chunkTimeout ?? 300000``); seen at work on 1.18.34. 1.14.48 to 1.18.25 switch
the runtime's own timeout off and have only what the configuration says; builds in between are not known.
"""

from __future__ import annotations

import re

from pytest_ocrepro.events import TrialStarted
from pytest_ocrepro.history import History

PROVIDER_TIMEOUT_S = 300.0
SINCE = (1, 18, 30)
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)$")


def provider_left_s(history: History, quiet_s: float) -> float | None:
    """So long until opencode gives up a request that brought nothing for ``quiet_s``; None: not known to."""
    frame = history.of_type(TrialStarted)[:1]
    found = _NUMBERS.match(frame[0].version) if frame else None
    if found is None or tuple(map(int, found.groups())) < SINCE:
        return None
    return max(0.0, PROVIDER_TIMEOUT_S - quiet_s)


def in_words(left_s: float | None) -> tuple[str, ...]:
    """The fact and its source, where it is known."""
    if left_s is None:
        return ()
    return (f"ends by itself in about {left_s:.0f} s: opencode's own provider timeout of {PROVIDER_TIMEOUT_S:g} s",)

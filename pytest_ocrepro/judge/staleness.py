"""When opencode's lock directory breaks itself: its next waiter takes one whose last sign of life is too old.

Measured on 1.14.48, 1.15.4 and 1.18.34, the registry silent: who holds an ``npm-install`` lock sets its heartbeat
every 20 s, but each time to the instant at which it took the lock (that date is made once, before the repetition). So
the lock of a living holder turns stale like that of a dead one, and the waiter took it after 60 to 62 s. The earlier
holder goes on beating in the same file, which then looks 80 s old from time to time.
"""

from __future__ import annotations

from pytest_ocrepro.readings import LockDirectory

STALE_AFTER_S = 60.0  # `staleMs:60000`, read from the builds: the next waiter breaks a lock whose heartbeat is older
SEEN_TO_BEAT_S = 5.0  # a heartbeat this much younger than the lock was moved since the lock was taken


def sign_age_s(lock: LockDirectory) -> float:
    """The age of its last sign of life; 0 where nothing tells it."""
    return lock.heartbeat_age_s if lock.heartbeat_age_s is not None else lock.age_s or 0.0


def stale_in_s(lock: LockDirectory) -> float:
    """So long until its next waiter may break it, if no sign of life comes."""
    return max(0.0, STALE_AFTER_S - sign_age_s(lock))


def beats(lock: LockDirectory) -> bool:
    """Whether its heartbeat was seen to move since the lock was taken."""
    if lock.heartbeat_age_s is None or lock.age_s is None:
        return False
    return lock.age_s - lock.heartbeat_age_s > SEEN_TO_BEAT_S


def heart_in_words(lock: LockDirectory) -> str:
    """``heartbeat 12.3 s old``, or that there is none."""
    return "no heartbeat" if lock.heartbeat_age_s is None else f"heartbeat {sign_age_s(lock):.1f} s old"

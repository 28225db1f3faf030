"""Who held opencode's lock directories over time: two listings in, every change of holder out.

How opencode 1.14 to 1.18 take such a lock, read from the builds: mkdir takes it; a waiter that finds the last sign of
life older than the stale limit makes ``<name>.lock.breaker``, removes the directory, makes its own and removes the
breaker; a holder lets go by removing the directory. So the breaker, seen in the order of the directory's own events
(inotify(7)), tells a broken lock from a released one that somebody else took in the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from pytest_ocrepro.events import LockDirectoryChanged
from pytest_ocrepro.readings import LockChange, LockDirectory, Reading

BREAKER: Final = ".breaker"
STALE_AFTER_S: Final = 60.0  # `staleMs:60000`, read from the builds 1.14.48 and 1.18.34


class Happened(Reading, frozen=True, kw_only=True):
    """An entry of a folder was made (or moved in), or removed (or moved out)."""

    made: bool
    name: str


class _Between(Reading, frozen=True, kw_only=True):
    """What the folder's own events say of one lock. ``watched`` False: nothing, the folder was not watched."""

    watched: bool = False
    removed: bool = False
    broken: bool = False
    unseen: int = 0  # holders that took it and let go again between the two listings


def changes(
    before: Sequence[LockDirectory],
    after: Sequence[LockDirectory],
    *,
    happened: Mapping[str, Sequence[Happened]],
    alive: Mapping[str, bool | None],
    elapsed_s: float,
    at_ns: int,
) -> tuple[LockDirectoryChanged, ...]:
    """Every change of holder between two listings ``elapsed_s`` apart.

    ``happened``: folder -> its events in between, in order; a folder that is not in it was not watched. ``alive``:
    path -> whether the holder of ``before`` lives now, None where that cannot be told.
    """
    old, new = ({lock.path: lock for lock in listing} for listing in (before, after))
    found: list[LockDirectoryChanged] = []
    for path in sorted(old.keys() | new.keys()):
        one = _Change(
            old=old.get(path),
            new=new.get(path),
            between=_between(path, happened),
            alive=alive.get(path),
            elapsed_s=elapsed_s,
            at_ns=at_ns,
        )
        found.extend(one.events())
    return tuple(found)


def _between(path: str, happened: Mapping[str, Sequence[Happened]]) -> _Between:
    where = PurePath(path)
    events = happened.get(str(where.parent))
    if events is None:
        return _Between()
    breaker = where.name + BREAKER
    of_breaker = [event.made for event in events if event.name == breaker]
    breaking = of_breaker[:1] == [False]  # it was made before the first listing
    ends: list[bool] = []  # of each removal: by the breaker's way
    made = 0
    for event in events:
        if event.name == breaker:
            breaking = event.made
        elif event.name == where.name and event.made:
            made += 1
        elif event.name == where.name:
            ends.append(breaking)
    return _Between(watched=True, removed=bool(ends), broken=ends[:1] == [True], unseen=max(0, made - 1))


class _Change(Reading, frozen=True, kw_only=True):
    """One lock directory in two listings. ``alive``: whether the holder of ``old`` lives now."""

    old: LockDirectory | None
    new: LockDirectory | None
    between: _Between
    alive: bool | None
    elapsed_s: float
    at_ns: int

    def events(self) -> Iterator[LockDirectoryChanged]:
        """What became of the earlier holder, then who has it now."""
        if self.old is None:
            yield self._taken()
            if self.new is not None and self.new.holder_alive is False:
                yield self._left_behind()
        elif self.new is None:
            yield self._lost(self._how_lost(self.old), self.old)
        elif self._made_anew(self.old, self.new):
            how = self._how_lost(self.old)
            yield self._lost(how, self.old)
            if how in (LockChange.RELEASED, LockChange.REMOVED):
                yield self._taken()
        elif not self.old.token and self.new.token:
            yield self._taken(LockChange.NAMED)
        elif self.old.holder_alive is not False and self.new.holder_alive is False:
            yield self._left_behind()

    def _made_anew(self, old: LockDirectory, new: LockDirectory) -> bool:
        if old.token == new.token:
            return self.between.removed and not old.token  # before meta.json said whose either of them is
        return self.between.removed or bool(old.token and new.token)

    def _how_lost(self, old: LockDirectory) -> LockChange:
        gone = LockChange.REMOVED if old.holder_alive is False else LockChange.RELEASED
        if self.between.removed and not self.between.broken:
            return gone
        if not self.between.watched and self.new is None:
            return gone
        stale = old.stale_in_s is not None and old.stale_in_s <= self.elapsed_s
        if stale or (self.between.broken and self.alive is False):
            return LockChange.BROKEN_AS_STALE
        # broken before its time, or written over in place: both leave two processes that think they have it
        if self.between.watched and self.alive:
            return LockChange.TAKEN_FROM_LIVE_HOLDER
        return LockChange.CHANGED_HANDS

    def _taken(self, how: LockChange = LockChange.TAKEN) -> LockDirectoryChanged:
        whose = self.new.holder_pid if self.new else None
        return self._event(how, "meta.json names nobody yet" if whose is None else f"meta.json names pid {whose}")

    def _left_behind(self) -> LockDirectoryChanged:
        age_s = _sign_age_s(self.new, 0.0)
        return self._event(LockChange.LEFT_BEHIND, _facts(self.new, age_s, alive=False), self.new, age_s, alive=False)

    def _lost(self, how: LockChange, old: LockDirectory) -> LockDirectoryChanged:
        age_s = _sign_age_s(old, self.elapsed_s)
        because = f"{_facts(old, age_s, alive=self.alive)}; {_way(self.between)}"
        return self._event(how, because, old, age_s, alive=self.alive)

    def _event(
        self,
        how: LockChange,
        because: str,
        earlier: LockDirectory | None = None,
        age_s: float | None = None,
        *,
        alive: bool | None = None,
    ) -> LockDirectoryChanged:
        nobody = (LockChange.RELEASED, LockChange.REMOVED, LockChange.LEFT_BEHIND)
        # whoever let go did so before another took it
        dated = how not in (LockChange.LEFT_BEHIND, LockChange.NAMED)
        told = self.new or self.old
        assert told is not None  # noqa: S101  one of the two is there
        return LockDirectoryChanged(
            at_ns=self.at_ns,
            path=told.path,
            key=told.key,
            how=how,
            because=because,
            holder_pid=self.new.holder_pid if self.new and how not in nobody else None,
            previous_pid=earlier.holder_pid if earlier else None,
            previous_alive=alive,
            sign_age_s=age_s,
            since_s=self._since_s() if dated else None,
        )

    def _since_s(self) -> float | None:
        """An age that reaches behind the earlier look is not that of this change: a clock that was set, a copy."""
        age_s = self.new.age_s if self.new else None
        return round(age_s, 3) if age_s is not None and 0 <= age_s <= self.elapsed_s else None


def _sign_age_s(lock: LockDirectory | None, since_s: float) -> float | None:
    if lock is None or lock.stale_in_s is None:
        return None
    return round(STALE_AFTER_S - lock.stale_in_s + since_s, 1)


def _facts(earlier: LockDirectory | None, age_s: float | None, *, alive: bool | None) -> str:
    pid = earlier.holder_pid if earlier else None
    life = "lives" if alive else "may live" if alive is None else "has ended"
    life = "is another process now" if earlier and earlier.pid_reused else life
    who = "its holder was not told" if pid is None else f"pid {pid} {life}"
    if age_s is None:
        return who
    return f"{who}; its last sign of life was {age_s:.1f} s old (stale after {STALE_AFTER_S:.0f} s)"


def _way(between: _Between) -> str:
    if not between.watched:
        return "the folder was not watched"
    if not between.removed:
        return "the directory was not removed but written over in place"
    way = "a breaker was made first" if between.broken else "no breaker was made"
    return f"{way}; {between.unseen} more had it in between" if between.unseen else way

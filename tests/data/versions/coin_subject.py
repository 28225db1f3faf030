"""A bisection whose trials are coins: what a version does with a seed never changes. Also a program of its own.

As a program: ``coin_subject.py JOURNAL WORKERS`` says ``trial VERSION SEED`` before each trial and begins it when it
is told to by a line on standard input, so that it can be killed in the middle of any of them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import UnfitBuildError
from pytest_ocrepro.versions.batches import Here
from pytest_ocrepro.versions.journal import Chosen, Journal, Plan, Tried
from pytest_ocrepro.versions.search import Search, Why
from pytest_ocrepro.versions.state import State

VERSIONS = tuple(f"1.{minor}.{patch}" for minor in range(8) for patch in range(5))
FIRST_BAD = "1.4.2"
CONTROL = "s.py::control"
OURS = "oc-111111 blocked|config-loading"


class World(msgspec.Struct, frozen=True, kw_only=True):
    """``unfit``: versions that cannot be had; ``broken``: those of which every trial is inconclusive;
    ``lacking``: those on which the scenario skips itself.

    ``other``: share of trials that end with a failure of another kind.
    """

    p: float = 0.7
    q: float = 0.0
    first: str = FIRST_BAD
    versions: tuple[str, ...] = VERSIONS
    unfit: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    other: float = 0.0
    control: float = 0.0  # share of trials of the control that fail
    signs: tuple[str, ...] = (OURS,)
    twins: tuple[tuple[str, str], ...] = ()  # the second has the bytes of the first

    def present(self, version: str) -> bool:
        return self.versions.index(version) >= self.versions.index(self.first)

    def trial(self, version: str, seed: int) -> Tried:
        if version in self.lacking:
            return Tried(batch=0, phase="", scenario="s.py::test", version=version, seed=seed, result="skipped",
                         seconds=5.0, reason="no such lock")  # fmt: skip
        coin = random.Random(f"{version}/{seed}")  # noqa: S311  a seeded coin
        foreign, hit = coin.random() < self.other, coin.random() < (self.p if self.present(version) else self.q)
        result = "inconclusive" if version in self.broken else "reproduced" if hit or foreign else "not-seen"
        signs = ("oc-999999 crashed",) if foreign else self.signs if hit else ()
        return Tried(batch=0, phase="", scenario="s.py::test", version=version, seed=seed, result=result,
                     signs=signs if result == "reproduced" else (), seconds=5.0, reason="a coin")  # fmt: skip

    def run(self, chosen: Chosen) -> Iterator[Tried]:
        for scenario, version, seed in chosen.trials:
            yield self.control_trial(version, seed) if scenario == CONTROL else self.trial(version, seed)

    def control_trial(self, version: str, seed: int) -> Tried:
        failed = random.Random(f"control/{seed}").random() < self.control  # noqa: S311  a seeded coin
        return Tried(batch=0, phase="", scenario=CONTROL, version=version, seed=seed, seconds=5.0,
                     result="reproduced" if failed else "not-seen", signs=(OURS,) if failed else ())  # fmt: skip

    def fetch(self, version: str) -> Here:
        if version in self.unfit:
            raise UnfitBuildError(f"opencode {version} is not published")
        return Here(version=version, sha256={later: first for first, later in self.twins}.get(version, version))

    def plan(self, **fields: object) -> Plan:
        usual = Plan(kind="bisect", scenarios=("s.py::test",), versions=self.versions, monotone=True)
        return msgspec.structs.replace(usual, **fields)


def search(
    path: Path, world: World, plan: Plan | None = None, *, tell: Callable[[str], None] | None = None, **limits: float
) -> tuple[State, Why]:
    """Begin or go on."""
    with Journal(path) as journal:
        if journal.plan is None:
            journal.append(plan or world.plan())
        limited: dict[str, object] = dict(limits)
        made = Search(journal, run=world.run, fetch=world.fetch, tell=tell or (lambda _: None), **limited)  # type: ignore[arg-type]
        return made.to_the_end()


def main() -> None:
    world = World()

    def run(chosen: Chosen) -> Iterator[Tried]:
        for _, version, seed in chosen.trials:
            print(f"trial {version} {seed}", flush=True)
            sys.stdin.readline()
            yield world.trial(version, seed)

    with Journal(Path(sys.argv[1])) as journal:
        if journal.plan is None:
            journal.append(world.plan(workers=int(sys.argv[2])))
        _, why = Search(journal, run=run, fetch=world.fetch, tell=lambda _: None).to_the_end()
    print(f"ended {why}", flush=True)


if __name__ == "__main__":
    main()

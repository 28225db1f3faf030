"""Plays the cases with the real harness: in the test's own process, or as a program that several can run at once.

``trials.py FOLDER AT_ONCE`` plays the cases whose names it reads from its input, a line each, and prints
the scores of each run as one line of JSON. A process of its own has a Python interpreter of its own, of which the
samplers of many trials need more than one.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pytest_ocrepro.events import Trouble
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Verdict
from pytest_ocrepro.judge.verdict import judge_life, judge_process
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.server import Server
from pytest_ocrepro.stage.subject import Build
from pytest_ocrepro.stage.turns import for_ever, text

if TYPE_CHECKING:
    from typing import Self

    from tests.confusion import cast, matrix
else:  # beside us: this is a program as well
    sys.path.insert(0, str(Path(__file__).parent))
    import cast
    import matrix

Result = TypeVar("Result")
# Calls itself opencode; the model's name chooses the stand-in
LAUNCHER = """#!/bin/bash
name=answers
for ((at = 1; at < $#; at++)); do
    if [ "${{!at}}" = -m ]; then next=$((at + 1)); name=${{!next#victim/}}; fi
done
exec -a opencode {python} -S -E -s {victims}/"$name".py "$@"
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one case, ready to be scored by any judge. ``live``: what the harness itself said of whom."""

    case: cast.Case
    history: History
    live: tuple[str, Verdict]
    bundle: Path

    def scores(self, judge: matrix.Judge) -> list[matrix.Score]:
        """One for each process that the case speaks of."""
        return [
            matrix.score(self.case.name, role, (one.verdict, one.root), self.history, judge, bundle=str(self.bundle))
            for role, one in self.case.expected.items()
        ]


class Theatre:
    """A session with the stand-ins for its build. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.reports = folder / "reports"
        path = folder / "opencode"
        path.write_text(LAUNCHER.format(python=sys.executable, victims=cast.VICTIMS))
        path.chmod(0o755)
        self._build = Build(version="9.9.9", path=str(path), sha256="", source="binary")
        self._session = Session(RunDir.create(self.reports))

    def play(self, case: cast.Case) -> Run:
        """One trial from start to bundle, watched as ``expect(..).to_finish()`` watches."""
        info = TrialInfo(scenario=case.name, title=case.name, version=self._build.version)
        trial = Trial(self._session, self._build, info, case.name)
        trouble = "the case was not played to its end"
        try:
            played = case.play(trial)
            trial.provider.script(for_ever(text("done")))  # whom the sweep lets go on may ask once more
            judged = (
                judge_process(trial.history, played.process.pid)
                if isinstance(played, Server)
                else trial.watch(played)
            )
            for other in trial.roster.started:
                if other.role in case.expected and not isinstance(played, Server):
                    trial.watch(other)
            trouble = ""
        finally:
            _, result = trial.finish(trouble)
        troubles = trial.history.of_type(Trouble)
        assert not troubles, (case.name, troubles)
        bundle = self._session.run_dir.path / result.bundle
        return Run(case=case, history=trial.history, live=(judged.role, judged.verdict), bundle=bundle)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the session."""
        self._session.close()


def at_the_same_time(
    cases: Iterable[cast.Case], one: Callable[[cast.Case], Result], at_once: int
) -> Iterator[Result]:
    """Most of a trial is waiting, so that many fit beside one another."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(one, cases)


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes that take all they can get; nothing else of the machine is touched."""
    with contextlib.ExitStack() as running:
        for _ in range(count):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            running.callback(neighbour.wait)
            running.callback(neighbour.kill)
        yield


def scores_of_programs(cases: list[cast.Case], folder: Path, *, programs: int, at_once: int) -> list[matrix.Score]:
    """Play the cases in several programs; each has its own part of them."""

    def run(number: int) -> list[matrix.Score]:
        names = "\n".join(case.name for case in cases[number::programs])
        argv = [sys.executable, __file__, str(folder / f"program-{number}"), str(at_once)]
        said = subprocess.run(argv, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout
        return [score for line in said.splitlines() for score in msgspec.json.decode(line, type=list[matrix.Score])]

    with ThreadPoolExecutor(programs) as pool:
        return [score for part in pool.map(run, range(programs)) for score in part]


def main(folder: Path, at_once: int) -> None:
    """The program."""
    by_name = {case.name: case for case in cast.CASES}
    folder.mkdir(parents=True)
    with Theatre(folder) as theatre:

        def scored(case: cast.Case) -> list[matrix.Score]:
            run = theatre.play(case)
            found = run.scores(judge_life)
            if all(score.right for score in found):
                shutil.rmtree(run.bundle)
            return found

        for scores in at_the_same_time([by_name[line.strip()] for line in sys.stdin], scored, at_once):
            sys.stdout.buffer.write(msgspec.json.encode(scores) + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

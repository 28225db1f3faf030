"""Real runs that are slow but alive are never called hung, at whatever instant one looks; and they complete.

Each is looked at in full every two seconds, also when nothing asks for it, and judged at each look by what is known
then. The three run side by side: most of their time is waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from pytest_ocrepro import Grade, Verdict, late, paced, text
from pytest_ocrepro.events import ProviderReply, RegistryRequest, Trouble
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.history import now_ns
from pytest_ocrepro.judge.judgement import ProcessJudgement
from pytest_ocrepro.judge.verdict import judge_process, last_progress
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.subject import PINNED, Build, fetch

pytestmark = pytest.mark.real
DEADLINE_S = 150.0  # well beyond everything here, on a slow machine too
LOOK_EVERY_S = 2.0
TOKEN_EVERY_S, WORDS = 5.0, "one two three four five"
FIRST_TOKEN_S = 40.0
REGISTRY_S = 30.0


class Look(msgspec.Struct, frozen=True):
    """What was said at one full snapshot, and for how long nothing had been seen to move then."""

    judged: ProcessJudgement
    quiet_s: float


class Seen(msgspec.Struct, frozen=True):
    """A run from start to end. ``seconds``: how long it took."""

    trial: Trial
    looks: list[Look]
    last: ProcessJudgement
    answered: bool | None

    def quietest(self) -> float:
        """The longest time without a step at any look."""
        return max(look.quiet_s for look in self.looks)

    def hung(self) -> list[str]:
        """What was called hung, and why."""
        return [f"{one.judged.verdict}: {one.judged.because}" for one in self.looks if one.judged.verdict.hung]


def slow_tokens(trial: Trial) -> None:
    trial.provider.script(paced(TOKEN_EVERY_S, text(WORDS)))


def late_first_token(trial: Trial) -> None:
    trial.provider.script(late(FIRST_TOKEN_S, text("at last")))


def slow_registry(trial: Trial) -> None:
    trial.registry.stall(seconds=REGISTRY_S)
    trial.project.add_plugin()
    trial.provider.script(text("done"))


PLAYS: tuple[Callable[[Trial], None], ...] = (slow_tokens, late_first_token, slow_registry)


def look_on(trial: Trial, process: Process) -> Iterator[Look]:
    while process.alive:
        trial.sampler.snapshot()
        judged = judge_process(trial.history, process.pid)
        now = now_ns()
        yield Look(judged, (now - last_progress(trial.history, process.pid, now)[0]) / 1e9)
        process.wait(LOOK_EVERY_S)


def run(session: Session, build: Build, play: Callable[[Trial], None]) -> Seen:
    name = play.__name__
    trial = Trial(session, build, TrialInfo(scenario=name, title=name, version=build.version), name)
    trouble = "the run was not seen to its end"
    try:
        play(trial)
        process = trial.run("hi", deadline_s=DEADLINE_S)
        looks = list(look_on(trial, process))
        answered = trial.expect(process).to_complete()
        trouble = ""
    finally:
        trial.finish(trouble)
    return Seen(trial, looks, judge_process(trial.history, process.pid), answered)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    build = fetch(PINNED)
    session = Session(RunDir.create(tmp_path_factory.mktemp("slow") / "reports"))
    try:
        with ThreadPoolExecutor(len(PLAYS)) as pool:
            names = [play.__name__ for play in PLAYS]
            return dict(zip(names, pool.map(lambda play: run(session, build, play), PLAYS), strict=True))
    finally:
        session.close()


@pytest.mark.parametrize(
    ("name", "slow_for_s", "quiet_for_s"),
    [
        ("slow_tokens", (len(WORDS.split()) + 1) * TOKEN_EVERY_S, 3.0),
        ("late_first_token", FIRST_TOKEN_S, FIRST_TOKEN_S - 10.0),
        ("slow_registry", REGISTRY_S, REGISTRY_S - 10.0),
    ],
)
def test_who_is_slow_but_alive_is_never_called_hung(
    seen: dict[str, Seen], name: str, slow_for_s: float, quiet_for_s: float
) -> None:
    one = seen[name]
    assert one.trial.history.of_type(Trouble) == []
    assert one.hung() == []
    assert (one.last.verdict, one.last.grade, one.answered) == (Verdict.COMPLETED, Grade.PROVED, True)
    assert slow_for_s <= one.last.seconds < DEADLINE_S
    assert len(one.looks) > slow_for_s / LOOK_EVERY_S / 2, "hardly anybody looked"
    assert one.quietest() > quiet_for_s, "it never looked hung, so this run shows nothing"


def test_the_slow_ones_were_slow_for_the_reason_that_was_staged(seen: dict[str, Seen]) -> None:
    words = [event.what for event in seen["slow_tokens"].trial.history.of_type(ProviderReply)]
    assert words.count("continued") == len(WORDS.split()) + 1
    asked = seen["slow_registry"].trial.history.of_type(RegistryRequest)
    assert asked
    assert {event.reply for event in asked} == {"stalled"}
    waits = [link for look in seen["late_first_token"].looks for link in look.judged.chain]
    assert any("waits for an answer of the provider" in link for link in waits)

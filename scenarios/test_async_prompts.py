"""Prompts that are accepted, and what the status says of them (anomalyco/opencode#46842)."""

from contextlib import suppress
from statistics import median

import pytest

from pytest_ocrepro import NotReachedError, Server, Trial, error, for_ever, held, prompt_body, stall_after, text

LOST = ("anomalyco/opencode#46842", "anomalyco/opencode#32010", "anomalyco/opencode#21524")
EARLY = ("anomalyco/opencode#12860", "avibe-bot/avibe#1189", "pingdotgg/t3code#11677")
ROUNDS = 8
LOOKS = 2000  # at some ms each
ANSWERED_WITHIN_S = 10.0


def is_answered(ocrepro: Trial, words: str) -> bool:
    """The model must be asked with these words of an accepted prompt."""

    def asked() -> bool:
        return any(words in request.last_text for request in ocrepro.provider.requests() if not request.title)

    with suppress(NotReachedError):
        ocrepro.wait_until(asked, what=f"a request with {words!r}", timeout_s=ANSWERED_WITHIN_S)
    held = asked()
    ocrepro.claim(
        f"the accepted prompt {words!r} gets a turn",
        held=held,
        because=f"the model was {'' if held else f'not asked within {ANSWERED_WITHIN_S:g} s, only '}asked with "
        + ", ".join(repr(request.last_text[:40]) for request in ocrepro.provider.requests() if not request.title),
        finding="" if held else "lost-prompt",
    )
    return held


def status_of(server: Server, session: str) -> str:
    """What the status API says right now; a session that it does not list is idle, and silence is "unknown"."""
    answer = server.call("GET", "/session/status", purpose="status")
    found = answer.json
    if not answer.accepted or not isinstance(found, dict):
        return "unknown"
    return str(found.get(session, {}).get("type", "idle"))


def looks_at(server: Server, session: str, most: int = LOOKS) -> list[str]:
    """What the status API says again and again until it says idle; the last look is the one before this returns."""
    seen: list[str] = []
    while len(seen) < most and seen[-1:] not in (["idle"], ["unknown"]):
        seen.append(status_of(server, session))
    if seen[-1] == "unknown" or len(seen) == LOOKS:
        raise NotReachedError(f"no end of the turn: the status is {seen[-1]!r} at look {len(seen)}")
    return seen


@pytest.mark.ocrepro(
    issue=LOST,
    covers="Mte90/opencode-auto-resume#22",
    profile="ci",
    title="prompt to a busy session",
)
@pytest.mark.parametrize("turn", ["ends", "is aborted"])
def test_prompt_to_a_busy_session(ocrepro: Trial, turn: str) -> None:
    """A prompt that is accepted while a turn runs must get a turn of its own, once that has ended.

    Behind a turn whose model is silent it waits, and nothing but an abort ends that wait; the session must then take
    prompts again, so there the prompt behind the abort counts. Refuted by a request with the prompt's words within
    10 s of the end of the turn, or of that prompt. What we found: 1.18.34 answers both; what was accepted before the
    abort gets no turn of its own.
    """
    barrier = ocrepro.provider.barrier()
    first = held(barrier, text("first")) if turn == "ends" else stall_after(2, text("first and no more"))
    ocrepro.provider.script(first, for_ever(text("second")))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "prompt one")
    ocrepro.provider.wait_for_request()
    ocrepro.expect(server.prompt(session, "prompt two")).to_be_accepted()
    if turn == "ends":
        barrier.open()
        is_answered(ocrepro, "prompt two")
        return
    ocrepro.expect(server.call("POST", f"/session/{session}/abort", {}, purpose="abort")).to_be_accepted()
    server.wait_until_idle(session, ANSWERED_WITHIN_S)
    ocrepro.expect(server.prompt(session, "prompt three")).to_be_accepted()
    is_answered(ocrepro, "prompt three")


@pytest.mark.ocrepro(issue=LOST, profile="ci", title="prompts at the edge of idleness")
def test_prompts_at_the_edge_of_idleness(ocrepro: Trial) -> None:
    """A prompt that comes just as a turn ends must not fall between two chairs.

    In each round the model is let say its last words, and the status is looked at again and again; the session's
    second prompt comes right behind a look: by turns the first one that says idle, and one that still says busy,
    drawn from as many as there were between the last words and idleness before. Refuted by a request with the words
    of every prompt, if both were met.
    """
    server = ocrepro.serve()
    met: list[str] = []
    looks: list[int] = []
    for number in range(1, ROUNDS + 1):
        barrier = ocrepro.provider.barrier()
        ocrepro.provider.script(held(barrier, text("done")), text("done"))
        session = server.new_session()
        server.prompt(session, f"first of {number}")
        barrier.wait_for_arrival()
        barrier.open()
        most = LOOKS if number % 2 else max(1, int(median(looks) * ocrepro.random.uniform(0.3, 1.0)))
        seen = looks_at(server, session, most)
        accepted = ocrepro.expect(server.prompt(session, f"second of {number}")).to_be_accepted()
        met.append(f"{seen[-1]} at look {len(seen)}")
        looks += [len(seen)] if seen[-1] == "idle" else []
        if not accepted or not is_answered(ocrepro, f"second of {number}"):
            return
    both = len({one.split()[0] for one in met}) > 1
    ocrepro.claim(
        "no prompt is lost on either side of the edge",
        held=both or None,
        because=f"the looks before the second prompts: {', '.join(met)}",
    )


@pytest.mark.ocrepro(issue="anomalyco/opencode#45610", profile="ci", title="prompt that fails")
def test_prompt_that_fails(ocrepro: Trial) -> None:
    """A session whose prompt was refused for good must be idle again.

    Refuted by a status of idle within 10 s of the refused request. What we found: each build tried is idle by then.
    """
    ocrepro.provider.script(for_ever(error(400)))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "one")
    ocrepro.provider.wait_for_request()
    idle = server.wait_until_idle(session, ANSWERED_WITHIN_S)
    ocrepro.claim(
        "the session is idle again",
        held=idle,
        because=f"status {status_of(server, session)}",
        finding="" if idle else "stuck-busy",
    )


@pytest.mark.ocrepro(
    issue=EARLY,
    profile="ci",
    title="status right after a prompt was accepted",
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "7/7"},
)
def test_status_right_after_a_prompt(ocrepro: Trial) -> None:
    """A session that has accepted a prompt and not answered it is busy, whenever one asks.

    Refuted by a status of busy in the first look behind the 204. What we found: from 1.14.34 on the call is answered
    before the turn is registered, and the status says idle in each of eight first looks; who waits for idle is done
    at once. Builds up to 1.3.2 say busy.
    """
    barrier = ocrepro.provider.barrier()
    ocrepro.provider.script(for_ever(held(barrier, text("done"))))
    server = ocrepro.serve()
    seen = []
    for _ in range(ROUNDS):
        session = server.new_session()
        server.prompt(session, "one")
        seen.append(status_of(server, session))
    barrier.wait_for_arrival(ROUNDS)
    later = status_of(server, session)
    barrier.open()
    early = seen.count("idle")
    ocrepro.claim(
        "the status is busy from the answer to the prompt on",
        held=None if later == "idle" or (not early and "unknown" in (*seen, later)) else not early,
        because=f"idle {early} of {len(seen)} times right behind the prompt, {later} once the model is asked",
        finding="status-too-early" if early else "",
    )


@pytest.mark.ocrepro(issue="anomalyco/opencode#35472", profile="ci", title="status right after the answer")
def test_status_right_after_the_answer(ocrepro: Trial) -> None:
    """A session whose prompt has returned with its answer is idle.

    Refuted by a status of idle in the first look behind the answer. What we found: each build tried says idle.
    """
    ocrepro.provider.script(for_ever(text("done")))
    server = ocrepro.serve()
    seen = []
    for _ in range(ROUNDS):
        session = server.new_session()
        path = f"/session/{session}/message"
        answer = server.call("POST", path, prompt_body("one"), purpose="prompt", timeout_s=20)
        ocrepro.expect(answer).to_be_answered()
        seen.append(status_of(server, session))
    late = sum(one not in ("idle", "unknown") for one in seen)
    ocrepro.claim(
        "the status is idle once the answer is there",
        held=None if not late and "unknown" in seen else not late,
        because=f"still {', '.join(sorted(set(seen) - {'idle'})) or 'nothing else'} {late} of {len(seen)} times",
        finding="status-too-late" if late else "",
    )


@pytest.mark.ocrepro(
    issue=(*LOST, *EARLY, "anomalyco/opencode#45610", "anomalyco/opencode#35472"), profile="ci", control=True
)
def test_prompts_one_after_the_other(ocrepro: Trial) -> None:
    """Control: each prompt waits until the session is idle."""
    ocrepro.provider.script(for_ever(text("done")))
    server = ocrepro.serve()
    session = server.new_session()
    for words in ("prompt one", "prompt two"):
        body = prompt_body(words)
        answer = server.call("POST", f"/session/{session}/message", body, purpose="prompt", timeout_s=20)
        ocrepro.expect(answer).to_be_answered()
        if not server.wait_until_idle(session):
            raise NotReachedError("the session is not idle behind its answer; the next prompt would wait")
        is_answered(ocrepro, words)

"""Prompts that are accepted, and what the status says of them (anomalyco/opencode#46842)."""

import pytest

from pytest_ocrepro import NotReachedError, Server, Trial, error, for_ever, held, prompt_body, stall_after, text

LOST = ("anomalyco/opencode#46842", "anomalyco/opencode#32010", "anomalyco/opencode#21524")
EARLY = ("anomalyco/opencode#12860", "avibe-bot/avibe#1189", "pingdotgg/t3code#11677")
ROUNDS = 8
ANSWERED_WITHIN_S = 10.0


def all_are_answered(ocrepro: Trial, prompts: int) -> bool:
    """Each accepted prompt must lead to a request of its own."""
    try:
        ocrepro.provider.wait_for_request(prompts, timeout_s=ANSWERED_WITHIN_S)
        held = True
    except NotReachedError:
        held = False
    asked = [request for request in ocrepro.provider.requests() if not request.title]
    ocrepro.claim(
        "every accepted prompt gets a turn",
        held=held,
        because=f"{prompts} prompts were accepted, the model was asked {len(asked)} time(s)",
        finding="" if held else "lost-prompt",
    )
    return held


def status_of(server: Server, session: str) -> str:
    """What the status API says right now; a session that it does not list is idle."""
    found = server.call("GET", "/session/status", purpose="status").json
    entry = found.get(session, {}) if isinstance(found, dict) else {}
    return str(entry.get("type", "idle"))


@pytest.mark.ocrepro(
    issue=LOST,
    covers="Mte90/opencode-auto-resume#22",
    profile="ci",
    title="prompt to a busy session",
    known={"1.14.48": "1/2", "1.15.4": "1/2", "1.18.34": "2/4"},
)
@pytest.mark.parametrize("turn", ["ends", "is silent"])
def test_prompt_to_a_busy_session(ocrepro: Trial, turn: str) -> None:
    """A prompt that is accepted while a turn runs must get a turn of its own.

    Refuted by a request to the model for each prompt within 10 s of the end of the turn. What we found: behind a turn
    that ends the second prompt gets its own; behind one whose model is silent it joins the wait, so a further prompt
    frees nobody.
    """
    barrier = ocrepro.provider.barrier()
    first = held(barrier, text("first")) if turn == "ends" else stall_after(2, text("first and no more"))
    ocrepro.provider.script(first, for_ever(text("second")))
    server = ocrepro.serve()
    session = server.new_session()
    server.prompt(session, "one")
    ocrepro.provider.wait_for_request()
    ocrepro.expect(server.prompt(session, "two")).to_be_accepted()
    barrier.open()
    all_are_answered(ocrepro, 2)


@pytest.mark.ocrepro(issue=LOST, profile="ci", title="prompts at the edge of idleness")
def test_prompts_at_the_edge_of_idleness(ocrepro: Trial) -> None:
    """A prompt that comes just as a turn ends must not fall between two chairs.

    Offsets of 0 to 50 ms are drawn from the trial's seed. Refuted by a request to the model for every prompt.
    """
    ocrepro.provider.script(for_ever(text("done")))
    server = ocrepro.serve()
    for number in range(1, ROUNDS + 1):
        session = server.new_session()
        server.prompt(session, "one")
        ocrepro.provider.wait_for_request(2 * number - 1)
        server.process.wait(ocrepro.random.uniform(0.0, 0.05))  # the sweep over the edge
        server.prompt(session, "two")
        if not all_are_answered(ocrepro, 2 * number):
            return


@pytest.mark.ocrepro(issue="anomalyco/opencode#45610", profile="ci", title="prompt that fails")
def test_prompt_that_fails(ocrepro: Trial) -> None:
    """A session whose prompt was refused for good must be idle again.

    Refuted by a status other than busy within 10 s.
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
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "2/2"},
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
        held=None if later == "idle" else not early,
        because=f"idle {early} of {len(seen)} times right behind the prompt, {later} once the model is asked",
        finding="status-too-early" if early else "",
    )


@pytest.mark.ocrepro(issue="anomalyco/opencode#35472", profile="ci", title="status right after the answer")
def test_status_right_after_the_answer(ocrepro: Trial) -> None:
    """A session whose prompt has returned with its answer is idle.

    Refuted by a status of idle in the first look behind the answer.
    """
    ocrepro.provider.script(for_ever(text("done")))
    server = ocrepro.serve()
    seen = []
    for _ in range(ROUNDS):
        session = server.new_session()
        path = f"/session/{session}/message"
        answer = server.call("POST", path, prompt_body("one"), purpose="prompt", timeout_s=20)
        ocrepro.expect(answer).to_be_accepted()
        seen.append(status_of(server, session))
    late = len(seen) - seen.count("idle")
    ocrepro.claim(
        "the status is idle once the answer is there",
        held=not late,
        because=f"still {', '.join(sorted(set(seen) - {'idle'})) or 'nothing else'} {late} of {len(seen)} times",
        finding="status-too-late" if late else "",
    )


@pytest.mark.ocrepro(issue=(*LOST, *EARLY), profile="ci", control=True)
def test_prompts_one_after_the_other(ocrepro: Trial) -> None:
    """Control: each prompt waits until the session is idle."""
    ocrepro.provider.script(for_ever(text("done")))
    server = ocrepro.serve()
    session = server.new_session()
    for number in (1, 2):
        server.call("POST", f"/session/{session}/message", prompt_body("one"), purpose="prompt", timeout_s=20)
        server.wait_until_idle(session)
        all_are_answered(ocrepro, number)

"""Locks that somebody who was killed has left behind (anomalyco/opencode#38480, #28952)."""

import hashlib
from pathlib import Path

import pytest

from pytest_ocrepro import NotReachedError, Process, Server, Trial, for_ever, text, tool

BEHIND = ("anomalyco/opencode#38480", "anomalyco/opencode#36763", "anomalyco/opencode#20765")
SNAPSHOT = ("anomalyco/opencode#28952", "anomalyco/opencode#29413", "anomalyco/opencode#42597")
COMMIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "first")
LIMIT_S = 40.0  # below the 60 s after which a lock directory counts as left behind
PATIENCE_S = 60.0
FIRST, SECOND = "a line\n", "another line\n"


def start(ocrepro: Trial, what: str) -> Process:
    """A run that asks the registry for something behind a lock directory."""
    if what == "plugin install":
        ocrepro.project.add_plugin()
        return ocrepro.run("hi", deadline_s=LIMIT_S)
    models = ocrepro.registry.url.rstrip("/")
    return ocrepro.run("hi", deadline_s=LIMIT_S, OPENCODE_DISABLE_MODELS_FETCH="", OPENCODE_MODELS_URL=models)


@pytest.mark.ocrepro(
    issue=BEHIND,
    profile="ci",
    soak=("models list",),
    title="killed while it held a lock directory",
    known={"1.14.48": "1/2", "1.15.4": "1/2", "1.18.34": "3/4"},
)
@pytest.mark.parametrize("what", ["plugin install", "models list"])
def test_killed_while_it_held_a_lock_directory(ocrepro: Trial, what: str) -> None:
    """The next start must see that the holder is dead, and not wait for the lock to grow old.

    Refuted by an answer within 40 s. What we found: the next start waits in silence for the lock of a plugin install,
    although meta.json names a pid that is gone. Its end is not awaited here: the judge reckons from the lock's record
    that it breaks itself when it is 60 s old. The lock of the list of models is got over.
    """
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.registry.stall()
    first = start(ocrepro, what)
    ocrepro.wait_for(ocrepro.at_lock_directory(first))
    first.kill()
    ocrepro.registry.heal()
    ocrepro.expect(start(ocrepro, what)).to_complete()


@pytest.mark.ocrepro(issue=BEHIND, profile="ci", soak=("models list",), control=True)
@pytest.mark.parametrize("what", ["plugin install", "models list"])
def test_ended_before_it_was_needed(ocrepro: Trial, what: str) -> None:
    """Control: the first one is answered by the registry and ends by itself; the second has nothing to wait for."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.expect(start(ocrepro, what)).to_complete()
    ocrepro.expect(start(ocrepro, what)).to_complete()


def commit(ocrepro: Trial) -> None:
    """A first commit of the project."""
    if code := ocrepro.spawn(COMMIT, role="git").wait_for_end():
        raise NotReachedError(f"git made no commit, and ended with {code}; see what it printed")


def repositories(ocrepro: Trial) -> list[Path]:
    """Those that opencode keeps its snapshots in."""
    return [path.parent for path in (ocrepro.sandbox.data / "snapshot").rglob("HEAD") if path.parent.name != "logs"]


def locks(ocrepro: Trial) -> list[str]:
    """Which of them git holds, or has held, an index.lock in."""
    return sorted(str(path) for path in (ocrepro.sandbox.data / "snapshot").rglob("index.lock"))


def keeps(place: Path, content: bytes) -> bool:
    """The repository has this content of a file, as git stores it when it is added (gitformat-loose)."""
    name = hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()
    return (place / "objects" / name[:2] / name[2:]).exists()


def write_in_a_run(ocrepro: Trial, content: str) -> bool | None:
    """A run that writes a file, and makes snapshots before and behind it."""
    write = tool("write", filePath=str(ocrepro.project.root / "new.txt"), content=content)
    ocrepro.provider.script(write, text("done"))
    return ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete()


def snapshot_twice(ocrepro: Trial, *, locked: bool) -> None:
    """A run that makes a snapshot, and another one over what the first has left."""
    commit(ocrepro)
    if not write_in_a_run(ocrepro, FIRST):
        return
    places = repositories(ocrepro)
    if not any(keeps(place, FIRST.encode()) for place in places):
        pytest.skip("this build keeps no snapshot of what a tool has written")
    for place in places if locked else ():
        (place / "index.lock").touch()
    if not write_in_a_run(ocrepro, SECOND):
        return
    kept = any(keeps(place, SECOND.encode()) for place in repositories(ocrepro))
    left = locks(ocrepro)
    ocrepro.claim(
        "the second run makes snapshots too",
        held=kept,
        because=f"what it has written is {'' if kept else 'not '}in one; {'; '.join(left) or 'no lock'} is there",
        finding="" if kept else "lost-snapshot",
    )


@pytest.mark.ocrepro(
    issue=SNAPSHOT,
    profile="ci",
    title="index.lock of a snapshot is left behind",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
)
def test_index_lock_that_is_left(ocrepro: Trial) -> None:
    """A run must get over the index.lock that a killed one has left in the snapshots' repository.

    The lock is put there as a killed git leaves it, an empty file. Refuted by a snapshot that holds what the tool of
    the second run has written. What we found: 1.14.48 and 1.18.34 answer,
    make no snapshot any more, and leave the lock there.
    """
    snapshot_twice(ocrepro, locked=True)


def slow_git(ocrepro: Trial, *, slow: bool) -> None:
    """Make git take its time over one file of the project, or no more."""
    clean = "sleep 300 && cat" if slow else "cat"  # a semicolon would begin a comment
    (ocrepro.sandbox.root / "home/.gitconfig").write_text(f'[filter "slow"]\n\tclean = {clean}\n')


def begin_a_turn(ocrepro: Trial, server: Server) -> str:
    """A turn in a session of its own, which begins with a snapshot; the session."""
    ocrepro.provider.script(text("done"))
    session = server.new_session()
    server.prompt(session, "begin")
    return session


def asked(ocrepro: Trial) -> int:
    """How often the model was."""
    return sum(not request.title for request in ocrepro.provider.requests())


def turn_leaves_no_lock(ocrepro: Trial, server: Server) -> None:
    """One turn to its end; behind it no lock of git may lie in the repository of snapshots."""
    before = asked(ocrepro)
    session = begin_a_turn(ocrepro, server)
    ocrepro.provider.wait_for_request(before + 1, timeout_s=PATIENCE_S)
    must_be_idle(server, session)
    left = locks(ocrepro)
    ocrepro.claim(
        "no lock of git is left behind the next turn",
        held=not left,
        because="; ".join(left) or "there is none",
        finding="stale-index-lock" if left else "",
    )


def must_be_idle(server: Server, session: str) -> None:
    """Else a git that is at work has its lock."""
    if not server.wait_until_idle(session, PATIENCE_S):
        raise NotReachedError(f"the turn of session {session} did not end within {PATIENCE_S:g} s")


@pytest.mark.ocrepro(
    issue=SNAPSHOT,
    profile="ci",
    title="killed while git made a snapshot",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
)
def test_killed_while_git_made_a_snapshot(ocrepro: Trial) -> None:
    """A server whose predecessor was killed with its git, in the middle of a snapshot, must make snapshots again.

    A filter of git holds it at one file, as a large tree does, and server and git are killed there. Refuted by a
    repository of snapshots that holds no index.lock behind the next turn. What we found: the turn is answered, and
    the lock stays: git refuses to touch the index from then on, and nothing is said of it.
    """
    commit(ocrepro)
    ocrepro.project.write(".gitattributes", "*.slow filter=slow\n")
    ocrepro.project.write("a.slow", "a line\n")
    slow_git(ocrepro, slow=True)
    server = ocrepro.serve()
    session = begin_a_turn(ocrepro, server)

    def at_work() -> list[str]:
        return [one for one in ocrepro.alive(tools_only=True) if "sleep 300" in one]

    def over() -> bool:
        return asked(ocrepro) > 0 and not server.busy(session)

    ocrepro.wait_until(lambda: at_work() or over(), what="git at work on a snapshot", timeout_s=PATIENCE_S)
    if not at_work():
        pytest.skip("this build makes no snapshot of the project in a turn")
    server.process.kill()
    ocrepro.kill_tools()
    if not locks(ocrepro):
        raise NotReachedError("git was killed, and had no index.lock yet, or no more")
    slow_git(ocrepro, slow=False)
    turn_leaves_no_lock(ocrepro, ocrepro.serve(role="server-again"))


@pytest.mark.ocrepro(issue=SNAPSHOT, profile="ci", control=True)
def test_turn_behind_a_snapshot_that_is_whole(ocrepro: Trial) -> None:
    """Control: the same two turns with a kill in between, when git is done."""
    commit(ocrepro)
    server = ocrepro.serve()
    session = begin_a_turn(ocrepro, server)
    ocrepro.provider.wait_for_request(timeout_s=PATIENCE_S)
    must_be_idle(server, session)
    if not repositories(ocrepro):
        pytest.skip("this build makes no snapshot of the project in a turn")
    server.process.kill()
    turn_leaves_no_lock(ocrepro, ocrepro.serve(role="server-again"))


@pytest.mark.ocrepro(issue=SNAPSHOT, profile="ci", control=True)
def test_snapshot_without_a_lock(ocrepro: Trial) -> None:
    """Control: the same two runs with nothing left."""
    snapshot_twice(ocrepro, locked=False)

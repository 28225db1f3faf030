"""What each worker of a wrapper needs of its own for a mechanism to go away (NateBJones-Projects/ringer#79)."""

import pytest

from pytest_ocrepro import Trial, for_ever, text

WRAPPERS = (
    "NateBJones-Projects/ringer#79",
    "reddb-io/red-skills#4186",
    "scotthawes/multica#5",
)
XDG = {"XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}
RECIPES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    **{name: (name,) for name in XDG},
    "OPENCODE_DB": ("OPENCODE_DB",),
    "HOME": ("HOME",),
    "TMPDIR": ("TMPDIR",),
    "XDG_DATA_HOME and XDG_STATE_HOME": ("XDG_DATA_HOME", "XDG_STATE_HOME"),
}
MECHANISMS = ("cold start", "write lock", "install lock")
LIMIT_S = 20.0  # well before the lock of a suspended holder is 60 s old, and is broken
PATIENCE_S = 60.0  # what fails says so: only a busy machine takes long
RUNS = 4


def own(ocrepro: Trial, recipe: str, worker: str) -> dict[str, str]:
    """The variables of one worker. HOME: with no XDG variable set, so that all four follow it."""
    found: dict[str, str] = {}
    for name in RECIPES[recipe]:
        if name in XDG:
            found[name] = str(ocrepro.sandbox.own_home(XDG[name], worker))
            continue
        place = ocrepro.sandbox.root / worker
        place.mkdir()
        found[name] = str(place / "opencode.db") if name == "OPENCODE_DB" else str(place)
        found |= dict.fromkeys(XDG, "") if name == "HOME" else {}
    return found


def meet(ocrepro: Trial, mechanism: str, recipe: str) -> None:
    """Let workers with this recipe meet the mechanism; each must do its work."""
    ocrepro.provider.script(for_ever(text("done")))
    if mechanism == "cold start":
        homes = [own(ocrepro, recipe, f"worker-{number}") for number in range(RUNS)]
        for run in [ocrepro.run("hi", deadline_s=PATIENCE_S, **home) for home in homes]:  # type: ignore[arg-type]
            if ocrepro.expect(run).not_to_die_of_the_database():
                ocrepro.expect(run).to_complete()
        return
    worker = own(ocrepro, recipe, "worker")
    if mechanism == "write lock":
        ocrepro.run("hi", role="warm-up").wait_for_end(PATIENCE_S)
        with ocrepro.hold_database("IMMEDIATE"):
            ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S, **worker)).to_complete()  # type: ignore[arg-type]
        return
    ocrepro.registry.stall()
    ocrepro.project.add_plugin()
    first = ocrepro.run("hi")
    ocrepro.wait_for(ocrepro.at_lock_directory(first))
    first.suspend()  # it keeps the lock, whatever the registry says
    ocrepro.registry.heal()
    ocrepro.expect(ocrepro.run("hi", deadline_s=LIMIT_S, **worker)).to_complete()  # type: ignore[arg-type]


@pytest.mark.ocrepro(issue=WRAPPERS, profile="soak", title="workers with a recipe", known={"1.18.34": "31/65"})
@pytest.mark.parametrize(
    ("mechanism", "recipe"),
    [pytest.param(one, other, id=f"{one} with {other}") for one in MECHANISMS for other in RECIPES],
)
def test_workers_with_a_recipe(ocrepro: Trial, mechanism: str, recipe: str) -> None:
    """A worker that has this of its own must be answered, whatever another one does.

    The mechanisms: four starts at once on empty data directories, a database whose write lock is held, an install
    lock whose holder is suspended. Refuted by, for a recipe and a mechanism, workers that are answered. What we
    found: on 1.18.34 a database of its own (XDG_DATA_HOME, OPENCODE_DB, HOME) spares a worker the write lock, and
    XDG_STATE_HOME, XDG_CONFIG_HOME or HOME the install lock; TMPDIR and XDG_CACHE_HOME spare it nothing.
    """
    meet(ocrepro, mechanism, recipe)


@pytest.mark.ocrepro(issue=WRAPPERS, profile="soak", control=True)
def test_one_worker_alone(ocrepro: Trial) -> None:
    """Control: one worker, with nobody to meet."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete()

"""Why does an overlapping start hang? Six stories share one log; here they are factors (anomalyco/opencode#29395)."""

import itertools
import shutil

import pytest

from pytest_ocrepro import OpenPipe, Trial, for_ever, never_ending, text

ISSUES = (
    "anomalyco/opencode#29395",
    "anomalyco/opencode#50348",
    "anomalyco/opencode#38723",
    "anomalyco/opencode#44684",
)
FACTORS = (
    ("same directory", "another directory"),
    ("git", "no git"),
    ("warm data", "cold data"),
    ("shared homes", "own homes"),
    ("no plugin", "a plugin"),
    ("stdin closed", "stdin open"),
)
HOMES = {"XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache"}
LIMIT_S = 45.0  # as in the report's own script; the lock of a suspended holder is broken when it is 60 s old
PATIENCE_S = 90.0  # the start alone takes long on a busy machine

Cell = tuple[str, ...]
# Every second cell of the 64: those that are at an even number of second levels
CELLS: list[Cell] = [
    cell
    for cell in itertools.product(*FACTORS)
    if sum(level == second for level, (_, second) in zip(cell, FACTORS, strict=True)) % 2 == 0
]
OPEN = [cell for cell in CELLS if "stdin open" in cell]
CLOSED = [cell for cell in CELLS if "stdin closed" in cell]
IN_BRIEF = [
    cell for cell in CLOSED if {"git", "warm data", "a plugin"} < set(cell)
]  # another directory with shared homes, and the same one with own homes


def words_of(cell: Cell) -> str:
    """The id of a case."""
    return ", ".join(cell)


def furnish(ocrepro: Trial, cell: Cell) -> tuple[tuple[str, ...], dict[str, str]]:
    """Make the world of a cell; the later run's arguments, and its variables."""
    project = ocrepro.project.root
    place = project / "elsewhere" if "another directory" in cell else project
    if "no git" in cell:
        shutil.rmtree(project / ".git")
    if place != project:
        ocrepro.project.write("elsewhere/README.md", "Another directory.\n")
        if "git" in cell:
            shutil.copytree(project / ".git", place / ".git")
    if "a plugin" in cell:
        plugin = ocrepro.project.add_plugin()
        if place != project:
            shutil.copytree(plugin.parent.parent, place / ".opencode")
    own = {name: str(ocrepro.sandbox.own_home(kind, "later")) for name, kind in HOMES.items()}
    return ("--dir", str(place)), own if "own homes" in cell else {}


def start_behind(ocrepro: Trial, cell: Cell, *, overlap: bool) -> None:
    """A run beside one that is alive, or behind one that has ended; it must be answered."""
    arguments, variables = furnish(ocrepro, cell)
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.provider.script(never_ending(), when="stay alive")
    if "warm data" in cell:
        ocrepro.run("hi", role="warm-up", args=arguments, **variables).wait_for_end(PATIENCE_S)  # type: ignore[arg-type]
    if overlap:
        stay_alive(ocrepro, cell)
    else:
        ocrepro.run("hi", role="first").wait_for_end(PATIENCE_S)
    later = ocrepro.run(
        "hi",
        role="later",
        args=arguments,
        stdin=OpenPipe() if "stdin open" in cell else None,
        deadline_s=LIMIT_S,
        **variables,  # type: ignore[arg-type]
    )
    ocrepro.expect(later).to_complete()


def stay_alive(ocrepro: Trial, cell: Cell) -> None:
    """The other run: in the middle of its turn, or, with a plugin, stopped in the middle of its install."""
    if "a plugin" not in cell:
        before = ocrepro.claims.asked()
        ocrepro.run("stay alive", role="first")
        ocrepro.provider.wait_for_request(before + 1, timeout_s=PATIENCE_S)
        return
    ocrepro.registry.stall()
    first = ocrepro.run("stay alive", role="first")
    ocrepro.wait_for(ocrepro.at_lock_directory(first), timeout_s=PATIENCE_S)
    first.suspend()  # it keeps its lock, while the registry answers everybody else
    ocrepro.registry.heal()


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="soak",
    title="overlapping start, by factors",
    known={"1.14.48": "20/32", "1.15.4": "20/32", "1.18.34": "37/59"},
)
@pytest.mark.parametrize("cell", CELLS, ids=words_of)
def test_overlapping_start(ocrepro: Trial, cell: Cell) -> None:
    """A run that starts beside one that is alive must be answered, whatever they share.

    Six factors, half of their 64 cells: each factor and each pair of factors can be told from every other one and
    from every other pair; three together cannot be told from the three others. Refuted by, for a factor, cells at its
    second level that are answered. The same start behind one that has ended is the control of the 16 cells whose
    standard input is closed. With an open one a start hangs alone, so that those cells have no control: the verdict
    tells what holds them, and test_serial_start_with_an_open_input shows each without an overlap.

    What we found: on 1.18.34 all 16 cells with an open standard input hang, and of the other 16 the four with a
    plugin and shared homes. Of those 16, 12 wait for input, which no overlap is needed for; the four with a plugin
    and shared homes are blocked, as the four with a closed one: they wait for the install lock of the user's
    configuration directory, and were answered when it was 60 s old. Another directory, no ``.git`` and cold data
    neither hang a start nor spare it; homes of its own spare it the lock. An overlap alone does nothing.
    """
    start_behind(ocrepro, cell, overlap=True)


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="soak",
    title="start behind an end, standard input open, by factors",
    known={"1.14.48": "16/16", "1.15.4": "16/16", "1.18.34": "16/16"},
)
@pytest.mark.parametrize("cell", OPEN, ids=words_of)
def test_serial_start_with_an_open_input(ocrepro: Trial, cell: Cell) -> None:
    """A run with an open standard input must be answered where nobody is beside it, in each of the 16 cells.

    What hangs here and in the same cell of the overlapping start hangs without any overlap. Refuted by, for a cell,
    an answer. What we found: on 1.18.34 both cells tried wait for their input; one of them has a plugin and shared
    homes, and beside an overlap waits for the lock before it comes to that.
    """
    start_behind(ocrepro, cell, overlap=False)


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="ci",
    soak=("another directory, git, warm data, shared homes, a plugin, stdin closed",),
    title="overlapping start beside an install",
    known={"1.14.48": "2/7", "1.15.4": "2/7", "1.18.34": "3/9"},
)
@pytest.mark.parametrize("cell", IN_BRIEF, ids=words_of)
def test_overlapping_start_in_brief(ocrepro: Trial, cell: Cell) -> None:
    """The two cells of the factorial that tell what is waited for: a lock in the homes, not one of the directory.

    Refuted by an answer in another directory with shared homes, or none in the same one with own homes. What we
    found: it is the lock in the state directory that all share, for the user's configuration directory; one's own
    project is no way out, and one's own homes are.
    """
    start_behind(ocrepro, cell, overlap=True)


@pytest.mark.ocrepro(issue=ISSUES, profile="soak", control=True)
@pytest.mark.parametrize("cell", CLOSED, ids=words_of)
def test_serial_start(ocrepro: Trial, cell: Cell) -> None:
    """Control: the same two starts of each cell, the later one when the first has ended."""
    start_behind(ocrepro, cell, overlap=False)


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="ci",
    soak=("another directory, git, warm data, shared homes, a plugin, stdin closed",),
    control=True,
)
@pytest.mark.parametrize("cell", IN_BRIEF, ids=words_of)
def test_serial_start_in_brief(ocrepro: Trial, cell: Cell) -> None:
    """Control: the same two starts of each of the two cells, one behind the other."""
    start_behind(ocrepro, cell, overlap=False)

"""Which tests a run collects, and what each item is called: the test's own words apart from build and trial."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_ocrepro.catalogue import CATALOGUE, catalogue
from pytest_ocrepro.publish.bundle import TrialInfo
from pytest_ocrepro.publish.run_folders import slug
from pytest_ocrepro.settings import PROFILES, Mark, Settings, check_root, read_mark
from pytest_ocrepro.stage.subject import Build


def choose_paths(config: pytest.Config) -> tuple[str, ...]:
    """With no path given: the project's scenarios, else the catalogue that came with us."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return _found_in_the_catalogue(config)
    check_root(config)
    own = tuple(str(config.rootpath / path) for path in config.getini("ocrepro_scenarios") or ())
    return own or (str(catalogue()),)


def scenario_of_item(item: Any) -> str:
    """The node id with the test's own parameters, and without ours: build and trial are told apart from it.

    The catalogue's own files are named from its folder on, wherever it lies.
    """
    path = Path(item.path)
    bare = str(item.nodeid).split("[", 1)[0]
    if path.is_relative_to(catalogue()):
        bare = f"{CATALOGUE}/{path.relative_to(catalogue())}::{item.originalname}"
    own = without_ours(item, "")
    return f"{bare}[{own}]" if own else bare


def without_ours(item: Any, instead: str) -> str:
    """What stands in the item's brackets, our part of it replaced."""
    build, number = item.callspec.params["ocrepro"]
    ours = "|".join(re.escape(name) for name in sorted({build.version, build.label}, key=len, reverse=True))
    pattern = rf"(?:^|(?<=-))(?:{ours})(?:-t{number})?(?:$|(?=-))"
    return re.sub(pattern, lambda _: instead, item.callspec.id, count=1).strip("-")


def profile_of(item: Any) -> str:
    """The smallest profile that runs it."""
    mark = read_mark(item)
    return PROFILES[-1] if mark.soak and without_ours(item, "") in mark.soak else mark.profile


def title_of(item: Any, mark: Mark) -> str:
    """What a person reads: the mark's title, else the test's name; with the test's own parameters."""
    title = mark.title or item.originalname.removeprefix("test_").replace("_", " ")
    own = without_ours(item, "")
    return f"{title}: {own}" if own else title


def slug_of(item: Any, build: Build, number: int) -> str:
    """The name of the trial's bundle."""
    return slug(scenario_of_item(item), build.version, number)


def labels(builds: tuple[Build, ...]) -> list[str]:
    """The version of each build; where two have the same, what tells them apart."""
    versions = [build.version for build in builds]
    return [build.version if versions.count(build.version) == 1 else build.label for build in builds]


def info_of(item: Any, build: Build, number: int, settings: Settings) -> TrialInfo:
    """What is told of a trial before it begins."""
    mark = read_mark(item)
    seed = settings.seed + number - 1
    docstring = (item.function.__doc__ or "").strip()
    return TrialInfo(
        scenario=scenario_of_item(item),
        title=title_of(item, mark),
        issue=mark.issue,
        version=build.version,
        binary_sha256=build.sha256,
        trial=number,
        seed=seed,
        docstring=docstring,
        replay=_replay(item, build, seed, settings),
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        control=mark.control,
    )


def _found_in_the_catalogue(config: pytest.Config) -> tuple[str, ...]:
    """The given paths; those of a replay line that are not here are the installed catalogue's."""
    here, moved = config.invocation_params.dir, []
    for argument in config.args:
        place, colons, name = argument.partition("::")
        inside = catalogue().parent / place
        absent = place.startswith(f"{CATALOGUE}/") and not (here / place).exists() and inside.exists()
        moved.append(f"{inside}{colons}{name}" if absent else argument)
    return tuple(moved) if moved != config.args else ()


def _replay(item: Any, build: Build, seed: int, settings: Settings) -> str:
    which = ["--ocrepro-version", build.version] if build.package else [f"--ocrepro-binary={build.path}"]
    own = without_ours(item, "")
    name = labels((build,))[0]
    node = (
        scenario_of_item(item)
        if not own
        else f"{scenario_of_item(item).split('[', 1)[0]}[{without_ours(item, name)}]"
    )
    asked = settings.schedule
    moves = [] if asked is None else [f"--ocrepro-schedule={'; '.join(asked)}"]
    return shlex.join(["pytest", "--ocrepro", *which, "--ocrepro-seed", str(seed), *moves, node])

"""What the user asked for, with its source: command line before environment before ini before default."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.looks import LookPlan, parse_looks
from pytest_ocrepro.schedule import parse
from pytest_ocrepro.stage.cache import parse_size

GITHUB = ("auto", "on", "off")
EXPECTATIONS = ("known", "clean", "reproduced", "any")
FEWEST = 5  # trials, all of them failures, before one without is called fixed
PROFILES = ("smoke", "ci", "soak")  # each holds the one before
MOST = 2**31 - 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All options of one run; travels to xdist workers as JSON."""

    binary: str | None
    versions: tuple[str, ...]
    trials: int
    seed: int
    expect: str
    reports: str
    offline: bool
    intrusive: bool = False
    profile: str = PROFILES[0]
    baseline: str = ""
    github: str = GITHUB[0]
    ctrf: str = ""
    cache_limit_bytes: int | None = None
    verify_repro: int = 0
    schedule: tuple[str, ...] | None = None
    looks: LookPlan | None = None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What ``@pytest.mark.ocrepro(...)`` says. ``known``: version -> "k/n", or "" where n is not told.

    ``covers``: further reports of the same mechanism, for ``ocrepro catalogue``. ``schedule``: its moves in words.
    ``timing``: it measures times, so no other such trial may run on the machine meanwhile. ``soak``: sets of its
    parameters, as pytest words them, that the largest profile alone runs.
    """

    issue: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    known: dict[str, str] = {}
    title: str = ""
    control: bool = False
    profile: str = PROFILES[0]
    schedule: tuple[str, ...] | None = None
    timing: bool = False
    soak: tuple[str, ...] = ()

    def deterministic_on(self, version: str) -> bool:
        """Our own runs saw it every time, and often enough to be surprised when it is not seen."""
        seen, _, tried = self.known.get(version, "").partition("/")
        return tried.isdigit() and int(tried) >= FEWEST and seen == tried

    def never_on(self, version: str) -> bool:
        """Our own runs tried it, and never saw it."""
        return self.known.get(version, "").startswith("0/")


def read_settings(config: pytest.Config) -> Settings:
    """Raises UsageError naming the source of a bad value, or two that contradict."""
    binary, binary_source = _first(config, "binary", env="OCREPRO_BINARY")
    versions = tuple(config.getoption("--ocrepro-version")) or tuple(config.getini("ocrepro_version") or ())
    if config.getoption("--ocrepro-binary") and config.getoption("--ocrepro-version"):
        raise UsageError("--ocrepro-binary and --ocrepro-version contradict each other; give one of them")
    if config.getoption("--ocrepro-version") and binary_source != "--ocrepro-binary":
        binary = None
    baseline = str(_place(config, "baseline") or "")
    limit, limit_source = _first(config, "cache_limit", env="OCREPRO_CACHE_LIMIT")
    expected, _ = _first(config, "expect", env="OCREPRO_EXPECT")
    trials = _number(config, "trials", default=1, least=1, env="OCREPRO_TRIALS")
    return Settings(
        binary=binary,
        versions=versions,
        trials=trials,
        looks=_looks(config, trials, baseline),
        seed=_number(config, "seed", default=0, least=0),
        expect="any" if baseline and expected is None else _choice(config, "expect", EXPECTATIONS),
        profile=_choice(config, "profile", PROFILES),
        reports=str(_place(config, "reports", default="reports")),
        github=_choice(config, "github", GITHUB),
        ctrf=str(_place(config, "ctrf") or ""),
        offline=bool(config.getoption("--ocrepro-offline")),
        intrusive=bool(config.getoption("--ocrepro-intrusive")),
        baseline=baseline,
        cache_limit_bytes=parse_size(limit, limit_source) if limit else None,
        schedule=_schedule(config.getoption("--ocrepro-schedule")),
        verify_repro=_number(config, "verify_repro", default=0, least=0, env="OCREPRO_VERIFY_REPRO"),
    )


def _looks(config: pytest.Config, trials: int, baseline: str) -> LookPlan | None:
    text, source = _first(config, "looks", env="OCREPRO_LOOKS")
    if text is None:
        return None
    if baseline:
        raise UsageError(f"{source} and a baseline contradict each other: its test looks once; give one of them")
    return parse_looks(text, source, trials)


def _schedule(words: str | None) -> tuple[str, ...] | None:
    if words is None:
        return None
    try:
        return tuple(map(str, parse(words.split(";"))))
    except UsageError as error:
        raise UsageError(f"--ocrepro-schedule: {error}") from None


def read_mark(item: pytest.Item) -> Mark:
    """The nearest ``ocrepro`` mark. Raises UsageError naming the test and what is wrong."""
    found = item.get_closest_marker("ocrepro")
    if found is None:
        return Mark()
    unknown = set(found.kwargs) - set(Mark.__struct_fields__)
    if found.args or unknown:
        wrong, takes = ", ".join(sorted(unknown)) or "positional arguments", ", ".join(Mark.__struct_fields__)
        raise UsageError(f"{item.nodeid}: mark ocrepro does not take {wrong}; it takes {takes}")
    issue = found.kwargs.get("issue", ())
    covers = found.kwargs.get("covers", ())
    known = found.kwargs.get("known", {})
    fields = {
        "issue": (issue,) if isinstance(issue, str) else tuple(issue),
        "covers": (covers,) if isinstance(covers, str) else tuple(covers),
        "known": known if isinstance(known, dict) else dict.fromkeys(known, ""),
        "title": found.kwargs.get("title", ""),
        "control": found.kwargs.get("control", False),
        "profile": found.kwargs.get("profile", PROFILES[0]),
        "schedule": found.kwargs.get("schedule"),
        "timing": found.kwargs.get("timing", False),
        "soak": found.kwargs.get("soak", ()),
    }
    try:
        mark = msgspec.convert(fields, Mark)
        parse(mark.schedule or ())
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"{item.nodeid}: mark ocrepro: {error}") from None
    if mark.profile not in PROFILES:
        raise UsageError(f"{item.nodeid}: mark ocrepro: profile {mark.profile!r} is none of {', '.join(PROFILES)}")
    return mark


def _first(config: pytest.Config, name: str, *, env: str = "") -> tuple[str | None, str]:
    """The value and where it is from."""
    typed = f"--ocrepro-{name.replace('_', '-')}"
    option = config.getoption(typed)
    if option is not None:
        if not str(option).strip():
            raise UsageError(f"{typed} is empty; give a value or leave the option out")
        return str(option), typed
    if env and os.environ.get(env):
        return os.environ[env], env
    if name != "seed" and config.getini(f"ocrepro_{name}"):
        return str(config.getini(f"ocrepro_{name}")), f"ocrepro_{name} in {config.inipath}"
    return None, "default"


def _number(config: pytest.Config, name: str, *, default: int, least: int, env: str = "") -> int:
    value, source = _first(config, name, env=env)
    return _checked(value, source, lambda text: least <= int(text) <= MOST, default, f"a number from {least}")


def _checked(value: str | None, source: str, good: Callable[[str], bool], default: int, wanted: str) -> int:
    if value is None:
        return default
    try:
        if good(value):
            return int(value)
    except ValueError:
        pass
    raise UsageError(f"{source} is {value!r}; it must be {wanted} to {MOST}")


def _choice(config: pytest.Config, name: str, choices: tuple[str, ...]) -> str:
    value, source = _first(config, name, env=f"OCREPRO_{name.upper()}")
    if value is None:
        return choices[0]
    if value not in choices:
        raise UsageError(f"{source} is {value!r}; it must be one of {', '.join(choices)}")
    return value


def _place(config: pytest.Config, name: str, *, default: str = "") -> Path | None:
    """What was typed is relative to where it was typed, what an ini file says to the root directory."""
    value, source = _first(config, name, env=f"OCREPRO_{name.upper()}")
    given = source.startswith(("--", "OCREPRO")) or not _root_is_ours(config)
    base = config.invocation_params.dir if given else config.rootpath
    return (base / (value or default)).resolve() if value or default else None


def check_root(config: pytest.Config) -> None:
    """Raise UsageError where pytest took an option's value for a test path and so lost the project's settings.

    pytest looks for its root directory before it knows any plugin's options; ``--ocrepro-binary PATH`` then reads
    like a path to test, and the project's own configuration is not found.
    """
    if config.known_args_namespace.inifilename:
        return
    here = config.invocation_params.dir
    for folder in (here, *here.parents):
        for name in ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"):
            file = folder / name
            if not file.is_file() or "ocrepro_scenarios" not in file.read_text(errors="replace"):
                continue
            if file != config.inipath:
                raise UsageError(
                    f"pytest took an option's value for a test path and missed {file}; "
                    "write --ocrepro-binary=PATH with an equals sign"
                )
            return


def _root_is_ours(config: pytest.Config) -> bool:
    return config.invocation_params.dir.is_relative_to(config.rootpath)

"""What the controller of pytest-xdist tells its workers, here and on other machines.

A far worker (``--tx socket=...``, ``--tx ssh=...``) shares no file system with us: it fetches the same builds where
it is, writes its bundles into a directory of its own, and each travels back with the report of its test.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from execnet.gateway_bootstrap import HostNotFound

from pytest_ocrepro import __version__
from pytest_ocrepro.catalogue import catalogue
from pytest_ocrepro.errors import BuildError, UsageError
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.settings import Settings
from pytest_ocrepro.stage import subject
from pytest_ocrepro.stage.subject import Build

IN_CATALOGUE = "catalogue:"  # of a path: below the folder of the worker's own catalogue


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What was resolved once, for all workers. ``run_dir``: the controller's, "" when collecting only.

    ``paths``: what to collect where the user named no path; xdist hands over the user's words only. ``controller``:
    the process that hands out the work, None for a far worker. ``redact``: the user's rules, as they were written.
    """

    settings: Settings
    builds: tuple[Build, ...]
    run_dir: str
    command: tuple[str, ...]
    paths: tuple[str, ...] = ()
    controller: ProcessId | None = None
    redact: tuple[str, ...] = ()
    far: bool = False
    tool: str = __version__


def for_node(share: Share, node: Any, *, root: Path) -> Share:
    """What this worker of pytest-xdist is told. Raises UsageError where a far one could not find the scenarios."""
    if not is_far(node.gateway.spec):
        return share
    roots = [Path(one).resolve() for one in node.nodemanager.roots]
    paths = tuple(_from_there(path, roots, root) for path in share.paths)
    return msgspec.structs.replace(share, paths=paths, controller=None, far=True)


def is_far(spec: Any) -> bool:
    """Whether an execnet spec leads to a worker that may have another file system."""
    return not spec.popen


def paths_here(share: Share) -> list[str]:
    """What a worker collects; [] for the user's own words."""
    return [
        str(catalogue() / path.removeprefix(IN_CATALOGUE)) if path.startswith(IN_CATALOGUE) else path
        for path in share.paths
    ]


def build_here(share: Share, build: Build) -> Build:
    """The same build where this worker is, fetched if need be. Raises BuildError, UsageError."""
    if not share.far:
        return build
    if share.tool != __version__:
        raise UsageError(
            f"this worker has pytest-ocrepro {__version__}, the controller {share.tool}: install the same"
        )
    if build.package:
        limit_bytes = share.settings.cache_limit_bytes
        found = subject.fetch(build.version, offline=share.settings.offline, limit_bytes=limit_bytes)
    elif os.path.lexists(build.path):
        found = subject.from_binary(build.path, source=build.source)
    else:
        raise BuildError(
            f"this worker has no {build.path}: name a published version, or put the controller's file there too"
        )
    if found.package == build.package and found.sha256 != build.sha256:
        raise BuildError(
            f"{found.path} of this worker is another file than the controller's opencode {build.version}"
        )
    return msgspec.structs.replace(found, label=build.label)


def outlive_lost_machines(distributor: Any, lost: list[str]) -> None:
    """Let a run of pytest-xdist go on when the machine of a worker does not come back; ``lost`` is told.

    xdist replaces each worker that died; where its machine then refuses, the error would end the whole run, with
    the trials of all other workers. There is no hook around that step.
    """
    replace = distributor._clone_node  # noqa: SLF001

    def replace_if_it_is_there(node: Any) -> Any:
        try:
            return replace(node)
        except (OSError, EOFError, HostNotFound) as error:
            lost.append(f"{node.gateway.spec} does not come back ({type(error).__name__}); the others went on")
            others = [one for one in distributor._active_nodes if one is not node]  # noqa: SLF001
            if all(one.shutting_down for one in others):
                distributor.triggershutdown()  # nobody takes what is left
            return None

    distributor._clone_node = replace_if_it_is_there  # noqa: SLF001


def _from_there(path: str, roots: list[Path], root: Path) -> str:
    """A path of ours as a far worker has it: in its own catalogue, or in what xdist copies to it."""
    place, colons, test = path.partition("::")
    own = (root / place).resolve()
    if own.is_relative_to(catalogue()):
        return f"{IN_CATALOGUE}{own.relative_to(catalogue())}{colons}{test}"
    for copied in roots:
        if own.is_relative_to(copied):
            return f"{copied.name}/{own.relative_to(copied)}{colons}{test}"
    raise UsageError(f"a worker on another machine has no {path}: copy it there with --rsyncdir={own.parent}")

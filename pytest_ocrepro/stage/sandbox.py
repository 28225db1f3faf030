"""The closed world on disk: fresh HOME, XDG directories, TMPDIR, npm cache, project; an allow-listed environment.

Nothing of the user's own opencode is read or written: no variable of theirs is passed on, every directory that
opencode, npm or git look at lies under one fresh root, and HTTP proxies point at our registry, which refuses and
records whoever wants to leave the loopback interface.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_ocrepro.errors import StageError, advice
from pytest_ocrepro.versions.programs import run_bounded

# Of the user's environment only these pass; each says where things are, none says who the user is.
ALLOWED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "NIX_SSL_CERT_FILE")
SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
PREFIX = "ocrepro-"
SESSION_MARK = re.compile(r"\d+-[0-9a-f]{12}")  # as the supervisor makes them
GIT_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
PLUGIN = "export const Quiet = async () => ({})\n"
REMOVED_WITHIN_S = 60.0
REMOVALS = 5  # a process that still writes can fill a directory while it is deleted


@dataclass(kw_only=True)
class Project:
    """The directory that opencode is asked to work in."""

    root: Path

    def write(self, path: str, text: str) -> Path:
        """Write a file of the project; returns its path."""
        target = self.root / path
        with _disk(f"write {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return target

    def add_plugin(self, name: str = "quiet", text: str = PLUGIN) -> Path:
        """Put a plugin file into ``.opencode/plugin/``: its presence makes opencode install and wait."""
        return self.write(f".opencode/plugin/{name}.js", text)

    def add_git(self) -> None:
        """An empty repository, written by hand: the same bytes every time, and no process."""
        with _disk(f"make {self.root / '.git'}"):
            for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
                (self.root / ".git" / folder).mkdir(parents=True, exist_ok=True)
        self.write(".git/HEAD", "ref: refs/heads/main\n")
        self.write(".git/config", GIT_CONFIG)


@dataclass(kw_only=True)
class Sandbox:
    """One trial's root and everything under it. Use :func:`make_sandbox`."""

    root: Path
    project: Project
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Opencode's data directory: database, logs, auth.json."""
        return self.root / "data/opencode"

    @property
    def state(self) -> Path:
        """Opencode's state directory: lock directories."""
        return self.root / "state/opencode"

    @property
    def config(self) -> Path:
        """Opencode's configuration directory."""
        return self.root / "config/opencode"

    @property
    def database(self) -> Path:
        """The database that runs share unless they are told otherwise."""
        return self.data / "opencode.db"

    @property
    def output(self) -> Path:
        """What the programs print, one pair of files a role."""
        return self.root / "output"

    def places(self) -> tuple[Path, ...]:
        """Directories that a subject is likely to fill."""
        inside = (self.output, self.data, self.data / "log", self.root / "tmp", self.root / "home", self.project.root)
        return *inside, *self.root.glob("*/data/opencode"), *self.root.glob("*/data/opencode/log")

    def environment(self, **extra: str) -> dict[str, str]:
        """The whole environment of a program in this sandbox."""
        return {**self.variables, **extra}

    def own_home(self, kind: str, name: str, *, copy: tuple[str, ...] = ()) -> Path:
        """A second XDG directory (``data``, ``state``, ``cache``, ``config``) for one worker.

        ``copy`` names files of the shared one's ``opencode`` folder that it starts with, where they exist.
        """
        home = self.root / name / kind
        with _disk(f"make {home}"):
            (home / "opencode").mkdir(parents=True)
            for file in copy:
                shared = self.root / kind / "opencode" / file
                if shared.exists():
                    shutil.copy2(shared, home / "opencode" / file)
        return home

    def key_files(self) -> tuple[Path, ...]:
        """Where opencode may have its keys: in the shared data directory, and in each worker's own."""
        return self.data / "auth.json", *sorted(self.root.glob("*/data/opencode/auth.json"))

    def lock_keys(self) -> tuple[str, ...]:
        """Keys that opencode may lock under, so that a hashed directory name can be read."""
        folders = [self.config, *_folders(self.project.root, ".opencode"), self.root / "home/.opencode"]
        folders += [path / "opencode" for path in self.root.glob("*/config")]
        return tuple(f"npm-install:{folder}" for folder in folders)

    def configure(self, config: dict[str, object]) -> None:
        """Write the configuration file that OPENCODE_CONFIG names."""
        with _disk(f"write {self.root / 'opencode.json'}"):
            (self.root / "opencode.json").write_text(json.dumps(config, indent=1), encoding="utf-8")

    def remove(self) -> None:
        """Delete everything; never raises, since a leftover directory must not change a result.

        Of a link that stands in the sandbox's place the link alone goes: what it leads to is somebody else's.
        """
        if self.root.is_symlink():
            with contextlib.suppress(OSError):
                self.root.unlink()
            return
        for _ in range(REMOVALS):
            with contextlib.suppress(RecursionError):  # directories in directories by the thousand
                shutil.rmtree(self.root, ignore_errors=True)
                if not os.path.lexists(self.root):
                    return
                _open_up(self.root)
                continue
            with contextlib.suppress(OSError):
                run_bounded(["rm", "-rf", "--one-file-system", "--", str(self.root)], timeout_s=REMOVED_WITHIN_S)


def remove_leftovers(session_mark: str, place: Path | None = None) -> None:
    """Delete the sandboxes of a session whose harness was killed; ``session_mark`` is what its marks begin with.

    ``place``: the temporary directory that it had; None: ours.
    """
    if not SESSION_MARK.fullmatch(session_mark):
        return
    where = place or Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    for root in where.glob(f"{PREFIX}{session_mark}.*"):
        if _is_ours(root):
            Sandbox(root=root, project=Project(root=root)).remove()


def make_sandbox(*, binary: Path, registry_url: str, mark: str, marker: str, git: bool = True) -> Sandbox:
    """Make a fresh sandbox in the temporary directory.

    ``binary`` becomes the first ``opencode`` on PATH. Raises StageError when the disk is full or not writable.
    """
    wanted = os.environ.get("TMPDIR") or None  # tempfile would go elsewhere in silence when it cannot be used
    with _disk(f"make a sandbox in {wanted or 'the temporary directory'}"):
        root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{mark}-", dir=wanted)).resolve()
    variables = _variables(root, registry_url)
    sandbox = Sandbox(root=root, project=Project(root=root / "project"), variables={**variables, marker: mark})
    try:
        _furnish(sandbox, binary, git=git)
    except BaseException:
        sandbox.remove()
        raise
    return sandbox


def _furnish(sandbox: Sandbox, binary: Path, *, git: bool) -> None:
    root = sandbox.root
    with _disk(f"make a sandbox in {root.parent}"):
        for name in ("home", "data", "state", "cache", "config", "tmp", "npm", "project", "output", "bin"):
            (root / name).mkdir()
        (root / "bin/opencode").symlink_to(binary)
        sandbox.project.write("README.md", "A project made for one trial.\n")
        if git:
            sandbox.project.add_git()


@contextlib.contextmanager
def _disk(what: str) -> Iterator[None]:
    """Tell what could not be done on the disk. Raises StageError."""
    try:
        yield
    except OSError as error:
        raise StageError(f"cannot {what}: {error.strerror or error}; {advice(error)}") from error


def _is_ours(root: Path) -> bool:
    """A directory of this user; in a temporary directory for everybody anyone may use our names."""
    try:
        status = root.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _open_up(root: Path) -> None:
    """Give ourselves every directory beneath, since npm caches can have read-only ones; follows no link."""
    with contextlib.suppress(OSError):
        root.chmod(stat.S_IRWXU)
    for path, folders, _ in os.walk(root):
        for folder in folders:
            inside = Path(path, folder)
            with contextlib.suppress(OSError):
                if not inside.is_symlink():
                    inside.chmod(stat.S_IRWXU)


def _folders(root: Path, name: str) -> Iterator[Path]:
    """Directories of this name, though the tree changes meanwhile; not those of installed packages."""
    for path, folders, _ in os.walk(root):
        if name in folders:
            yield Path(path, name)
        folders[:] = [folder for folder in folders if folder not in (name, ".git", "node_modules")]


def _variables(root: Path, registry_url: str) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ALLOWED if name in os.environ},
        "PATH": os.pathsep.join((str(root / "bin"), *_path_of_tools())),
        "HOME": str(root / "home"),
        "XDG_DATA_HOME": str(root / "data"),
        "XDG_STATE_HOME": str(root / "state"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "XDG_CONFIG_HOME": str(root / "config"),
        "TMPDIR": str(root / "tmp"),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "SHELL": "/bin/sh",
        "npm_config_cache": str(root / "npm"),
        "npm_config_registry": registry_url,
        "npm_config_globalconfig": str(root / "npm/globalrc"),  # the machine's own can name a scope's registry
        "HTTP_PROXY": registry_url,
        "HTTPS_PROXY": registry_url,
        "http_proxy": registry_url,
        "https_proxy": registry_url,
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "OPENCODE_CONFIG": str(root / "opencode.json"),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    }


def _path_of_tools() -> tuple[str, ...]:
    """The system's directories, and the one that git is in where that is another."""
    git = shutil.which("git")
    folder = str(Path(git).parent.absolute()) if git else SYSTEM_PATH[0]
    return (*SYSTEM_PATH, *((folder,) if folder not in SYSTEM_PATH else ()))

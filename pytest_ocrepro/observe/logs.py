"""opencode's log lines, of both dialects, to records with a milestone; and whose line each one is.

Up to 1.15 a process has a log file of its own. From 1.17 all share ``opencode.log`` and a line carries ``run=<id>``
but no pid. Each process appends through a descriptor of its own, so the position in its fdinfo is the end of the
last line which it wrote itself (measured on 1.18.34): the line that ends there names its run.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_ocrepro.history import Excerpt, cut
from pytest_ocrepro.observe.proctext import fd_kind
from pytest_ocrepro.observe.regular import open_regular
from pytest_ocrepro.readings import MILESTONES, FdKind, LogLine, LogTail

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_ocrepro.observe.readers import ProcessReader

_KEPT_LINES: Final = 400  # of one process
_KEPT_ENDS: Final = 4000  # line ends of one file
_KEPT_RUNS: Final = 64
_START_BYTES: Final = 1 << 20  # of a file that is longer when first seen
_CHUNK_BYTES: Final = 1 << 20  # read in one go, so that a flood cannot hold up a sample
_BEHIND_BYTES: Final = 8 << 20  # unread; more than this is skipped
_LINE_CHARACTERS: Final = 2000
_RANKS: Final = {name: rank for rank, name in enumerate(MILESTONES)}

_LEGACY = re.compile(r"(?P<level>[A-Z]{4,5}) +\d{4}-\d\d-\d\dT[\d:.]{8,15}Z? +\+\d{1,12}ms +(?P<rest>.*)", re.ASCII)
_PAIR = re.compile(r'(?P<key>[A-Za-z_][\w.\-]{0,80})=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)', re.ASCII)
_MODERN = re.compile(r"timestamp=\S{1,40} +(?P<rest>level=.*)", re.ASCII)
_INSTANT = re.compile(
    r"\A(?:timestamp=|[A-Z]{4,5} +)(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)Z?(?= |\Z)", re.ASCII
)
_FIELD = re.compile(r"[A-Za-z_][\w.\-]{0,80}=", re.ASCII)

# Begin of the message -> milestone, the same words on 1.14.48, 1.15.4 and 1.18.34 but for what MILESTONES says.
_BY_MESSAGE: Final = (
    ("opening database", "database-opened"),
    ("creating instance", "instance-created"),
    ("bootstrapping", "bootstrapping"),
    ("loading internal plugin", "plugins-loading"),
    ("loading plugin", "plugins-loading"),
    ("all LSPs are disabled", "services-started"),
    ("enabled LSP servers", "services-started"),
    ("all formatters are disabled", "services-started"),
    ("watcher backend", "services-started"),
    ("event connected", "events-connected"),
    ("exiting loop", "model-answered"),
)


def parse_line(text: str, excerpt: Excerpt = cut) -> LogLine:
    """One line of either dialect; of anything else only ``text``. ``excerpt`` cuts it to 2000 characters."""
    if len(text) > _LINE_CHARACTERS:
        text = excerpt(text, _LINE_CHARACTERS)
    modern = _MODERN.fullmatch(text)
    if modern:
        return _modern(text, modern["rest"])
    legacy = _LEGACY.fullmatch(text)
    return _legacy(text, legacy["level"], legacy["rest"]) if legacy else LogLine(text=text)


def written_at(text: str) -> float | None:
    """When a line was written, as seconds since the epoch; None: it does not say. Both dialects write UTC.

    Measured on 1.14.48 (to the second, rounded down) and 1.18.34 (to the millisecond).
    """
    found = _INSTANT.search(text[:_LINE_CHARACTERS])
    try:
        return datetime.fromisoformat(found["at"]).replace(tzinfo=UTC).timestamp() if found else None
    except ValueError:
        return None


def rank(milestone: str) -> int:
    """The place of a milestone in their order; -1 for none."""
    return _RANKS.get(milestone, -1)


def _modern(text: str, rest: str) -> LogLine:
    fields: dict[str, str] = {}
    for match in _PAIR.finditer(rest):
        fields.setdefault(match["key"], _unquoted(match["value"]))
    return _line(text, fields.get("level", ""), fields, fields.get("message", ""))


def _legacy(text: str, level: str, rest: str) -> LogLine:
    words = rest.split(" ")
    fields: dict[str, str] = {}
    last = -1  # of the words with a "="; what follows is the message, but values may hold spaces
    for at, word in enumerate(words):
        if _FIELD.match(word):
            key, _, value = word.partition("=")
            fields.setdefault(key, value)
            last = at
    return _line(text, level, fields, " ".join(words[last + 1 :]))


def _line(text: str, level: str, fields: dict[str, str], message: str) -> LogLine:
    service = fields.get("service", "")
    return LogLine(
        text=text,
        level=level,
        service=service,
        message=message,
        run=fields.get("run", "") or fields.get("run_id", ""),
        milestone=_milestone(service, message, fields),
    )


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value, strict=False))
    except ValueError:
        return value.strip('"')


def _milestone(service: str, message: str, fields: dict[str, str]) -> str:
    if message == "opencode" and "process_role" in fields:
        return "started"
    if message == "loading" and "path" in fields and service in ("", "config"):
        return "config-loading"
    if message == "created" and fields.get("id", "").startswith("ses_"):
        return "session-created"
    if message == "loop" and fields.get("step", "").isdecimal():
        return "turn-started" if int(fields["step"][:9]) == 0 else "model-answered"
    if message == "stream" and "modelID" in fields and fields.get("small") != "true":  # small: the session's title
        return "model-asked"
    return next((name for begin, name in _BY_MESSAGE if message.startswith(begin)), "")


class _Writer:
    """The last lines of one process, and the first line of each milestone."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque(maxlen=_KEPT_LINES)
        self.reached: dict[str, LogLine] = {}
        self.written_bytes = 0

    def add(self, line: LogLine, size_bytes: int) -> None:
        self.lines.append(line)
        self.written_bytes += size_bytes
        if line.milestone:
            self.reached.setdefault(line.milestone, line)

    def milestone(self) -> str:
        return max(self.reached, key=rank, default="")


class _File:
    """One log file, read from where we left off."""

    def __init__(self, path: str, excerpt: Excerpt) -> None:
        self.path = path
        self.size_bytes = 0
        self._excerpt = excerpt
        self._torn = False  # what comes next is the end of a line: half of what it holds may be a secret
        self.writers: OrderedDict[str, _Writer] = OrderedDict()  # run id, or "" for the file's only process
        self._ends: OrderedDict[int, str] = OrderedDict()
        self._offset: int | None = None
        self._rest = b""

    def read(self) -> None:
        """Take in up to 1 MiB of what was added; a file that has shrunk is begun anew, a flood is skipped."""
        try:
            with open_regular(Path(self.path)) as file:
                self.size_bytes = file.seek(0, 2)
                self._rewind()
                offset = self._offset or 0
                file.seek(offset)
                self._take(file.read(min(_CHUNK_BYTES, self.size_bytes - offset)))
        except OSError:
            return

    def run_that_ends_at(self, position: int) -> str | None:
        """The run id of the line whose last byte is before ``position``; None: not seen (yet, or any more)."""
        return self._ends.get(position)

    def _rewind(self) -> None:
        if self._offset is None:
            self._offset = max(0, self.size_bytes - _START_BYTES)
            self._torn = self._offset > 0
        elif self._offset > self.size_bytes:
            self._offset, self._rest, self._torn = 0, b"", False
        elif self.size_bytes - self._offset > _BEHIND_BYTES:
            self._offset, self._rest, self._torn = self.size_bytes - _START_BYTES, b"", True

    def _take(self, data: bytes) -> None:
        start = (self._offset or 0) - len(self._rest)
        self._offset = (self._offset or 0) + len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            start += len(line) + 1
            if not self._torn:
                self._add(parse_line(line.decode(errors="replace"), self._excerpt), start, len(line) + 1)
            self._torn = False
        if len(self._rest) > _CHUNK_BYTES:  # no line of opencode's is that long
            self._rest, self._torn = b"", True

    def _add(self, line: LogLine, end: int, size_bytes: int) -> None:
        run = line.run if self.shared else ""
        self._ends[end] = run
        while len(self._ends) > _KEPT_ENDS:
            self._ends.popitem(last=False)
        if self.shared and not run:
            return  # the second line of a message, or rubbish: nobody's for sure
        writer = self.writers.setdefault(run, _Writer())
        self.writers.move_to_end(run)
        while len(self.writers) > _KEPT_RUNS:
            self.writers.popitem(last=False)
        writer.add(line, size_bytes)

    @property
    def shared(self) -> bool:
        """Whether several processes write it: by its name, which the builds from 1.17 fix."""
        return self.path.endswith("/opencode.log")


class LogTailer:
    """Follows the logs of several processes; ``poll`` is cheap enough for four times a second.

    Memory is bounded: 400 lines a process, 64 processes a file. ``shown_lines`` of them go into a tail. ``excerpt``
    cuts long lines: the trial's own, so that no cut goes through a secret (History.excerpt).
    """

    def __init__(self, reader: ProcessReader, *, shown_lines: int = 100, excerpt: Excerpt = cut) -> None:
        self._reader = reader
        self._excerpt = excerpt
        self._shown_lines = shown_lines
        self._files: dict[str, _File] = {}
        self._open: dict[int, tuple[int, str]] = {}  # pid -> (its descriptor of the log, path)
        self._writer_of: dict[int, tuple[str, str]] = {}  # pid -> (path, run id), kept after its end

    def poll(self, log_dirs: Iterable[Path], pids: Sequence[int]) -> tuple[LogTail, ...]:
        """The tails of these processes' logs, then (pid None) those of lines which are nobody's yet."""
        self.update(log_dirs, pids)
        return (*self._tails(pids), *self._unclaimed())

    def update(self, log_dirs: Iterable[Path], pids: Sequence[int]) -> None:
        """Take in what was added; what ``poll`` does before it makes the tails."""
        positions = {pid: found for pid in pids if (found := self._position(pid)) is not None}
        for path in self._log_files(log_dirs):
            self._files.setdefault(path, _File(path, self._excerpt)).read()
        for pid, (path, position) in positions.items():
            self._learn(pid, path, position)

    def reached(self, pid: int) -> tuple[LogLine, ...]:
        """The first line of each milestone that the process has logged, in the order of MILESTONES."""
        writer = self._find(pid)
        return tuple(sorted(writer.reached.values(), key=lambda line: rank(line.milestone))) if writer else ()

    def last(self, pid: int) -> LogLine | None:
        """The last line that the process has logged; None: nothing is known to be its own."""
        writer = self._find(pid)
        return writer.lines[-1] if writer and writer.lines else None

    def log_bytes(self, pid: int) -> int:
        """How much the process has logged since we look; 0 while that is not known."""
        writer = self._find(pid)
        return writer.written_bytes if writer else 0

    def _log_files(self, log_dirs: Iterable[Path]) -> list[str]:
        found = {path for _, path in self._open.values()}
        for folder in log_dirs:
            try:
                found.update(str(path) for path in folder.iterdir() if path.suffix == ".log")
            except OSError:
                continue
        return sorted(found)

    def _position(self, pid: int) -> tuple[str, int | None] | None:
        """(path, end of the last line of its own), read before the file so that the line is in what we read.

        The end is None where the system does not tell it; a log that nobody shares needs none.
        """
        known = self._open.get(pid)
        if known is None:
            links = self._reader.fd_links(pid)
            known = next(((fd, target) for fd, target in links if _is_log(target)), None)
            if known is None or not self._reader.is_open_at(pid, *known):
                return None
            self._open[pid] = known
        fd, path = known
        info = self._reader.fd_info(pid, fd)
        if info is None:
            del self._open[pid]
            return None
        return path, info.position_bytes

    def _learn(self, pid: int, path: str, position: int | None) -> None:
        file = self._files.get(path)
        if file is None or pid in self._writer_of or (file.shared and position is None):
            return
        run = file.run_that_ends_at(position) if file.shared and position is not None else ""
        if run is not None and (run or not file.shared):
            self._writer_of[pid] = (path, run)

    def _find(self, pid: int) -> _Writer | None:
        path, run = self._writer_of.get(pid, ("", ""))
        return self._files[path].writers.get(run) if path in self._files else None

    def _tails(self, pids: Sequence[int]) -> Iterable[LogTail]:
        for pid in pids:
            writer = self._find(pid)
            if writer is not None:
                yield self._tail(self._writer_of[pid][0], pid, writer)

    def _unclaimed(self) -> Iterable[LogTail]:
        claimed = set(self._writer_of.values())
        for path, file in self._files.items():
            for run, writer in file.writers.items():
                if (path, run) not in claimed:
                    yield self._tail(path, None, writer)

    def _tail(self, path: str, pid: int | None, writer: _Writer) -> LogTail:
        return LogTail(
            path=path,
            pid=pid,
            size_bytes=writer.written_bytes,
            lines=tuple(writer.lines)[-self._shown_lines :],
            milestone=writer.milestone(),
        )


def _is_log(target: str) -> bool:
    return fd_kind(target) is FdKind.LOG and "/opencode/log/" in target

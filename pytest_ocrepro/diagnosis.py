"""``ocrepro dump``: from pids to words on a terminal, an evidence bundle, its page, and an exit code.

Exit codes: 0 nothing hangs, 1 something hangs, 2 it could not be told.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_ocrepro import __version__
from pytest_ocrepro.attach import COPY_LIMIT_BYTES, DEADLINE_S, Attachment, hangs
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.events import Expectation, IntrusionBegun, TrialStarted
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.platforms import has_proc
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.publish.portraits import dump_in_words
from pytest_ocrepro.publish.records import Fact, RunInfo, Subject, TrialInfo, result_of
from pytest_ocrepro.publish.redaction import Rule
from pytest_ocrepro.strangers import Strangers

EXE_LIMIT_BYTES = 1 << 30
WINDOW_S = 60.0  # of a watch: then a new history is begun, unless somebody is quiet just then
LONGEST_WINDOW = 4  # deadlines
LOOK_S = 4.0
STEP_S = 1.0
QUIET_S = 5.0
NOTHING, HANGS, UNKNOWN = 0, 1, 2
UNTOUCHED = "Processes that somebody else had started were looked at; nothing was sent to them."
DISTURBED = (
    "Processes that somebody else had started were looked at, and at the end stopped for a moment by strace and gdb."
)
Tell = Callable[[str], None]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. ``timeout_s`` bounds a watch."""

    pids: tuple[int, ...] = ()
    everything: bool = False
    watch: bool = False
    timeout_s: float = 3600.0
    deadline_s: float = DEADLINE_S
    copy_limit_bytes: int = COPY_LIMIT_BYTES
    reports: Path = Path("reports")
    intrusive: bool = False
    core: bool = False
    rules: tuple[Rule, ...] = ()  # what the user wants masked besides


def diagnose(
    wish: Wish, *, tell: Tell, complain: Tell, stop: threading.Event | None = None, reader: Reader | None = None
) -> int:
    """Look, judge, say and store; returns the exit code. Raises UsageError, BundleError."""
    if not has_proc():
        raise UsageError("ocrepro dump reads /proc, which this system does not have; run it on Linux")
    return _Diagnosis(wish, tell, complain, stop or threading.Event(), reader or Reader()).run()


class _Diagnosis:
    def __init__(self, wish: Wish, tell: Tell, complain: Tell, stop: threading.Event, reader: Reader) -> None:
        self._wish = wish
        self._tell = tell
        self._complain = complain
        self._stop = stop
        self._reader = reader
        self._run: RunDir | None = None

    def run(self) -> int:
        pids, wrong = targets(self._reader, self._wish.pids, everything=self._wish.everything)
        for line in wrong:
            self._complain(line)
        if self._wish.watch:
            return self._watched(pids)
        if not pids:
            return self._nobody(wrong)
        with self._attached(pids) as attachment:
            attachment.look_for_a_while(stop=self._stop)
            code = self._concluded(attachment, store=True)
        return max(code, UNKNOWN if wrong and code == NOTHING else code)

    def _attached(self, pids: Sequence[int], **more: object) -> Attachment:
        wish = self._wish
        version = next((found for pid in pids if (found := version_of(self._reader.exe(pid)))), "")
        return Attachment(
            pids,
            reader=self._reader,
            deadline_s=wish.deadline_s,
            copy_limit_bytes=wish.copy_limit_bytes,
            version=version,
            rules=wish.rules,
            **more,  # type: ignore[arg-type]
        )

    def _nobody(self, wrong: Sequence[str]) -> int:
        hidden = self._reader.hidepid()
        if not wrong:
            maybe = f"; /proc hides the processes of others from you (hidepid={hidden})" if hidden else ""
            self._tell(f"no opencode process can be seen{maybe}")
        return UNKNOWN if wrong or hidden else NOTHING

    # -- watching

    def _watched(self, pids: list[int]) -> int:
        """One history after the other, so that a watch of hours does not fill the memory."""
        end = time.monotonic() + self._wish.timeout_s
        steps: dict[tuple[int, int], tuple[int, str]] = {}
        while True:
            with self._attached(pids, steps=steps) as attachment:
                attachment.look_for_a_while(stop=self._stop)
                if self._window(attachment, end):
                    return self._concluded(attachment, store=True)
                if time.monotonic() >= end or self._stop.is_set() or not self._expects_more(attachment):
                    self._tell("nothing was seen to hang")
                    return self._concluded(attachment, store=False)
                steps = {**steps, **attachment.steps()}
            pids, _ = targets(self._reader, self._wish.pids, everything=self._wish.everything)

    def _window(self, attachment: Attachment, end: float) -> bool:
        """Whether something hangs; False when the time, or this window, is over."""
        begun = looked = time.monotonic()
        while (now := time.monotonic()) < end:
            quiet = self._somebody_is_quiet(attachment)
            if quiet and now - looked >= LOOK_S:
                attachment.look()
                looked = now
            if any(hangs(one) for one in attachment.judged().values()):
                return True
            age_s = now - begun
            if age_s > LONGEST_WINDOW * self._wish.deadline_s or (age_s > WINDOW_S and not quiet):
                return False
            if not self._expects_more(attachment) or self._stop.wait(min(STEP_S, max(0.0, end - now))):
                return False
            attachment.strangers.note_the_gone()
            found, _ = targets(self._reader, self._wish.pids, everything=self._wish.everything)
            attachment.take_in(found, wanted=True)
        return False

    def _expects_more(self, attachment: Attachment) -> bool:
        """Of named processes, one lives yet; with --all there may always come another."""
        living = [one for one in attachment.owing() if one.id not in attachment.strangers.gone]
        return self._wish.everything or bool(living)

    def _somebody_is_quiet(self, attachment: Attachment) -> bool:
        ends_ns = time.monotonic_ns() - int(QUIET_S * 1e9)
        steps, gone = attachment.steps(), attachment.strangers.gone
        return any(
            one.obligation == "serve" or steps[one.id.pid, one.id.start_ticks][0] < ends_ns
            for one in attachment.owing()
            if one.id not in gone
        )

    # -- the end

    def _concluded(self, attachment: Attachment, *, store: bool) -> int:
        self._intrude(attachment)
        attachment.stop()
        attachment.demand()
        judgement = attachment.judge()
        subjects = [one for one in attachment.strangers.members if one.wanted]
        exe = next((one.exe for one in subjects if version_of(one.exe)), subjects[0].exe if subjects else None)
        info = TrialInfo(
            scenario="dump",
            title="opencode processes that were running",
            version=version_of(exe),
            binary_sha256=_sha256(exe),
            docstring=DISTURBED if attachment.history.of_type(IntrusionBegun) else UNTOUCHED,
            replay=" ".join(["ocrepro dump", *(f"--pid {one.id.pid}" for one in subjects)]),
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        self._tell(dump_in_words(attachment.history, judgement))
        if store:
            self._store(attachment, judgement, info)
        return _code(attachment)

    def _intrude(self, attachment: Attachment) -> None:
        """Last, and after the words that need none of it, on those that are not seen to go on."""
        quiet = [one for one, process in attachment.judged().items() if not attachment.goes_on(one, process)]
        if not quiet or not (self._wish.intrusive or self._wish.core):
            return
        self._tell(dump_in_words(attachment.history, attachment.judge()))
        names = ", ".join(f"{one.role} (pid {one.id.pid})" for one in quiet)
        self._tell(f"\nnow with strace and gdb, which may disturb: {names}\n")
        for one in quiet:
            core = self._run_of(attachment).path / f"core-{one.id.pid}" if self._wish.core else None
            attachment.intrude(one, core)

    def _run_of(self, attachment: Attachment) -> RunDir:
        self._run = self._run or RunDir.create(self._wish.reports, gate=attachment.gate)
        return self._run

    def _store(self, attachment: Attachment, judgement: Judgement, info: TrialInfo) -> None:
        run = self._run_of(attachment)
        run.write_info(self._run_info(run, attachment.history, info))
        with run.open_trial("dump", info, gate=attachment.gate) as bundle:
            for event in attachment.history:
                bundle.sink(msgspec.json.encode(event) + b"\n")
            result = result_of(run.info.run_id, info, attachment.history, judgement, bundle.relative)
            bundle.finish(judgement, result, masked=attachment.gate.receipt())
        run.append_result(result)
        self._tell(f"evidence: {bundle.path}")
        self._tell(f"report: {write_report(run).resolve().as_uri()}")

    def _run_info(self, run: RunDir, history: History, info: TrialInfo) -> RunInfo:
        wish = self._wish
        frame = history.of_type(TrialStarted)[0]
        machine = (("system", frame.kernel), ("python", frame.python), ("cores", str(frame.cpus)))
        options = (("deadline", f"{wish.deadline_s:g} s"), ("copy limit", f"{wish.copy_limit_bytes} bytes"))
        return RunInfo(
            run_id=run.info.run_id,
            started=run.info.started,
            plugin_version=__version__,
            pytest_command=("ocrepro", *sys.argv[1:]),
            machine=tuple(Fact(name=name, value=value) for name, value in machine),
            subjects=(Subject(version=info.version or "(unknown)", sha256=info.binary_sha256, source="running"),),
            options=tuple(Fact(name=name, value=value) for name, value in options),
        )


def version_of(exe: str | None) -> str:
    """From the package.json beside the executable, else from its path; "" where neither tells. Nothing is run."""
    path = Path(exe or "/nowhere")
    for folder in list(path.parents)[1:3]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            about = msgspec.json.decode((folder / "package.json").read_bytes()[:65536])
            if str(about.get("name", "")).startswith("opencode"):
                return str(about.get("version", ""))
    named = re.search(r"(?<![\d.])\d+\.\d+\.\d+(?:-[\w.]+)?(?![\d.])", str(path))
    return named[0] if named else ""


def _sha256(exe: str | None) -> str:
    try:
        path = Path(exe or "/nowhere")
        if path.stat().st_size > EXE_LIMIT_BYTES:
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _code(attachment: Attachment) -> int:
    """What is written down as not held about a process is a hang; what could not be told is never a pass."""
    told = [claim.held for claim in attachment.history.of_type(Expectation) if claim.role]
    return HANGS if False in told else UNKNOWN if None in told else NOTHING


def targets(reader: Reader, pids: Sequence[int], *, everything: bool) -> tuple[list[int], list[str]]:
    """(the opencode processes that are meant, what is wrong with the others, a line each)."""
    known = Strangers(reader, History(), introduce=lambda _: None, deadline_s=0.0)
    found: list[int] = []
    wrong: list[str] = []
    for pid in pids:
        meant = [pid] if known.is_opencode(pid) else _opencodes_beneath(known, reader, pid)
        found += meant
        wrong += [] if meant else [_why_not(reader, pid)]
    found += known.opencodes() if everything else []
    return list(dict.fromkeys(pid for pid in found if pid != os.getpid())), wrong


def _opencodes_beneath(known: Strangers, reader: Reader, pid: int) -> list[int]:
    """What a wrapper such as npm's starts: the nearest opencodes below."""
    if reader.identify(pid) is None:
        return []
    below = reader.children_of(pid)
    near = [child for child in below if known.is_opencode(child)]
    return near or [found for child in below for found in _opencodes_beneath(known, reader, child)]


def _why_not(reader: Reader, pid: int) -> str:
    stat, hidden = reader.stat(pid), reader.hidepid()
    if stat is None:
        maybe = f" or hidden from you (/proc is mounted with hidepid={hidden})" if hidden else ""
        return f"there is no process {pid}{maybe}"
    if stat.state in ("Z", "X", "x"):
        return f"process {pid} ({stat.name}) has ended and waits for its parent {stat.parent_pid} to notice"
    return f"process {pid} ({stat.name}) is no opencode and has none beneath it"

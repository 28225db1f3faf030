"""The issue text: what a maintainer needs to decide and to reproduce, in the headings of opencode's own bug form.

It stands alone, within a number of characters that a tracker takes. What has no room goes in the order of
``LEFT_OUT``, and the text says what went. Texts of the subject are code or escaped: they call nobody, link nowhere
and are no HTML.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.events import Expectation, HttpCall, ObservingCost, SandboxFurnished, TrialStarted
from pytest_ocrepro.judge.judgement import ProcessJudgement
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish import issue_evidence as evidence
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.cases import FOLDER, Case, proof_of, script_of, trial_of
from pytest_ocrepro.publish.counting import DUMP, Row, plural
from pytest_ocrepro.publish.elsewhere import replayed
from pytest_ocrepro.publish.issue_steps import moves
from pytest_ocrepro.publish.markdown import cell, code, fenced, prose, table
from pytest_ocrepro.publish.records import Proof, RunInfo, StoredTrial
from pytest_ocrepro.publish.repro import Script
from pytest_ocrepro.publish.text import clip, flat

USUAL, LEAST, MOST = 12_000, 2_000, 60_000  # characters; an issue's body may have 65,536
PAGE_BYTES = 256 * 1024 * 1024  # of a page that is read for its hash
CLAIMS, CONTROLS = 6, 4

# What goes first where there is no room, in this order; the script goes last.
LEFT_OUT = {
    "long logs": "log lines before the last 10 of a process",
    "timeline": "the timeline",
    "machine": "the machine and the options",
    "calls": "the calls to the server",
    "logs": "logs and output",
    "evidence": "the evidence of each link",
    "moves": "the steps in words",
    "script": "the script (ocrepro repro prints it)",
}
END = "\n\n(cut here: the rest is in the report)\n"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A case as it is told to a maintainer. ``why_not``: why there is no script."""

    case: Case
    text: str
    script: str
    why_not: str


def told(run: RunDir, case: Case, *, most: int = USUAL, page: str = "") -> Told:
    """Text and script of a case; ``page`` says which file has the whole evidence. Raises BundleError."""
    trial = trial_of(case)
    script = script_of(case, trial)
    proof = proof_of(run, case, script) if script.text else None
    text = issue_text(run.info, trial, case=case, script=script, proof=proof, page=page, most=most)
    return Told(case=case, text=text, script=script.text, why_not=script.why_not)


def issue_text(
    run: RunInfo,
    trial: StoredTrial,
    *,
    case: Case | None = None,
    script: Script | None = None,
    proof: Proof | None = None,
    page: str = "",
    most: int = USUAL,
) -> str:
    """Markdown of at most ``most`` characters. ``case``: the counts of its scenario; None: one trial, or a dump."""
    return _Draft(run, trial, case, script or Script(), proof, page).within(most)


def page_note(run: RunDir) -> str:
    """Name, size and SHA-256 of the page; "" where there is none."""
    path = run.path / "report.html"
    if not path.is_file() or path.stat().st_size > PAGE_BYTES:
        return ""
    content = path.read_bytes()
    return f"report.html, {len(content) / 1e6:.1f} MB, SHA-256 {hashlib.sha256(content).hexdigest()}"


def write_issues(run: RunDir, cases: Iterable[Case]) -> tuple[Told, ...]:
    """Store text and script of each case beside the page, and remove those that an earlier page left.

    What cannot be read is left out: the page names it.
    """
    found = []
    note = page_note(run)
    for case in cases:
        try:
            one = told(run, case, page=note)
        except BundleError:
            continue
        run.write_product(f"{FOLDER}/{case.name}.md", one.text.encode("utf-8", "replace"))
        if one.script:
            run.write_product(f"{FOLDER}/{case.name}.sh", one.script.encode("utf-8", "replace"))
        found.append(one)
    _remove_all_but(found, run.path / FOLDER)
    return tuple(found)


def _remove_all_but(told: Sequence[Told], folder: Path) -> None:
    """What an earlier page left of cases that are none any more, or have other words now: it may say too much."""
    kept = {f"{one.case.name}.md" for one in told} | {f"{one.case.name}.sh" for one in told if one.script}
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.suffix in (".md", ".sh") and path.name not in kept and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


class _Draft:
    """All that can be said; ``within`` leaves out what has no room."""

    def __init__(
        self, run: RunInfo, trial: StoredTrial, case: Case | None, script: Script, proof: Proof | None, page: str
    ) -> None:
        self._run, self._trial, self._case = run, trial, case
        self._script, self._proof, self._page = script, proof, page
        self._dumped = trial.info.scenario == DUMP
        self._out: list[str] = []

    def within(self, most: int) -> str:
        text = self._whole()
        for name in LEFT_OUT:
            if len(text) <= most:
                return text
            self._out.append(name)
            shorter = self._whole()
            if len(shorter) >= len(text):  # there was nothing of it
                self._out.pop()
            else:
                text = shorter
        return text if len(text) <= most else _cut(text, most)

    def _whole(self) -> str:
        sections: tuple[Callable[[], Iterator[str]], ...] = (self._form, self._evidence, self._foot)
        return "\n\n".join(part for section in sections for part in section() if part) + "\n"

    def _has(self, name: str) -> bool:
        return name not in self._out

    # -- the form's own headings

    def _form(self) -> Iterator[str]:
        yield "### Description"
        yield from self._description()
        yield "### Plugins"
        yield self._plugins()
        yield "### OpenCode version"
        info = self._trial.info
        sha256 = f" (executable: SHA-256 {code(info.binary_sha256)})" if info.binary_sha256 else ""
        yield f"{prose(info.version) or 'unknown'}{sha256}"
        yield "### Steps to reproduce"
        yield from self._steps()
        yield "### Screenshot and/or share link"
        yield f"Attached: {prose(self._page)}. It opens offline and asks for nothing." if self._page else "None."
        yield "### Operating System"
        yield self._system()
        yield "### Terminal"
        started = "None: the processes were started by a program, without a terminal."
        yield "Not known: they were running already." if self._dumped else started

    def _description(self) -> Iterator[str]:
        judged = self._trial.judgement
        info = self._trial.info
        yield f"**{prose(info.title or info.scenario, 200)}**{self._how_often()}"
        if judged is None:
            yield "The evidence was cut off before it was judged."
            return
        yield from evidence.demand(self._trial)
        yield from self._broken(judged.reason)
        yield from evidence.chain(self._trial, in_full=self._has("evidence"))
        yield from evidence.processes(self._trial)
        yield from evidence.findings(self._trial)
        named = sorted(judged.processes, key=lambda one: one.chain != judged.chain)
        yield from (f"What would refute it: {prose(words)}." for words in _refutations(named)[:1])
        yield from self._counts()
        issues = ", ".join(code(one, 100) for one in info.issue[:5])
        about = f"Signature: {code(judged.signature)}." if judged.signature else ""
        yield " ".join(filter(None, (about, f"Looks like {issues}." if issues else "")))

    def _how_often(self) -> str:
        if self._dumped:
            return f": seen once, on opencode {prose(self._trial.info.version) or 'of an unknown version'}."
        if self._case is None:
            return ""
        return f": {_in_words(self._case.rate)} on opencode {prose(self._case.version)}."

    def _broken(self, reason: str) -> Iterator[str]:
        broken = [one for one in self._trial.history.of_type(Expectation) if one.held is False]
        if not broken:
            yield prose(reason, 600)
            return
        cause, follows, _ = reason.partition("; so ")
        if follows:
            yield f"{prose(cause, 600)}."
        yield "What does not hold:"
        lines = [f"- {prose(one.claim, 200)}: **no**: {_why(one.because)}" for one in broken[:CLAIMS]]
        lines += [f"- and {len(broken) - CLAIMS} more" for _ in broken[CLAIMS : CLAIMS + 1]]
        yield "\n".join(lines)

    def _counts(self) -> Iterator[str]:
        if self._case is None:
            return
        rows = [row for one in (self._case.row, *self._case.controls[:CONTROLS]) for row in _rows(one)]
        if len(rows) > 1:
            yield "The same on other versions, and without the ingredient that makes it (controls):"
            yield table(["scenario", "opencode", "reproduced"], rows)

    def _plugins(self) -> str:
        if self._dumped:
            return "Not known: the processes were running already."
        furniture = self._trial.history.of_type(SandboxFurnished)[:1]
        files = [file.path for one in furniture for file in one.files if "plugin" in file.path]
        return "A file in the project: " + ", ".join(code(one, 100) for one in files[:5]) if files else "None."

    def _steps(self) -> Iterator[str]:
        if self._dumped:
            yield "What led to it is not known: the processes were running already, and were looked at with"
            yield fenced(evidence.shortened(self._trial.info.replay or "ocrepro dump", 500), "sh")
        else:
            yield from self._steps_of_a_trial()

    def _steps_of_a_trial(self) -> Iterator[str]:
        if self._script.text and self._has("script"):
            yield (
                "This script needs bash, Python 3 and `opencode` on PATH, no key and no network. It works in a "
                "temporary HOME. Exit code 1: the bug shows; 0: it does not; 2: it could not tell. "
                f"{self._proved()}"
            )
            yield fenced(self._script.text.rstrip("\n"), "bash")
        elif self._script.why_not:
            yield f"There is no short script for it: {prose(self._script.why_not)}."
        if self._has("moves"):
            yield from moves(self._trial.history)
        if self._trial.info.replay:
            yield "With pytest-ocrepro (`--ocrepro-binary=PATH` tries a build of yours):"
            yield fenced(evidence.shortened(replayed(self._trial.info.replay), 500), "sh")

    def _proved(self) -> str:
        return (
            f"On this build it {self._proof.in_words}."
            if self._proof
            else "The harness has not run this very script."
        )

    def _system(self) -> str:
        started = next(iter(self._trial.history.of_type(TrialStarted)), None)
        named = next((fact.value for fact in self._run.machine if fact.name == "system"), "")
        return prose((started.kernel if started else "") or named or "unknown")

    # -- behind them

    def _evidence(self) -> Iterator[str]:
        if self._has("calls"):
            yield from evidence.calls(self._trial.history.of_type(HttpCall))
        if self._has("logs"):
            yield from evidence.logs(self._trial, lines=40 if self._has("long logs") else 10)
        if self._has("timeline"):
            yield from evidence.timeline(self._trial)
        if self._has("machine"):
            yield from evidence.machine(self._run, self._trial)

    def _foot(self) -> Iterator[str]:
        yield "---"
        secret = [one for one in self._trial.masked if one.kind not in ("place", "name")]
        masked = sum(one.count for one in secret)
        about = f"Measured with pytest-ocrepro {prose(self._run.plugin_version) or '(unknown)'}, run "
        about += f"{prose(self._run.run_id, 80)}, trial {self._trial.info.trial}"
        about += "".join(
            f"; watching it took {100 * one.share:.1f} % of a core"
            for one in self._trial.history.of_type(ObservingCost)[-1:]
        )
        kinds = f" of {plural(len(secret), 'kind')}" if masked else ""
        yield f"{about}; {plural(masked, 'secret')}{kinds} masked before anything was stored."
        if self._out:
            yield f"Left out for length: {'; '.join(LEFT_OUT[name] for name in self._out)}."


def _cut(text: str, most: int) -> str:
    """At the end of a line; a fence that was opened is closed."""
    kept = text[: most - len(END) - 8].rpartition("\n")[0]
    fences = [line for line in kept.splitlines() if line.startswith("```")]
    return f"{kept}\n```{END}" if len(fences) % 2 else f"{kept}{END}"


def _why(because: str) -> str:
    """Shortened in its middle: the end says what is waited for, and when that would be over."""
    return prose(clip(flat(because), 600), 700)


def _refutations(processes: Iterable[ProcessJudgement]) -> list[str]:
    return [one.refuted_by for one in processes if one.refuted_by]


def _rows(row: Row) -> Iterator[list[str]]:
    for counted in filter(None, row.cells):
        what = f"control: {row.title}" if row.control else row.title
        inconclusive = f", {counted.inconclusive} inconclusive" if counted.inconclusive else ""
        rate = Rate(k=counted.k, n=counted.n)
        yield [cell(what, 100), prose(counted.version, 40), f"{rate.in_words()}{inconclusive}"]


def _in_words(rate: Rate) -> str:
    """``seen in 18 of 60 trials (30 %; 95 % interval 20-43 %)``."""
    counted, bracket, doubt = rate.in_words().partition(" (")
    return f"seen in {counted.replace('/', ' of ')} {'trial' if rate.n == 1 else 'trials'}{bracket}{doubt}"

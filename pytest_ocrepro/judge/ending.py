"""How a process ended, from its exit and from what it printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pytest_ocrepro.events import ProcessExited, ProcessStarted
from pytest_ocrepro.judge.judgement import Grade, Verdict

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|\r")  # ECMA-48
# How opencode, Bun and yargs begin an error; a word in the middle of a sentence is none
ERROR_LINE = re.compile(
    r"\s*\W{0,3}(?:(?i:error|fatal|panic)\w*\s*[:(\[{]|\w*(?:Error|Exception)\s*[:(\[{]"
    r"|(?i:uncaught|unhandled|unexpected (?:server )?error|model not found|database is locked)\b)"
)
STYLED_ERROR = "\x1b[91m\x1b[1mError: \x1b[0m"  # measured on 1.14.48 to 1.18.34, whether or not it is a terminal
WHERE_TO_LOOK = re.compile(r",? ?check log file at \S+(?: for more details)?", re.IGNORECASE)
MESSAGE = re.compile(r'"message"\s*:\s*("(?:[^"\\]|\\.)*")')
SHELL_SAYS = 128  # a shell's exit status for a signal is 128 plus its number
# signal(7), x86-64 and ARM; named here so that a history reads the same on every machine
SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    31: "SIGSYS",
}
SHOWN = 300


def verdict_of_exit(
    started: ProcessStarted, exited: ProcessExited, *, seconds: float, starved_s: float, answered: bool | None
) -> tuple[Verdict, Grade, str]:
    """A process that ended by itself.

    ``seconds``: how long it lived, without the time that we suspended it; ``starved_s`` of them it waited for a core.
    """
    code = exited.code
    if code < 0:
        name = SIGNALS.get(-code, f"signal {-code}")
        return Verdict.CRASHED, Grade.PROVED, f"ended by signal {-code} ({name}), which we did not send"
    if code - SHELL_SAYS in SIGNALS:
        name = SIGNALS[code - SHELL_SAYS]
        return Verdict.CRASHED, Grade.STRONG, f"exit {code}: 128 + {name}, which we did not send"
    if code == 0:
        said = _exit_zero(started, exited, answered=answered)
        if said is not None:
            return said
    late = 0 < started.fail_fast_s < seconds - starved_s
    limit = f", limit {started.fail_fast_s:g} s" if late else ""
    verdict = Verdict.FAILED_LATE if late else Verdict.FAILED_FAST
    return verdict, Grade.PROVED, f"exit {code} after {seconds:.1f} s{limit}"


def _exit_zero(
    started: ProcessStarted, exited: ProcessExited, *, answered: bool | None
) -> tuple[Verdict, Grade, str] | None:
    """None: it exits 0 and says that it failed, as 1.14.48 does."""
    if answered or exited.answered:
        return Verdict.COMPLETED, Grade.PROVED, "exit 0 and the provider's answer was taken"
    if started.obligation not in ("answer", "serve"):
        return Verdict.COMPLETED, Grade.PROVED, "exit 0"
    if errors_in(exited.output):
        return None
    if answered is None:
        return Verdict.COMPLETED, Grade.WEAK, "exit 0, and an answer went to somebody whom we could not name"
    what = "it stopped serving" if started.obligation == "serve" else "the work was not done"
    return Verdict.SILENT, Grade.PROVED, f"exit 0, but {what} and no error was printed"


def plain(text: str) -> str:
    """The text without terminal escapes and carriage returns."""
    return ESCAPE.sub("", text)


def errors_in(output: str) -> tuple[str, ...]:
    """What the output says that went wrong: the lines from the first error on, or the messages of JSON events.

    opencode prints the message of an unexpected error two lines below the word, so the rest belongs to it. The path
    of the log file is left out: it may hold any word.
    """
    lines = [WHERE_TO_LOOK.sub("", line).strip() for line in plain(output).splitlines()]
    told = list(_json_errors(lines))
    rest = [line for line in lines if not line.startswith('{"')]
    begin = next((at for at, line in enumerate(rest) if ERROR_LINE.match(line)), len(rest))
    return (*told, *(line for line in rest[begin:] if line))


def last_words(output: str) -> str:
    """The telling lines of what was printed; of a JSON error its message."""
    errors = errors_in(output)
    messages = [_unquoted(match) for match in MESSAGE.findall("\n".join(errors))]
    told = [line for line in errors if not re.fullmatch(r'[{}\[\],]*|"\w+"\s*:.*', line) and not line.endswith(": {")]
    shown = list(dict.fromkeys([*told, *messages]))
    if not shown:
        shown = [line.strip() for line in plain(output).splitlines() if line.strip()][-1:]
    return " / ".join(shown[:3])[:SHOWN]


def _json_errors(lines: list[str]) -> Iterator[str]:
    """``run --format json`` prints one event a line; only those of type error count."""
    for line in lines:
        if not line.startswith('{"'):
            continue
        try:
            event: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and (event.get("type") == "error" or "error" in event):
            yield from _messages(event)


def _messages(event: dict[str, Any]) -> Iterator[str]:
    """The innermost ``message`` or ``name`` of an error, down to three levels."""
    error = event.get("error", event)
    for _ in range(3):
        if not isinstance(error, dict):
            break
        if isinstance(error.get("message"), str):
            yield error["message"]
            return
        error = error.get("data", error.get("error", error.get("name")))
    yield str(error)[:SHOWN]


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return text.strip('"')

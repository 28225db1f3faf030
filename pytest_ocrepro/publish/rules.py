"""The user's own redaction rules, as the ini option ``ocrepro_redact`` gives them: one ``NAME = REGEX`` a line.

What a rule matches becomes ``[masked:NAME]`` before anything is stored, and the receipt counts it under its name.
"""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.redaction import VOCABULARY, Rule, kinds

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_LINE = re.compile(r"\s*(?P<name>[^=]*?)\s*=\s*(?P<pattern>.*?)\s*", re.DOTALL)
# Where pytest looks in a folder, in its order, and the tables in which it reads (docs.pytest.org: configuration).
_FILES = {
    "pytest.toml": ("pytest",),
    ".pytest.toml": ("pytest",),
    "pytest.ini": ("pytest",),
    ".pytest.ini": ("pytest",),
    "pyproject.toml": ("tool.pytest", "tool.pytest.ini_options"),
    "tox.ini": ("pytest",),
    "setup.cfg": ("tool:pytest",),
}
_PLACEHOLDERS = ("$SANDBOX", "$HOST", "$USER", "$PROJECT", "$PYTHON")


def read_rules(lines: Iterable[str], source: str) -> tuple[Rule, ...]:
    """The rules that ``source`` holds. Raises UsageError naming the source, the rule and what is wrong with it."""
    rules: dict[str, Rule] = {}
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        rule = _rule(line, source)
        if rule.name in rules:
            raise UsageError(f"{source} has two rules called {rule.name!r}; join them with '|'")
        rules[rule.name] = rule
    masks = [f"[masked:{name}]" for name in (*rules, *sorted(kinds()))]
    for rule in rules.values():
        _refuse_what_would_eat_our_words(rule, masks, source)
    return tuple(rules.values())


def rules_near(folder: Path) -> tuple[Rule, ...]:
    """The rules of the pytest configuration that a folder has, or the nearest one above it; () where there is none.

    Raises UsageError for a configuration that cannot be read.
    """
    for path in (place / name for place in (folder, *folder.parents) for name in _FILES):
        try:
            lines = _lines(path)
        except (OSError, ValueError, configparser.Error) as error:
            why = " ".join(str(error).split())[:200]
            raise UsageError(f"{path} cannot be read for ocrepro_redact: {why}") from None
        if lines is not None:
            return read_rules(lines, f"ocrepro_redact in {path}")
    return ()


def _lines(path: Path) -> list[str] | None:
    """What the option says there; None: the file is not pytest's."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    tables = _toml(text, path.name) if path.suffix == ".toml" else _ini(text, path.name)
    if not tables and "pytest." not in path.name:
        return None
    told: Any = next((table["ocrepro_redact"] for table in tables if "ocrepro_redact" in table), [])
    return told.splitlines() if isinstance(told, str) else [str(line) for line in told]


def _toml(text: str, name: str) -> list[dict[str, Any]]:
    found = []
    for dotted in _FILES[name]:
        table: Any = tomllib.loads(text)
        for key in dotted.split("."):
            table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict):
            found.append(table)
    return found


def _ini(text: str, name: str) -> list[dict[str, str]]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), default_section="none of pytest's")
    parser.read_string(text)
    return [dict(parser[table]) for table in _FILES[name] if parser.has_section(table)]


def _rule(line: str, source: str) -> Rule:
    found = _LINE.fullmatch(line)
    if found is None or not _NAME.fullmatch(found["name"]) or not found["pattern"]:
        wanted = "NAME = REGEX, the name of a-z, 0-9 and '-'"
        raise UsageError(f"{source} has the line {ascii(line.strip())[:60]}; it must be {wanted}")
    if found["name"] in kinds():
        raise UsageError(f"{source}: {found['name']!r} is what the receipt calls a kind of ours; choose another name")
    try:
        pattern = re.compile(found["pattern"])
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{source}: the pattern of {found['name']!r} is no regular expression: {error}") from None
    if pattern.search("") is not None:
        raise UsageError(
            f"{source}: the pattern of {found['name']!r} matches where nothing is; make it need a character"
        )
    return Rule(name=found["name"], pattern=pattern)


def _refuse_what_would_eat_our_words(rule: Rule, masks: Iterable[str], source: str) -> None:
    """A record whose verdict is masked could not be read again; a mask that is masked again would never end."""
    for word in (*sorted(VOCABULARY), *masks, *_PLACEHOLDERS):
        if rule.pattern.search(word):
            why = "which our records need; make the pattern narrower, or choose another name"
            raise UsageError(f"{source}: the rule {rule.name!r} would mask {str(word)!r}, {why}")

"""Values that must not be stored, whatever prints them: what an environment and opencode's own key file hold."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.disguises import MIN_SECRET
from pytest_ocrepro.publish.redaction import GENERIC_NAMES, Masked, Redactor, Rule
from pytest_ocrepro.publish.secret_names import is_secret

KEY_FILE = "auth.json"
LARGEST_BYTES = 1 << 20
MOST_VALUES = 200
PLAIN = ("type", "expires")  # what an entry of the key file says openly


class Gate:
    """The redaction gate of foreign processes: each one's own secrets and home are taken out of all that is said."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._redactors = [Redactor(secret_values(os.environ), {}, rules)]

    def introduce(self, environment: Mapping[str, str]) -> None:
        """Take its secrets, those of its key file and its home for such from now on."""
        home = environment.get("HOME", "")
        places = {home: "~"} if home.startswith("/") and home != "/" else {}
        keys = key_file(environment)
        secrets = {**secret_values(environment), **stored_secrets([keys] if keys else [])}
        self._redactors.append(Redactor(secrets, places, names={}))

    def __call__(self, text: str) -> str:
        """The text as it may be stored or shown."""
        for redactor in self._redactors:
            text = redactor(text)
        return text

    def receipt(self) -> tuple[Masked, ...]:
        """What has been taken out so far, by kind."""
        return joined(*(redactor.receipt() for redactor in self._redactors))


def joined(*receipts: Iterable[Masked]) -> tuple[Masked, ...]:
    """One receipt of several gates that the same texts have passed."""
    counts: Counter[str] = Counter()
    for receipt in receipts:
        counts.update({one.kind: one.count for one in receipt})
    return tuple(Masked(kind=kind, count=count) for kind, count in sorted(counts.items()))


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """What in an environment must not be stored, by name; an ordinary word hides nothing.

    A value that is JSON (OPENCODE_AUTH_CONTENT) is one, and so is each text in it.
    """
    found: dict[str, str] = {}
    for name, value in environment.items():
        if is_secret(name) and value.lower() not in GENERIC_NAMES:
            found |= {name: value, **secrets_in(value, name)}
    return found


def secrets_in(text: str, name: str = KEY_FILE) -> dict[str, str]:
    """Every text in a JSON object, named by where it stands; {} where it is none."""
    if not text.lstrip().startswith("{"):
        return {}
    try:
        held = dict(_texts(json.loads(text), name))
    except (ValueError, RecursionError):
        return {}
    return dict(list(held.items())[:MOST_VALUES])


def stored_secrets(paths: Iterable[Path]) -> dict[str, str]:
    """What these key files hold; one that is not there, or cannot be read, holds nothing that we know."""
    found: dict[str, str] = {}
    for number, path in enumerate(paths, start=1):
        try:
            content = storage.read_bytes(path, LARGEST_BYTES) or b""
        except BundleError:
            continue
        found |= secrets_in(content.decode(errors="replace"), KEY_FILE if number == 1 else f"{KEY_FILE}-{number}")
    return found


def key_file(environment: Mapping[str, str]) -> Path | None:
    """Where an opencode with this environment has its key file; None where that cannot be told."""
    data, home = environment.get("XDG_DATA_HOME", ""), environment.get("HOME", "")
    if not data.startswith("/"):
        data = f"{home}/.local/share" if home.startswith("/") else ""
    return Path(data, "opencode", KEY_FILE) if data else None


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and len(value) >= MIN_SECRET and value.lower() not in GENERIC_NAMES:
        yield name, value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in PLAIN:
                yield from _texts(one, f"{name}-{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _texts(one, f"{name}-{number}")

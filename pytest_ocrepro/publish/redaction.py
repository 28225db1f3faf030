"""The one gate that every text passes before it is stored.

Four kinds of things are taken out: values we know (exact), values that a key names (``api_key=...``),
values with the shape of a known token, and places and names of this machine. What must survive, because it is
evidence: opencode's ids (``ses_...``, ``msg_...``, ``prt_...``), SHA hashes, lock directory names, UUIDs,
ports, kernel function names.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from pytest_ocrepro.judge.judgement import Grade, Result, Verdict
from pytest_ocrepro.publish.disguises import MIN_SECRET, forms, seams, unsplit
from pytest_ocrepro.publish.secret_names import rules_for
from pytest_ocrepro.publish.token_shapes import SHAPES
from pytest_ocrepro.readings import MILESTONES, FdKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MIN_NAME = 4
# Names of users and hosts that say nothing about anybody, and are ordinary words of logs.
GENERIC_NAMES = frozenset(
    """
    admin agent azureuser bash bogus build builder circleci codespace container debian default dev
    developer docker ec2-user fedora gitpod guest harness home host jenkins linux localdomain localhost
    machine main mock nobody node opencode public pytest python root runner second server session shell
    system test tester ubuntu user vagrant virtualbox vscode worker
    """.split()  # noqa: SIM905 - as a list it would fill fifty lines
)
# Words of ours that judge and page look for in a record: masking one would make it unreadable, or mean another thing.
_MARKS = """
    answer serve exit open-pipe begun stalled finished error client-left unexpected not-found refused reset served
    registry provider database-lock network scenario sweep proved inferred declared
""".split()  # noqa: SIM905 - as a list it would fill twenty lines
VOCABULARY = frozenset([*FdKind, *Verdict, *Grade, *Result, *MILESTONES, *_MARKS])


class Masked(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the receipt: so many values of this kind were taken out."""

    kind: str
    count: int


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a user wants masked besides, as ``[masked:NAME]``; see :mod:`pytest_ocrepro.publish.rules`."""

    name: str
    pattern: re.Pattern[str]


class Redactor:
    """Callable gate; safe to use from several threads, linear in the length of the text, idempotent.

    ``secrets`` maps a name to a value: the value (from 6 characters on) is replaced by ``[masked:NAME]``
    wherever it stands, in each form that :mod:`pytest_ocrepro.publish.disguises` knows. ``places`` maps an
    absolute path to its placeholder (``$SANDBOX``, ``~``). ``rules`` are the user's own; they come first. ``names``
    maps user and host names to their placeholders; None takes this machine's, and with them its home as ``~``.
    """

    def __init__(
        self,
        secrets: Mapping[str, str],
        places: Mapping[str, str],
        rules: Sequence[Rule] = (),
        *,
        names: Mapping[str, str] | None = None,
    ) -> None:
        if names is None:
            names, places = machine_names(), {**machine_homes(), **places}
        self._known = _known_values(secrets)
        self._unsplit = _unsplit_values(self._known)
        self._places = _place_patterns(places)
        self._names = _name_patterns(names)
        self._rules = [(rule, f"[masked:{rule.name}]") for rule in rules]
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._clean: set[str] = set()

    def __call__(self, text: str) -> str:
        """The text as it may be stored."""
        if text in self._clean:
            return text
        before, text = text, self._once(text)
        # A replacement makes new neighbours; going on until nothing changes makes the gate idempotent.
        for _ in range(_MAX_ROUNDS):
            if text == before:
                break
            before, text = text, self._once(text)
        self._remember(text)
        return text

    def learn(self, secrets: Mapping[str, str]) -> bool:
        """Mask these values, too, from now on; whether there is a new one among them."""
        with self._lock:
            new = [one for one in _known_values(secrets) if one[1] not in {value for _, value, _ in self._known}]
            if new:
                self._known = sorted([*self._known, *new], key=lambda one: -len(one[1]))
                self._unsplit = _unsplit_values(self._known)
                self._clean = set()
        return bool(new)

    def receipt(self) -> tuple[Masked, ...]:
        """What has been taken out so far, by kind; never a value."""
        with self._lock:
            return tuple(Masked(kind=kind, count=count) for kind, count in sorted(self._counts.items()))

    def _once(self, text: str) -> str:
        for rule, placeholder in self._rules:
            text = self._sub(rule.name, rule.pattern, placeholder, text)
        if len(text) < MIN_NAME:
            return text
        for kind, value, placeholder in self._known:
            if value in text:
                self._count(kind, text.count(value))
                text = text.replace(value, placeholder)
        text = self._split(text)
        lowered = text.lower()
        text = self._shapes(text)
        for kind, pattern, mask in rules_for(lowered):
            text = self._sub(kind, pattern, mask, text)
        return self._own(text, lowered)

    def _shapes(self, text: str) -> str:
        for shape in SHAPES:
            for hint in shape.hints:
                if hint in text:
                    text = self._sub(shape.kind, shape.pattern, shape.mask, text)
                    break
        if len(text) >= _KEY_LINE_LENGTH:
            text = self._sub("private-key", _KEY_LINE, "[masked:private-key]", text)
        return text

    def _split(self, text: str) -> str:
        """Without the known values that something stands in the midst of."""
        joints = seams(text) if self._known else None
        if joints is None:
            return text
        found = [
            (begin, end, kind, placeholder)
            for joined, kind, placeholder in self._unsplit
            if joined in joints.joined
            for begin, end in joints.places(joined)
        ]
        pieces, at = [], 0
        for begin, end, kind, placeholder in sorted(found, key=lambda one: (one[0], -one[1])):
            if begin >= at:
                pieces += [text[at:begin], placeholder]
                self._count(kind, 1)
                at = end
        return "".join([*pieces, text[at:]])

    def _own(self, text: str, lowered: str) -> str:
        for place, pattern, placeholder in self._places:
            if place in text:
                text = self._sub("place", pattern, placeholder, text)
        for name, pattern, placeholder in self._names:
            if name in lowered:
                text = self._sub("name", pattern, placeholder, text)
        return text

    def _sub(self, kind: str, pattern: re.Pattern[str], mask: str | Callable[[re.Match[str]], str], text: str) -> str:
        text, count = pattern.subn(mask, text)
        if count:
            self._count(kind, count)
        return text

    def _count(self, kind: str, count: int) -> None:
        with self._lock:
            self._counts[kind] += count

    def _remember(self, text: str) -> None:
        if len(text) > _CACHED_LENGTH:
            return
        if len(self._clean) >= _CACHED_TEXTS:
            self._clean = set()
        self._clean.add(text)


def machine_names() -> dict[str, str]:
    """User and host names of this machine, each with its placeholder."""
    host = socket.gethostname()
    names = {host: "$HOST", host.split(".")[0]: "$HOST"}
    with contextlib.suppress(OSError, KeyError):  # a user id without a password entry, as in many containers
        names[getpass.getuser()] = "$USER"
    return names


def machine_homes() -> dict[str, str]:
    """The home directory of whoever runs this, as ``~``."""
    try:
        return {str(Path.home()): "~"}
    except RuntimeError:  # neither HOME nor a password entry
        return {}


def kinds() -> frozenset[str]:
    """The words that a receipt uses for what is masked without being asked."""
    fixed = ("known-value", "key-name", "header", "option", "netrc", "place", "name")
    return frozenset([*fixed, "by-key-name", *(shape.kind for shape in SHAPES)])


_MAX_ROUNDS = 8
_CACHED_LENGTH = 256
_CACHED_TEXTS = 4096
_KEY_LINE_LENGTH = 60


# A log line is gated by itself, so a private key printed over several lines has no head there: a line that is
# nothing but 60 to 76 characters of base64 in both cases is taken for its body (PEM: 64 a line, OpenSSH: 70).
_KEY_LINE = re.compile(
    r"(?m)^(?=[ \t]{0,8}[A-Z0-9+/]*[a-z])(?=[ \t]{0,8}[a-z0-9+/]*[A-Z])"
    r"[ \t]{0,8}[A-Za-z0-9+/]{60,76}={0,2}[ \t\r]{0,8}$"
)


def _known_values(secrets: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for name, value in secrets.items():
        label = re.sub(r"[^A-Za-z0-9_.-]+", "-", name) or "secret"
        for form in forms(value):
            if len(form) >= MIN_SECRET and not any(form in word for word in VOCABULARY) and form not in "[masked:":
                found.setdefault(form, ("known-value", f"[masked:{label}]"))
    ordered = sorted(found.items(), key=lambda item: -len(item[0]))
    return [(kind, value, placeholder) for value, (kind, placeholder) in ordered]


def _unsplit_values(known: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    found = [(unsplit(value), kind, placeholder) for kind, value, placeholder in known]
    return [one for one in found if len(one[0]) >= MIN_SECRET]


def _place_patterns(places: Mapping[str, str]) -> list[tuple[str, re.Pattern[str], str]]:
    found: dict[str, str] = {}
    for place, placeholder in places.items():
        for form in (place.rstrip("/"), quote(place.rstrip("/"))):
            if len(form) >= MIN_NAME:
                found.setdefault(form, placeholder)
    return [
        # the end of a path component: "/home/ann" is not in "/home/annabel"
        (form, re.compile(re.escape(form) + r"(?![A-Za-z0-9_-])"), placeholder.replace("\\", r"\\"))
        for form, placeholder in sorted(found.items(), key=lambda item: -len(item[0]))
    ]


def _name_patterns(names: Mapping[str, str]) -> list[tuple[str, re.Pattern[str], str]]:
    return [
        (
            name.lower(),
            re.compile(rf"(?i)(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])"),
            placeholder.replace("\\", r"\\"),
        )
        for name, placeholder in sorted(names.items(), key=lambda item: -len(item[0]))
        if len(name) >= MIN_NAME and name.lower() not in GENERIC_NAMES and name.lower() not in VOCABULARY
    ]

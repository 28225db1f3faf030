"""The forms that a known value takes in a text: encoded, or with something in its midst."""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIN_SECRET = 6  # characters; a shorter value would be found by chance in harmless text
_MIN_LINE = 12  # of a secret of several lines; a shorter line may be a word of any text
_MIN_CASE = 8  # with a digit: a word in capitals is a word
_JS_KEEPS = "!'()*"  # encodeURIComponent does not escape these
_HEXES = re.compile(r"%[0-9A-F]{2}")

_ESCAPE = r"\\{1,4}(?:x|u00|u\{)1[bB]\}?"
# What a terminal, a log or an editor may put into the middle of a value, as it is and as JSON writes it.
_SPLIT = re.compile(
    rf"(?:\x1b|{_ESCAPE})\[[0-9;?]{{0,32}}[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    r"|[\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]|(?:\r?\n|\r)[ \t]{0,64}"
    r"|\\{1,4}u(?:00[01][0-9a-fA-F]|00[aA][dD]|200[b-fB-F]|2060|[fF][eE][fF][fF])|\\{1,4}r?\\{0,4}[nr]"
)
# One set of signs is found many times faster than the alternatives of which each begins with one of them.
_MAY_SPLIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\\]")


def forms(value: str) -> Iterator[str]:
    """Each spelling of a value that is looked for: as it is, quoted for URLs, in JSON, base64 and hexadecimal."""
    if len(value) < MIN_SECRET:
        return
    yield value
    raw = value.encode("utf-8", "surrogateescape")
    for quoted in (quote(raw, safe=""), quote(raw), quote(raw, safe=_JS_KEEPS), quote_plus(raw)):
        yield quoted
        yield _HEXES.sub(lambda found: found[0].lower(), quoted)
    once = json.dumps(value)[1:-1]
    yield once
    yield json.dumps(once)[1:-1]  # JSON in a string of JSON, as in the arguments of a tool call
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield from _base64(raw)
    yield raw.hex()
    yield raw.hex().upper()
    if len(value) >= _MIN_CASE and any(sign.isdigit() for sign in value):
        yield value.upper()
        yield value.lower()
    yield from _lines(value)


def unsplit(value: str) -> str:
    """A value as it is looked for in a text of which all that may split one was taken out."""
    return _SPLIT.sub("", value)


class Seams:
    """A text without what may split a value, and where each character of that stood."""

    def __init__(self, text: str, cuts: Sequence[tuple[int, int]]) -> None:
        begins = [0, *(end for _, end in cuts)]
        ends = [*(begin for begin, _ in cuts), len(text)]
        pieces = [text[begin:end] for begin, end in zip(begins, ends, strict=True)]
        self.joined = "".join(pieces)
        self._begins = begins
        self._starts = [0, *accumulate(len(piece) for piece in pieces)][:-1]

    def places(self, joined: str) -> list[tuple[int, int]]:
        """Where an :func:`unsplit` value stands with something in its midst: begin and end of each, in order."""
        found = []
        at = self.joined.find(joined)
        while at >= 0:
            begin, end = self._place(at), self._place(at + len(joined) - 1) + 1
            if end - begin > len(joined):
                found.append((begin, end))
            at = self.joined.find(joined, at + len(joined))
        return found

    def _place(self, at: int) -> int:
        piece = bisect_right(self._starts, at) - 1
        return self._begins[piece] + at - self._starts[piece]


def seams(text: str) -> Seams | None:
    """None: there is nothing in the text that could split a value."""
    if not _MAY_SPLIT.search(text):
        return None
    cuts = [found.span() for found in _SPLIT.finditer(text)]
    return Seams(text, cuts) if cuts else None


def _base64(raw: bytes) -> Iterator[str]:
    """In both alphabets, alone and behind one or two further bytes: only what the neighbours cannot change."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode().rstrip("=")
        for before, depends in ((0, 0), (1, 2), (2, 3)):
            encoded = encode(bytes(before) + raw).decode()
            yield encoded.rstrip("=")[depends : -1 if encoded.endswith("=") else None]


def _lines(value: str) -> Iterator[str]:
    """Each line of a secret that has several; the texts in JSON are secrets of their own, the marks of a PEM none."""
    if "\n" in value and not value.lstrip().startswith(("{", "[")):
        for line in map(str.strip, value.splitlines()):
            if len(line) >= _MIN_LINE and not line.startswith("-----"):
                yield line

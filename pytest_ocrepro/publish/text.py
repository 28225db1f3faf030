"""Text of the subject on its way to a reader: what cannot be seen is spelled out, what is cut is counted."""

from __future__ import annotations

import re
from html import escape


def visible(text: str) -> str:
    """Text with its control, direction and invisible characters spelled out, so that none can disturb a page.

    Newline and tab stay. C0 controls become their pictures (U+2400 on), all others ``<U+202E>``.
    """
    return _HIDDEN.sub(_spelled, text)


def escaped(text: str) -> str:
    """Visible, and as it may stand in HTML and in SVG, between tags and in quoted attributes."""
    return escape(visible(text))


def flat(text: str) -> str:
    """Visible, and on one line."""
    return visible(" ".join(text.split()))


def cut(text: str, width: int) -> str:
    """At most ``width`` characters, the last of them an ellipsis where there was more."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def clip(text: str, most: int = 400) -> str:
    """Head and tail of a long text, with what was cut between them counted."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]} … {len(text) - most:,} characters cut … {text[head - most :]}"


# C0 but newline and tab, DEL, C1, soft hyphen, marks and overrides of direction, separators and joiners that show
# nothing, surrogates (which no file can hold), tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:  # noqa: PLR2004 - the end of C0
        return chr(0x2400 + code)
    return f"<U+{code:04X}>"

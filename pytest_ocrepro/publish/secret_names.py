"""Names that say of a value that it is a secret: one list for environments and for running text."""

from __future__ import annotations

import re

ANYWHERE = ("key", "token", "secret", "password", "passwd", "passphrase", "credential", "creds", "auth", "cookie")
PARTS = ("pass", "pwd", "pw", "pat", "dsn")  # between two underscores: PATH, COMPASS and BYPASS are no secrets
PLACES = frozenset({"PWD", "OLDPWD"})  # a shell's working directories

_PART = re.compile(rf"(?i)(?:^|[_-])(?:{'|'.join(PARTS)})(?:$|[_-]|[0-9])|(?<!by)(?<!com)(?<!ask)pass$")
_KINDS_OF_KEY = "api|access|private|secret|encryption|signing"  # a bare "key" is one of a table, a lock or a cache
_ALONE = (
    r"secret|token|password|passwd|passphrase|pwd|credentials?|creds|authorization|cookie|x-(?:amz|goog)-signature"
)
# A word of PARTS, and "auth", are too common in logs to be names without another word before them.
_NAME = (
    rf"(?:(?:{_KINDS_OF_KEY})[_-]?key(?:[_-]?id)?|{_ALONE}|(?<=[_-])(?:auth|{'|'.join(PARTS)}))"
    r"(?:[_-]?(?:base|value|v?[0-9]{1,2}))?"
)
_KEY_WORDS = (*ANYWHERE, "pwd", "pass", "signature", *(sign + word for word in PARTS for sign in "_-"))
_HARMLESS = r"(?!\\*[\"']?(?:\[masked:|null\b|none\b|true\b|false\b|undefined\b|\$\{?[A-Z]))"
_LONGEST_NAME = 250
_SEPARATOR = r"\s{0,4}(?:=>|[:=])\s{0,4}"
# Asked of the lower-cased text first: five patterns that ignore case cost ten times as much.
_KEYED = re.compile(rf"{_NAME}\\*[\"']?{_SEPARATOR}")
# A whole environment entry, NAME=value: the value is all of the rest, blanks included.
_ASSIGNED = re.compile(rf"(?is)\A([A-Z0-9_]{{0,80}}{_NAME}=)(?!\[masked:|\Z).+\Z")
_HEADER = re.compile(
    rf"(?i)((?:authorization|cookie|x-api-key)[\"']?{_SEPARATOR}(?:(?:bearer|basic|token|digest|negotiate)\s{{1,4}})?)"
    r"(?!\[masked:)(?![\"'\\])\S[^\r\n\"'\\]*"
)
_QUOTED = re.compile(rf"(?i)({_NAME}[\"']?{_SEPARATOR}){_HARMLESS}([\"'])(?!\2)(?:\\.|(?!\2)[^\\\n])*(\2|\n|\Z|\\\Z)")
# JSON inside JSON: the quotes themselves are escaped.
_NESTED = re.compile(
    rf"(?i)({_NAME}\\+[\"']{_SEPARATOR}){_HARMLESS}(\\+[\"'])(?!\2)(?:(?s:.){{0,4096}}?(?:(?<!\\)\2|\Z)|(?s:.){{4096}})"
)
_BARE = re.compile(rf"(?i)({_NAME}(?:\\*[\"'])?{_SEPARATOR}){_HARMLESS}[^\s\"'\\,;&<>{{}}\[\]()`|\x00-\x1f\x7f]+")
# Several values under one name: "password": ["a", "b"].
_LISTED = re.compile(
    rf"(?i)({_NAME}\\*[\"']?{_SEPARATOR}\[\s{{0,4}})(?!\s{{0,4}}\\*[\"']\[masked:)(\\*[\"'])[^\]\n]{{0,4096}}\]?"
)
# A whole entry of an environment, by the rule for environments; a short value is a number or an ordinary word.
_ENTRY = re.compile(
    rf"(?s)\A((?:[A-Z0-9_]{{0,80}}(?:{'|'.join(ANYWHERE).upper()})[A-Z0-9_]{{0,80}}"
    rf"|(?:[A-Z0-9_]{{0,80}}_)?(?:{'|'.join(PARTS).upper()})(?:_[A-Z0-9_]{{0,80}})?"
    rf"|[A-Z0-9_]{{0,80}}(?<!BY)(?<!COM)(?<!ASK)PASS)=)(?!\[masked:).{{6,}}\Z"
)
_OPTIONAL = re.compile(rf"{_NAME}[ \t]")
# --password X. Words that only speak of an option are let be.
_OPTION = re.compile(
    rf"(?i)(?<![a-z0-9])(--?(?:[a-z0-9]{{1,40}}-){{0,4}}{_NAME}[ \t]{{1,4}}){_HARMLESS}"
    r"(?!-|(?:option|flag|argument|is|was|and|or|for|not|must|cannot)\b)(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s\"',;]+)"
)
# curl -u user:password; numbers are the user and the group of a container.
_USER = re.compile(
    r"(?<![A-Za-z0-9-])((?:-u[ \t]{0,4}|--(?:proxy-)?user(?:=|[ \t]{1,4}))[\"']?)"
    r"(?![0-9]{1,10}:[0-9]{1,10}(?![0-9]))([A-Za-z0-9._@+-]{1,128}:)(?!\[masked:|//)[^\s\"']+"
)
# The lines of a netrc, in one or each by itself.
_NETRC = re.compile(
    r"((?:(?:login|machine)[ \t]{1,4}\S{1,256}\s{1,8}|(?m:^)[ \t]{0,8})(?:password|account)[ \t]{1,4})"
    r"(?!\[masked:)(?:(?<=[ \t])\S+(?=[ \t]{0,8}(?:$|\n|machine\b|login\b|account\b)))"
)
NAMED = (
    ("key-name", _ENTRY, r"\g<1>[masked:by-key-name]"),
    ("key-name", _ASSIGNED, r"\g<1>[masked:by-key-name]"),
    ("header", _HEADER, r"\g<1>[masked:header]"),
    ("key-name", _QUOTED, r"\g<1>\g<2>[masked:by-key-name]\g<3>"),
    ("key-name", _NESTED, r"\g<1>\g<2>[masked:by-key-name]\g<2>"),
    ("key-name", _LISTED, r"\g<1>\g<2>[masked:by-key-name]\g<2>]"),
    ("key-name", _BARE, r"\g<1>[masked:by-key-name]"),
)
TOLD = (
    ("option", _OPTION, r"\g<1>[masked:option]"),
    ("option", _USER, r"\g<1>\g<2>[masked:option]"),
    ("netrc", _NETRC, r"\g<1>[masked:netrc]"),
)


def is_secret(name: str) -> bool:
    """Whether the value of an environment variable of this name must not be stored."""
    lowered = name.lower()
    return name not in PLACES and (any(word in lowered for word in ANYWHERE) or _PART.search(name) is not None)


def rules_for(lowered: str) -> list[tuple[str, re.Pattern[str], str]]:
    """Kind, pattern and mask of all that could match a text, which is given in lower case."""
    found: list[tuple[str, re.Pattern[str], str]] = []
    if any(word in lowered for word in _KEY_WORDS):
        head = lowered[:_LONGEST_NAME]
        found += (
            NAMED if _KEYED.search(lowered) else NAMED[:1] if "=" in head and " " not in head.split("=")[0] else ()
        )
        found += TOLD[:1] if "-" in lowered and _OPTIONAL.search(lowered) else ()
    if "-u" in lowered:
        found += TOLD[1:2]
    if "password" in lowered or "account" in lowered:
        found += TOLD[2:]
    return found

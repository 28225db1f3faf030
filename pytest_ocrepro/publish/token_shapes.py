"""Shapes of known tokens: what is a secret wherever it stands, by its look alone."""

from __future__ import annotations

import re

import msgspec


class Shape(msgspec.Struct, frozen=True):
    """One kind of token, and what is left in its place."""

    kind: str
    hints: tuple[str, ...]  # plain substrings, one of which every match contains: they spare the pattern
    pattern: re.Pattern[str]
    mask: str


# Not in the middle of a word; the end of a colour code, of an escape like ``\\n`` and of ``%22`` are no part of one.
_AT_START = r"(?:(?<![A-Za-z0-9])|(?<=[0-9;\[]m)|(?<=\\[bfnrt])|(?<=%[0-9A-Fa-f]{2}))"


def _token(kind: str, expression: str, *hints: str) -> Shape:
    pattern = re.compile(rf"{_AT_START}{expression}")
    return Shape(kind, hints, pattern, f"[masked:{kind}]")


# Forms as their issuers document them (prefix, alphabet, least length).
SHAPES = (
    _token("sk-key", r"sk-[A-Za-z0-9_-]{16,}", "sk-"),
    _token("stripe-key", r"[srp]k_(?:live|test)_[A-Za-z0-9]{16,}", "k_live_", "k_test_"),
    _token("github-token", r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})", "gh", "github_pat_"),
    _token("gitlab-token", r"gl(?:pat|dt|rt|ptt|cbt|oas)-[A-Za-z0-9_.-]{20,}", "gl"),
    _token("slack-token", r"(?:xox[a-z]|xapp)-[A-Za-z0-9-]{10,}", "xox", "xapp-"),
    _token("aws-key-id", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", "AKIA", "ASIA"),
    _token("google-key", r"(?:AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,})", "AIza", "ya29."),
    _token("jwt", r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}", "eyJ"),
    _token("npm-token", r"npm_[A-Za-z0-9]{30,}", "npm_"),
    _token("pypi-token", r"pypi-[A-Za-z0-9_-]{40,}", "pypi-"),
    _token("hugging-face-token", r"hf_[A-Za-z0-9]{30,}", "hf_"),
    _token(
        "model-key",
        r"(?:gsk_|xai-|r8_|tgp_v1_|pplx-)[A-Za-z0-9_-]{20,}",
        "gsk_",
        "xai-",
        "r8_",
        "tgp_v1_",
        "pplx-",
    ),
    _token("sendgrid-key", r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}", "SG."),
    _token("docker-token", r"dckr_pat_[A-Za-z0-9_-]{20,}", "dckr_pat_"),
    _token("age-key", r"AGE-SECRET-KEY-1[A-Z0-9]{20,}", "AGE-SECRET-KEY-1"),
    Shape(
        "private-key",
        ("PRIVATE KEY",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
            re.DOTALL,
        ),
        "[masked:private-key]",
    ),
    Shape(
        "url-password",
        ("@",),
        re.compile(r"(://)(?!\[masked)[^\s/@\"'<>]{1,512}@"),
        r"\1[masked:url-password]@",
    ),
    Shape(
        "bearer",
        ("earer ", "EARER "),
        re.compile(r"(?i)\b(bearer\s{1,4})(?=[^\s\"']{0,256}[0-9])[A-Za-z0-9._~+/=-]{8,}"),
        r"\1[masked:bearer]",
    ),
)

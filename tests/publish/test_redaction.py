from __future__ import annotations

import base64
import json
import re
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.publish.redaction import Masked, Redactor, Rule, machine_homes, machine_names

CANARY = "Cn4ryXq7Zt9"
# Put together here, so that no scanner of source code takes them for leaked ones.
TOKENS = {
    "openai": "sk-" + "proj-" + CANARY * 3,
    "anthropic": "sk-" + "ant-api03-" + CANARY * 3,
    "stripe": "sk_" + "live_" + CANARY * 2,
    "github": "ghp" + "_" + CANARY * 4,
    "github-fine": "github" + "_pat_" + CANARY * 4,
    "gitlab": "glpat" + "-" + CANARY * 2,
    "slack": "xoxb" + "-" + f"1234-5678-{CANARY}",
    "aws": "AKIA" + "ZZCN4RYXQ7ZT9QQQ",
    "google": "AIza" + CANARY * 4,
    "jwt": "eyJ" + CANARY + "." + "eyJ" + CANARY + "." + CANARY,
    "npm": "npm" + "_" + CANARY * 4,
    "pypi": "pypi" + "-" + CANARY * 5,
    "hugging-face": "hf" + "_" + CANARY * 4,
    "groq": "gsk" + "_" + CANARY * 3,
    "sendgrid": "SG" + f".{CANARY * 2}.{CANARY * 2}",
    "docker": "dckr" + "_pat_" + CANARY * 2,
    "age": "AGE-SECRET" + "-KEY-1" + CANARY.upper() * 3,
    "private-key": "-----BEGIN OPENSSH " + f"PRIVATE KEY-----\n{CANARY}\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----",
    "cut-private-key": "-----BEGIN RSA " + f"PRIVATE KEY-----\n{CANARY}\n{CANARY}",
    "key-body": f"MIIEow{CANARY * 6}"[:64],
    "url": f"https://deploy:{CANARY}@example.invalid/x.git",
    "url-name-only": f"https://{CANARY}@example.invalid/x.git",
    "bearer": f"-H 'Bearer {CANARY * 2}'",
}
KEYED = (
    "OPENAI_API_KEY={}",
    "export api_key='{}'",
    'apiKey: "{}"',
    '{{"apiKey": "{}"}}',
    '{{"password":"{} with blanks"}}',
    '"{{\\"token\\":\\"{}\\",\\"n\\":1}}"',
    "Authorization: Bearer {}",
    "Authorization: Basic {}",
    "authorization={}",
    '"authorization": "Bearer {}"',
    "x-api-key: {}",
    "Cookie: session={}; other={}",
    "set-cookie: sid={}",
    "client_secret = {}",
    "SECRET_KEY_BASE={}",
    "DB_PASSWORD={} and the rest {}",
    "passwd:{}",
    "pwd={}",
    "passphrase => '{}'",
    "aws_secret_access_key: {}",
    "my-access-token={}",
    "credentials={}",
    'password="{}',
    "--token={} --verbose",
    "DB_PASS={}",
    "GITHUB_PAT: {}",
    "SENTRY_DSN={}",
    "npm_auth={}",
    "ANYTHING_OF_A_KEY={}",
    "--password {} --verbose",
    "tool --db-password '{}'",
    "curl -u ann:{} https://example.invalid",
    "curl --user 'ann:{}'",
    "machine example.invalid login ann password {}",
    "  password {}",
    '{{"password": ["{}", "{}"]}}',
    "https://example.invalid/x?X-Amz-Signature={}&n=1",
)
EVIDENCE = (
    "ses_5c1f0aXyZ0ffeW81hRk2mB9QtN",
    "msg_e61fcb3e7001tM3XlSSUQFplqK",
    "prt_e61fcb3e8001aYQ5c1CkJm4Q2b",
    "que_e61fcb3e8001aYQ5c1CkJm4Q2b",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "$SANDBOX/state/opencode/locks/da39a3ee5e6b4b0d3255bfef95601890afd80709.lock",
    "0f8fad5b-d9cb-469f-a165-70867728950e",
    "127.0.0.1:41873 ESTABLISHED",
    "futex_do_wait",
    "INFO  2026-11-20T23:21:56 +0ms service=plugin name=X loading internal plugin",
    "timestamp=2026-11-20T23:21:56 level=INFO run=58cf0712 message=loading path=opencode.json",
    "tokens.input=1204 max_tokens=4000 tokens: 5",
    "npm-install:$SANDBOX/config/opencode",
    "npm_config_registry=http://127.0.0.1:41873",
    "sqlite key=npm-install monkey=1 keyboard: x",
    "Failed to run the query 'PRAGMA journal_mode = WAL'",
    'token: null, password=, "apiKey": true, api_key=${OPENAI_API_KEY}',
    "task-force-aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "user@example: not a url",
    "http://127.0.0.1:4096/session?directory=/x@y",
    "tests pass: 3, path=/x, compass=north, the password of the --token option is asked for",
    "PATH=/usr/bin:/bin",
    "docker run -u 1000:1000 -u root x",
    "git push -u origin main",
    "primary_key=ses_1 --max-tokens 4000",
    "\x1b[32mrunning\x1b[0m\n  a-secret\n  other-value\x00",
)


def plain(**secrets: str) -> Redactor:
    return Redactor(secrets, {}, names={})


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("around", ["{}", "before {} after", '"{}"', "x={},", "\x1b[31m{}\x1b[0m"])
def test_tokens_of_every_kind_are_masked(kind: str, around: str) -> None:
    if kind == "key-body" and around != "{}":
        around = "\n{}\n"
    text = plain()(around.format(TOKENS[kind]))
    assert CANARY.lower() not in text.lower()
    assert "[masked:" in text


@pytest.mark.parametrize("form", KEYED)
def test_values_that_a_key_names_are_masked(form: str) -> None:
    value = "hunter2-" + CANARY
    text = plain()(form.format(*[value] * form.count("{}")))
    assert CANARY not in text
    assert "hunter2" not in text
    assert "[masked:" in text


@pytest.mark.parametrize("text", EVIDENCE)
def test_evidence_is_left_as_it_is(text: str) -> None:
    redactor = Redactor({"KEY": "a-secret-value"}, {"/home/ann": "~"}, names={"annabel": "$USER"})
    assert redactor(text) == text
    assert redactor.receipt() == ()


@pytest.mark.parametrize(
    "form",
    [
        lambda value: value,
        lambda value: f"x{value}y",
        lambda value: quote(value, safe=""),
        lambda value: json.dumps({"n": value}),
        lambda value: json.dumps(json.dumps({"n": value})),
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(f"u{value}ab".encode()).decode(),
        lambda value: base64.b64encode(f"us{value}a".encode()).decode(),
        lambda value: base64.urlsafe_b64encode(f"user{value}".encode()).decode(),
        quote,
        quote_plus,
        lambda value: re.sub("%..", lambda found: found[0].lower(), quote(value, safe="")),
        lambda value: quote(value, safe="!'()*"),
        lambda value: value.encode().hex(),
        str.upper,
        lambda value: f"{value[:3]}\n{value[3:]}",
        lambda value: f"{value[:3]}\r\n    {value[3:8]}\n{value[8:]}",
        lambda value: f"{value[:5]}\x1b[1;31m{value[5:]}\x1b[0m",
        lambda value: json.dumps(f"{value[:5]}\x1b[1;31m{value[5:]}"),
        lambda value: json.dumps(f"{value[:5]}\n{value[5:]}"),
        "\x00".join,
        "\u200b".join,
        lambda value: json.dumps("\u200b".join(value), ensure_ascii=True),
    ],
)
def test_known_values_are_masked_in_every_form(form: object) -> None:
    assert callable(form)
    value = "p4ss/w?rd wîth blanks"
    text = Redactor({"MY VALUE": value}, {}, names={})(form(value))
    assert "p4ss" not in text.lower()
    assert "blanks" not in text.lower()
    assert base64.b64encode(value.encode()).decode()[4:12] not in text
    assert base64.b64encode(value.encode()).decode()[:12] not in text
    assert "[masked:MY-VALUE]" in text


def test_each_line_of_a_secret_that_has_several_is_one_and_the_marks_around_them_are_none() -> None:
    head, end = "-----BEGIN X-----", "-----END X-----"
    gate = plain(PEM=f"{head}\nwalnut-grove-17\nmaple-street-18\nok\n{end}")
    assert gate(f"it said maple-street-18, ok, {head}") == f"it said [masked:PEM], ok, {head}"
    assert plain(K='{\n  "type": "account",\n}')('"type": "account",') == '"type": "account",'


def test_what_a_split_value_stands_in_is_left_as_it_is() -> None:
    text = "\x1b[32mone\x1b[0m\ntop\x1b[1msecret\x1b[0m\n topsec\n  ret two\u200b"
    assert plain(K="topsecret")(text) == "\x1b[32mone\x1b[0m\n[masked:K]\x1b[0m\n [masked:K] two\u200b"


def test_a_longer_known_value_wins_over_the_one_inside_it() -> None:
    assert plain(A="abcdef", B="abcdefghij")("abcdefghij abcdef") == "[masked:B] [masked:A]"


def test_short_values_and_our_own_words_are_not_searched_for() -> None:
    event = h.ProgressSeen(at_ns=1, pid=1, role="database", what="reproduced blocked directory socket milestone")
    assert plain(A="12345", B="database", C="direct", D="blocked")(event.what) == event.what


def test_places_are_replaced_longest_first_and_at_the_end_of_a_component_only() -> None:
    redactor = Redactor({}, {"/home/ann": "~", "/home/ann/.cache/ocrepro/s1": "$SANDBOX", "/srv/a b": "$B"}, names={})
    assert redactor("/home/ann/.cache/ocrepro/s1/data") == "$SANDBOX/data"
    assert redactor("/home/ann/.cache/ocrepro/s12") == "~/.cache/ocrepro/s12"
    assert redactor("file:///home/ann: /home/annabel") == "file://~: /home/annabel"
    assert redactor("/srv/a%20b/x /srv/a b/y") == "$B/x $B/y"


def test_names_are_whole_words_and_not_ordinary_ones() -> None:
    names = {
        "annabel": "$USER",
        "Buildbox7": "$HOST",
        "root": "$USER",
        "vm": "$HOST",
        "ann": "$USER",
        "socket": "$USER",
    }
    redactor = Redactor({}, {}, names=names)
    assert redactor("annabel@buildbox7: /mnt/annabel/x") == "$USER@$HOST: /mnt/$USER/x"
    assert redactor("annabelle root vm ann socket") == "annabelle root vm ann socket"
    assert redactor("ses_annabel1") == "ses_annabel1"


def test_this_machine_is_known_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zebulon")
    monkeypatch.setenv("LOGNAME", "zebulon")
    monkeypatch.setattr("socket.gethostname", lambda: "kraken9.lan.example")
    assert machine_names() == {"kraken9.lan.example": "$HOST", "kraken9": "$HOST", "zebulon": "$USER"}
    assert machine_homes() == {"/home/zebulon": "~"}
    text = Redactor({}, {"/home/zebulon/s": "$SANDBOX"})("/home/zebulon/x zebulon@kraken9 /home/zebulon/s")
    assert text == "~/x $USER@$HOST $SANDBOX"


def test_rules_of_the_user_come_first_and_what_they_leave_is_still_gated() -> None:
    rule = Rule(name="ticket", pattern=re.compile("ticket-[0-9]+"))
    redactor = Redactor({"K": "ticket-77-and-more"}, {}, [rule], names={})
    assert redactor("ticket-77-and-more, " + TOKENS["npm"]) == "[masked:ticket]-and-more, [masked:npm-token]"
    assert redactor.receipt() == (Masked(kind="npm-token", count=1), Masked(kind="ticket", count=1))


def test_the_receipt_counts_kinds_and_never_holds_a_value() -> None:
    redactor = Redactor({"K": "topsecret"}, {"/home/ann": "~"}, names={})
    for text in ("topsecret topsecret", "/home/ann/x", TOKENS["github"], "topsecret topsecret"):
        redactor(text)
    assert redactor.receipt() == (
        Masked(kind="github-token", count=1),
        Masked(kind="known-value", count=4),
        Masked(kind="place", count=1),
    )


def test_a_history_behind_the_gate_can_still_be_decoded() -> None:
    lines: list[bytes] = []
    redactor = Redactor({f"S{n}": word for n, word in enumerate(("socket", "running", "started"))}, {}, names={})
    history = History(gate=redactor, sink=lines.append)
    history.append(
        h.MilestoneReached(at_ns=1, pid=2, role="r", milestone="started", source="log", line="token=abc123")
    )
    kept = decode_event(lines[0])
    assert isinstance(kept, h.MilestoneReached)
    assert kept.milestone == "started"
    assert kept.line == "token=[masked:by-key-name]"


_pieces = st.sampled_from(
    [
        *TOKENS.values(),
        *(form.replace("{}", "v4lue") for form in KEYED),
        "topsecret",
        "/home/ann",
        "annabel",
        "[masked:",
        "]",
        "=",
        ":",
        '"',
        "\\",
        "'",
        " ",
        "\n",
        "token",
        "password",
        "://",
        "@",
        "Bearer ",
        "masked",
        "$USER",
        "~",
        "eyJ",
    ]
)


@settings(max_examples=400, deadline=None, database=None)
@given(st.lists(_pieces | st.text(max_size=6), max_size=10).map("".join))
def test_a_second_pass_changes_nothing(text: str) -> None:
    redactor = Redactor({"K": "topsecret", "token": "masked"}, {"/home/ann": "~"}, names={"annabel": "$USER"})
    once = redactor(text)
    assert (
        Redactor({"K": "topsecret", "token": "masked"}, {"/home/ann": "~"}, names={"annabel": "$USER"})(once) == once
    )


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_a_known_value_never_gets_through(before: str, after: str) -> None:
    value = "Zx9-unlikely-Zx9"
    assert value not in plain(K=value)(before + value + after)


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "eyJ",
            "eyJ0m",
            "token=",
            "token:",
            'password\\"',
            "://a:",
            "Bearer ",
            "-----BEGIN PRIVATE KEY",
            "sk-",
            "0msk-",
        ),
        *("key", "a", "\\", '"token":"', "Authorization: ", "AAAAAAAAAA\n", "secret_", "SG.", "SG.0m", " ", "%2fsk-"),
        *("password='\\", 'token\\\\\\":\\\\\\"', 'token\\":\\'),
    ],
)
def test_a_hostile_line_of_a_megabyte_takes_time_in_proportion(unit: str) -> None:
    """Ten times the text may take 40 times the CPU time, not 100: quadratic patterns would."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.thread_time()
        plain()(text)
        return time.thread_time() - began

    small = max(min(seconds(100_000) for _ in range(3)), 0.01)  # below that the clock is what is measured
    assert min(seconds(1_000_000) for _ in range(3)) < 40 * small


def test_a_placeholder_that_makes_a_new_neighbour_is_looked_at_again() -> None:
    redactor = Redactor({}, {"/srv/store": "password"}, names={})
    assert redactor("/srv/store: hunter22") == "password: [masked:by-key-name]"

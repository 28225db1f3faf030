from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_ocrepro.publish.credentials import (
    Gate,
    joined,
    key_file,
    secret_values,
    secrets_in,
    stored_secrets,
)
from pytest_ocrepro.publish.redaction import Masked, Redactor
from pytest_ocrepro.publish.rules import read_rules

KEYS = {
    "anthropic": {"type": "api", "key": "walnut-grove-17"},
    "x": {"type": "oauth", "access": "maple-street-18", "refresh": "birch-alley-19", "expires": 1},
    "deep": [{"token": "poplar-road-20"}],
    "short": {"key": "abc"},
    "ordinary": {"key": "container"},
}


def test_each_text_of_a_key_file_is_a_secret_named_by_where_it_stands() -> None:
    assert secrets_in(json.dumps(KEYS)) == {
        "auth.json-anthropic-key": "walnut-grove-17",
        "auth.json-x-access": "maple-street-18",
        "auth.json-x-refresh": "birch-alley-19",
        "auth.json-deep-0-token": "poplar-road-20",
    }


@pytest.mark.parametrize("text", ["", "no json", "{", "[1]", '{"a":' * 100_000, "{\x00}"])
def test_what_is_no_key_file_holds_nothing(text: str) -> None:
    assert secrets_in(text) == {}


def test_a_variable_that_is_json_is_a_secret_with_all_that_it_holds() -> None:
    content = json.dumps({"a": {"key": "walnut-grove-17"}})
    found = secret_values({"OPENCODE_AUTH_CONTENT": content, "PATH": "walnut-grove-17", "MY_KEY": "container"})
    assert found == {"OPENCODE_AUTH_CONTENT": content, "OPENCODE_AUTH_CONTENT-a-key": "walnut-grove-17"}


@pytest.mark.parametrize(
    "name",
    """
    OPENAI_API_KEY GH_TOKEN CLIENT_SECRET DB_PASSWORD PGPASSWORD MYSQL_PWD DB_PASS SSHPASS DB_PASS_2 GITHUB_PASSPHRASE
    MY_PASSWD SESSION_COOKIE GITHUB_PAT SENTRY_DSN DB_CREDS AWS_CREDENTIALS NPM_AUTH db_pass
    """.split(),  # noqa: SIM905 - as a list it would fill twenty lines
)
def test_a_name_of_a_secret_is_one_in_an_environment_and_in_a_text(name: str) -> None:
    assert secret_values({name: "walnut-grove-17"}) == {name: "walnut-grove-17"}
    assert "walnut" not in Redactor({}, {}, names={})(f"{name}=walnut-grove-17")


@pytest.mark.parametrize("name", ["PATH", "PWD", "OLDPWD", "COMPASS", "BYPASS", "SSH_ASKPASS", "PATTERN", "HOME"])
def test_other_names_hide_nothing(name: str) -> None:
    assert secret_values({name: "/walnut/grove-17"}) == {}


def test_what_cannot_be_read_holds_nothing_that_we_know(tmp_path: Path) -> None:
    one, two, pipe = tmp_path / "one.json", tmp_path / "two.json", tmp_path / "pipe"
    one.write_text(json.dumps({"a": "walnut-grove-17"}))
    two.write_text(json.dumps({"a": "maple-street-18"}))
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(one)
    found = stored_secrets([one, tmp_path / "none", tmp_path, pipe, tmp_path / "link", two])
    assert found == {"auth.json-a": "walnut-grove-17", "auth.json-6-a": "maple-street-18"}


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"HOME": "/h"}, "/h/.local/share/opencode/auth.json"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/d"}, "/d/opencode/auth.json"),
        ({"HOME": "/h", "XDG_DATA_HOME": "relative"}, "/h/.local/share/opencode/auth.json"),
        ({"HOME": "relative"}, None),
        ({}, None),
    ],
)
def test_where_the_key_file_of_a_process_is(environment: dict[str, str], path: str | None) -> None:
    assert key_file(environment) == (Path(path) if path else None)


def test_what_is_learned_later_is_masked_from_then_on() -> None:
    redactor = Redactor({"A": "walnut-grove-17"}, {}, names={})
    assert redactor("walnut-grove-17 maple-street-18") == "[masked:A] maple-street-18"
    assert redactor("maple-street-18") == "maple-street-18"
    redactor.learn({"B": "maple-street-18", "C": "walnut-grove-17"})
    assert redactor("maple-street-18") == "[masked:B]", "a text that was clean is looked at again"
    assert redactor("walnut-grove-17") == "[masked:A]"


def test_the_gate_of_foreign_processes_knows_their_keys_and_the_users_rules(tmp_path: Path) -> None:
    (tmp_path / "opencode").mkdir()
    (tmp_path / "opencode/auth.json").write_text(json.dumps(KEYS))
    gate = Gate(read_rules([r"customer = CUST-\d+"], "here"))
    said = "walnut-grove-17 of CUST-12 with maple-street-18"
    assert gate(said) == "walnut-grove-17 of [masked:customer] with maple-street-18"
    gate.introduce({"XDG_DATA_HOME": str(tmp_path), "HOME": "/nowhere"})
    assert gate(said) == ("[masked:auth.json-anthropic-key] of [masked:customer] with [masked:auth.json-x-access]")
    assert Masked(kind="known-value", count=2) in gate.receipt()


def test_receipts_are_added_up() -> None:
    one, two = Masked(kind="a", count=1), Masked(kind="b", count=2)
    assert joined([one, two], [one]) == (Masked(kind="a", count=2), two)

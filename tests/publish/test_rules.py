from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.redaction import Masked, Redactor
from pytest_ocrepro.publish.rules import read_rules, rules_near

HERE = "ocrepro_redact in pytest.ini"


def test_what_a_rule_matches_is_masked_and_counted_under_its_name() -> None:
    rules = read_rules(["", "# customers", r"customer = CUST-\d{6}", r"x = (?i)\bqx\b"], HERE)
    redactor = Redactor({}, {}, rules, names={})
    assert redactor("CUST-123456 and CUST-654321, CUST-1, QX") == (
        "[masked:customer] and [masked:customer], CUST-1, [masked:x]"
    )
    assert redactor("qx") == "[masked:x]"  # however short the text
    assert redactor.receipt() == (Masked(kind="customer", count=2), Masked(kind="x", count=2))
    assert redactor(redactor("CUST-123456")) == "[masked:customer]"


def test_a_pattern_may_hold_an_equals_sign() -> None:
    (rule,) = read_rules([r"pair = id=\d+"], HERE)
    assert (rule.name, rule.pattern.pattern) == ("pair", r"id=\d+")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["CUST-\\d+"], "has the line 'CUST-\\\\d+'; it must be NAME = REGEX"),
        (["Customer = x1"], "has the line 'Customer = x1'; it must be NAME = REGEX"),
        (["customer = "], "has the line 'customer ='; it must be NAME = REGEX"),
        (["customer = (open"], "the pattern of 'customer' is no regular expression: missing )"),
        (["customer = x*"], "the pattern of 'customer' matches where nothing is"),
        (["customer = a1", "customer = b1"], "has two rules called 'customer'; join them"),
        (["jwt = eyQ"], "'jwt' is what the receipt calls a kind of ours"),
        (["word = block"], "the rule 'word' would mask 'blocked', which our records need"),
        (["masked = sk1|masked"], "the rule 'masked' would mask '[masked:"),
        (["one = ustome", "customer = C1"], "the rule 'one' would mask '[masked:customer]'"),
        (["dollar = SANDB"], "the rule 'dollar' would mask '$SANDBOX'"),
    ],
)
def test_a_bad_rule_is_told_with_its_source(lines: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_rules(lines, HERE)
    assert str(caught.value).startswith(HERE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


RULE = r"customer = CUST-\d+"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", f"[pytest]\nocrepro_redact =\n    # ours\n    {RULE}\n"),
        ("tox.ini", f"[testenv]\nx = %(y)s\n[pytest]\nocrepro_redact = {RULE}\n"),
        ("setup.cfg", f"[tool:pytest]\nocrepro_redact = {RULE}\n"),
        ("pyproject.toml", f"[tool.pytest.ini_options]\nocrepro_redact = ['{RULE}']\n"),
        ("pyproject.toml", f"[tool.pytest.ini_options]\nocrepro_redact = '''\n{RULE}\n'''\n"),
        ("pyproject.toml", f"[tool.pytest]\nocrepro_redact = ['{RULE}']\n"),
        ("pytest.toml", f"[pytest]\nocrepro_redact = ['{RULE}']\n"),
    ],
)
def test_the_rules_of_a_folder_are_those_of_its_pytest_configuration(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    (inner / "setup.cfg").write_text("[metadata]\nname = x\n")  # no configuration of pytest's
    for folder in (tmp_path, inner):
        (rule,) = rules_near(folder)
        assert (rule.name, rule.pattern.pattern) == ("customer", r"CUST-\d+")
    (inner / "pytest.ini").write_text("")  # pytest takes it for its own even so
    assert rules_near(inner) == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [("pyproject.toml", "[tool.pytest"), ("pytest.ini", "no section"), ("tox.ini", "[pytest]\nocrepro_redact = X\n")],
)
def test_a_configuration_that_cannot_be_read_is_told_in_a_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=rf"{name}.*ocrepro_redact|ocrepro_redact in .*{name}") as caught:
        rules_near(tmp_path)
    assert "\n" not in str(caught.value)

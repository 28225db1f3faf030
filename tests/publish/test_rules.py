from __future__ import annotations

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.redaction import Masked, Redactor
from pytest_ocrepro.publish.rules import read_rules

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

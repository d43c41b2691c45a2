"""Claims that a rule requires, and the end of a token."""

import pytest

from gateway.core.model import JwtRule
from gateway.identity.claims import RETRY_JWT_S, claims_hold, expires_at


@pytest.mark.parametrize(
    ("claims", "holds"),
    [
        ({"scope": "read write"}, True),
        ({"scope": ["write"]}, True),
        ({"scope": "rewrite"}, False),
        ({"scope": True}, False),
        ({}, False),
    ],
)
def test_a_required_claim(claims, holds):
    """A scope is one word of a text, or one item of a list."""
    assert claims_hold(claims, JwtRule(require={"scope": "write"})) is holds


def test_a_token_without_an_end_is_looked_up_again():
    """Without ``exp`` an identity is cached for a few seconds."""
    assert expires_at({"exp": 7}, 1.0) == 7.0
    assert expires_at({"exp": "x"}, 1.0) == 1.0 + RETRY_JWT_S

"""Claims of a verified token: whether a rule accepts them, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.model import JwtRule

# A rejected token is verified again after so long (keys rotated, not valid yet).
RETRY_JWT_S: Final = 5.0
_SCOPES: Final = frozenset({"scope", "scp"})


def claims_hold(claims: Mapping[str, object], rule: JwtRule) -> bool:
    """Whether the claims are those that the rule requires."""
    return all(
        _claim_holds(name, claims.get(name), wanted)
        for name, wanted in rule.require.items()
    )


def _claim_holds(name: str, claim: object, wanted: str) -> bool:
    """Whether a claim equals ``wanted``, or contains it (``groups``, ``scope``)."""
    if isinstance(claim, list):
        return wanted in claim
    if isinstance(claim, str):
        # RFC 8693 section 4.2: scopes are one string, separated by spaces.
        return wanted in claim.split(" ") if name in _SCOPES else claim == wanted
    return isinstance(claim, bool | int) and str(claim).lower() == wanted.lower()


def expires_at(claims: Mapping[str, object], now: float) -> float:
    """Epoch seconds until which the identity of a verified token may be cached."""
    exp = claims.get("exp")
    return float(exp) if isinstance(exp, int | float) else now + RETRY_JWT_S

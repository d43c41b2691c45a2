"""What one request may ask for: ``max_tokens``, ``n`` and models without a price."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gateway.proxy.refusal import Refusal

if TYPE_CHECKING:
    from gateway.core.model import Caps, Policy, RequestFacts
    from gateway.proxy.exchange import Exchange


def check_caps(exchange: Exchange, facts: RequestFacts) -> Refusal | None:
    """Refuse what asks for more than the policy's caps, or rewrite it (``clamp``)."""
    identity = exchange.prepared.identity
    if identity is None or identity.allowed:
        return None
    policy = identity.policy
    if policy.unknown_price == "deny":
        refusal = _check_price(exchange, facts)
        if refusal is not None:
            return refusal
    caps = caps_for(policy, facts.model)
    if not _exceeds(facts, caps):
        return None
    if not caps.clamp or exchange.prepared.request_encoding or identity.signed:
        return _refuse(facts, caps)
    _clamp(exchange, facts, caps)
    return None


def caps_for(policy: Policy, model: str) -> Caps:
    """The caps of the first pattern that takes the model, else the policy's own."""
    for rule in policy.model_caps:
        if any(fnmatchcase(model, pattern) for pattern in rule.models):
            return rule.caps
    return policy.caps


def _exceeds(facts: RequestFacts, caps: Caps) -> bool:
    return (
        caps.max_tokens is not None
        and facts.max_tokens is not None
        and facts.max_tokens > caps.max_tokens
    ) or (caps.n is not None and facts.n > caps.n)


def _refuse(facts: RequestFacts, caps: Caps) -> Refusal:
    if caps.n is not None and facts.n > caps.n:
        message = f"At most {caps.n} choices may be asked for, not {facts.n}."
        param = "n"
    else:
        message = (
            f"At most {caps.max_tokens} completion tokens may be asked for, "
            f"not {facts.max_tokens}."
        )
        param = "max_tokens"
    return Refusal(400, "invalid_request", message, param, by_policy=True)


def _clamp(exchange: Exchange, facts: RequestFacts, caps: Caps) -> None:
    identity, match = exchange.prepared.identity, exchange.prepared.match
    if identity is None or match is None or identity.policy.mode == "observe":
        exchange.would = "clamp"
        return
    max_tokens, n = caps.max_tokens, caps.n
    exchange.body = match.dialect.clamp(exchange.body, facts, max_tokens, n)
    if max_tokens is not None and facts.max_tokens is not None:
        facts.max_tokens = min(facts.max_tokens, max_tokens)
    if n is not None:
        facts.n = min(facts.n, n)


def _check_price(exchange: Exchange, facts: RequestFacts) -> Refusal | None:
    prices = exchange.prepared.prices
    if prices is None or prices.knows(facts.model):
        return None
    return Refusal(
        403,
        "model_without_price",
        f"The model {facts.model[:100]!r} has no price here, and this policy refuses "
        "such models.",
        "model",
        by_policy=True,
    )

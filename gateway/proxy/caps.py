"""The policy's caps on one request: its model, ``max_tokens``, ``n``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gateway.core.model import NANOS_PER_USD
from gateway.core.refusal import Refusal
from gateway.metering.models import matches_model, matching_names
from gateway.proxy.access import JOBS, check_model
from gateway.proxy.flow import WrittenCap

if TYPE_CHECKING:
    from gateway.core.model import Caps, Policy, RequestFacts
    from gateway.proxy.flow import Flow
    from gateway.proxy.prepare import RequestContext

# Calls whose model may be known to the provider alone: that of a file or an assistant.
_MODEL_ELSEWHERE = frozenset({"batches", "threads.runs"})
MODEL_UNKNOWN = Refusal(
    403,
    "model_not_allowed",
    "The request does not name its model, so the list of models cannot hold.",
    "model",
    by_policy=True,
)


def check_caps(flow: Flow, facts: RequestFacts) -> Refusal | None:
    """Refuse a request above the policy's caps, or rewrite its body (``clamp``)."""
    for part in facts.parts or (facts,):
        refusal = _check(flow, part, whole=part is facts)
        if refusal is not None:
            return refusal
    return None


def _check(flow: Flow, facts: RequestFacts, *, whole: bool) -> Refusal | None:
    """Check one request. ``whole``: it is the body, which may be rewritten."""
    context = flow.context
    identity, match = context.identity, context.match
    if identity is None:
        return None
    policy = identity.policy
    if policy.models is not None and match is not None and match.billable:
        if facts.endpoint in _MODEL_ELSEWHERE and not facts.model.strip():
            return MODEL_UNKNOWN
        for model in facts.checked_models:
            refusal = check_model((policy.models,), model, context.prices)
            if refusal is not None:
                return refusal
    if identity.allowed:
        return None
    if policy.unknown_price == "deny":
        for model in facts.checked_models:
            refusal = _check_price(context, model)
            if refusal is not None:
                return refusal
    caps = smallest_caps(policy, facts)
    exceeds = _exceeds(facts, caps)
    if not exceeds and not _lacks_cap(context, facts, caps):
        return None
    refused = not whole or (exceeds and not caps.clamp)
    if caps.n is not None and facts.prompts > caps.n:
        refused = True  # their number cannot be lowered
    if refused or context.request_encoding or identity.signed:
        return _refuse(facts, caps)
    _clamp(flow, facts, caps)
    return None


def caps_for(policy: Policy, model: str) -> Caps:
    """The caps of the first rule that matches a spelling of the model, else the
    policy's own.
    """
    names = matching_names(model) if policy.model_caps else ()
    for rule in policy.model_caps:
        if matches_model(rule.models, names):
            return rule.caps
    return policy.caps


def smallest_caps(policy: Policy, facts: RequestFacts) -> Caps:
    """The caps that hold whichever of the request's models answers."""
    caps = caps_for(policy, facts.model)
    for model in facts.models if policy.model_caps else ():
        other = caps_for(policy, model)
        caps = replace(
            caps,
            max_tokens=_smaller(caps.max_tokens, other.max_tokens),
            n=_smaller(caps.n, other.n),
            clamp=caps.clamp and other.clamp,
        )
    return caps


def _smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def assumed_cap(policy: Policy, facts: RequestFacts) -> int:
    """Completion tokens that a call without a cap of its own reserves."""
    if facts.max_tokens is None and (policy.model_caps or policy.caps.max_tokens):
        return smallest_caps(policy, facts).max_tokens or policy.assumed_max_tokens
    return policy.assumed_max_tokens


def assumed_price(policy: Policy, facts: RequestFacts) -> int:
    """Nano-dollars that accepted work counts for where nothing says what it costs; 0: it
    is no such work.
    """
    unknown = facts.endpoint in JOBS or (facts.batch and not facts.parts)
    return round(policy.assumed_job_usd * NANOS_PER_USD) if unknown else 0


def _exceeds(facts: RequestFacts, caps: Caps) -> bool:
    return (
        caps.max_tokens is not None
        and (
            facts.endless
            or (facts.max_tokens is not None and facts.max_tokens > caps.max_tokens)
        )
    ) or (caps.n is not None and facts.n > caps.n)


def _lacks_cap(context: RequestContext, facts: RequestFacts, caps: Caps) -> bool:
    """Whether the policy has a cap, and the request states none although it could."""
    return (
        caps.max_tokens is not None
        and facts.max_tokens is None
        and context.match is not None
        and context.match.dialect.cap_path(facts) is not None
    )


def _refuse(facts: RequestFacts, caps: Caps) -> Refusal:
    if caps.n is not None and facts.n > caps.n:
        message = f"At most {caps.n} choices may be asked for, not {facts.n}."
        param = "n"
    else:
        asked = facts.max_tokens
        given = "no limit" if asked is None else f"{asked}"
        message = f"At most {caps.max_tokens} completion tokens may be asked for, not {given}."
        param = "max_tokens"
    return Refusal(400, "invalid_request", message, param, by_policy=True)


def _clamp(flow: Flow, facts: RequestFacts, caps: Caps) -> None:
    """Rewrite the body and the facts to the caps; observe mode only notes it.

    A cap that the request does not state is written in, with or without ``clamp``:
    nothing that the client wrote is changed.
    """
    identity, match = flow.context.identity, flow.context.match
    if identity is None or match is None or identity.policy.mode == "observe":
        flow.leave_unclamped()
        return
    max_tokens, n = caps.max_tokens, caps.n
    if max_tokens is not None and facts.max_tokens is None and not facts.endless:
        _note_written(flow, facts, caps)
    flow.replace_body(match.dialect.clamp(flow.body, facts, max_tokens, n))
    if max_tokens is not None and match.dialect.cap_path(facts) is not None:
        asked = facts.max_tokens
        facts.max_tokens = max_tokens if asked is None else min(asked, max_tokens)
        facts.endless = False
    if n is not None and facts.n > n:
        facts.n = max(1, n // facts.prompts) * facts.prompts


def _note_written(flow: Flow, facts: RequestFacts, caps: Caps) -> None:
    """Choose the name under which the cap is written in, and note how to change it."""
    match, route = flow.context.match, flow.context.route
    if match is None or route is None:
        return
    other = match.dialect.other_cap_name(facts)
    path = match.dialect.cap_path(facts)
    if not other or path is None:
        return
    name = path[-1]
    tenant = "" if flow.identity is None else flow.identity.tenant.name
    if route.cap_names.get((tenant, deployment_of(flow, facts))) == other:
        name, other = other, name
        facts.cap_name = name
    plain = replace(facts)  # as the client wrote it
    flow.note_written_cap(WrittenCap(flow.body, plain, caps, name, other))


def rename_cap(flow: Flow, cap: WrittenCap) -> None:
    """Write the cap into the client's body under its other name."""
    match = flow.context.match
    assert match is not None
    facts = replace(cap.facts, cap_name=cap.other)
    body = match.dialect.clamp(cap.body, facts, cap.caps.max_tokens, cap.caps.n)
    client_body = flow.client_body
    if flow.usage_requested:
        client_body = body
        body = match.dialect.ask_usage(body, facts) or body
    swapped = cap._replace(name=cap.other, other=cap.name)
    flow.rename_cap(swapped, body, client_body)


def deployment_of(flow: Flow, facts: RequestFacts | None = None) -> str:
    """What the upstream looks a request up by: a deployment of the path, or the model."""
    facts, match = facts or flow.facts, flow.context.match
    named = "" if match is None else match.model
    return named or ("" if facts is None else facts.model)


def _check_price(context: RequestContext, model: str) -> Refusal | None:
    prices = context.prices
    if prices is None or prices.knows(model):
        return None
    return Refusal(
        403,
        "model_without_price",
        f"The model {model[:100]!r} has no price here, and this policy refuses "
        "such models.",
        "model",
        by_policy=True,
    )

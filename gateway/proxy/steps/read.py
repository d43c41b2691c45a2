"""Step 3: read the body of a metered request: its facts, its caps, its fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import RequestFacts
from gateway.core.refusal import Refusal
from gateway.metering.dialects import NAME_CHARS, DialectError, session_model
from gateway.proxy.caps import check_caps

if TYPE_CHECKING:
    from gateway.identity.identify import Identity
    from gateway.proxy.flow import Flow
    from gateway.proxy.route import Route
    from gateway.proxy.shared import Shared

MODEL_REQUIRED = Refusal(
    400, "invalid_request", "'model' is required", "model", by_policy=True
)


_NOT_ASKED = (
    "This stream would not state its usage, and its request cannot be edited. "
    'Set "stream_options": {"include_usage": true}.'
)


def read_body(flow: Flow, shared: Shared, plain: bytes) -> Refusal | None:
    """Read the decoded body; refuse what cannot be read or exceeds the caps."""
    context, head = flow.context, flow.head
    match, identity = context.match, context.identity
    assert match is not None  # only bodies of known endpoints are buffered
    content_type = head.fields.get(b"content-type", b"").decode("latin-1")
    try:
        facts = match.dialect.read_request(match, plain, head.query, content_type)
        fingerprint = None
        if identity is not None and identity.policy.anomaly.enabled:
            fingerprint = shared.scoring.fingerprint(plain)
        flow.set_facts(facts, fingerprint)
        refusal = None if context.capless else check_caps(flow, facts)
        if refusal is None and match.model_required and not facts.model.strip():
            refusal = MODEL_REQUIRED
        observed = identity is not None and identity.policy.mode == "observe"
        passes = refusal is None or observed
        if passes and facts.stream and not facts.usage_asked:
            _request_usage(flow, facts)
    except DialectError as error:
        return Refusal(
            400, "invalid_request", error.message, error.param, by_policy=True
        )
    return refusal


def facts_of_head(flow: Flow) -> RequestFacts:
    """Facts of a request whose body is passed on unread."""
    match = flow.context.match
    billable = match is not None and match.billable
    context = flow.context
    model = session_model(context.head.query) if context.session else ""
    return RequestFacts(endpoint=flow.endpoint, model=model, billable=billable)


def facts_of_size(flow: Flow, size: int) -> RequestFacts:
    """Facts of a body that cannot be read and passes (observe mode)."""
    match = flow.context.match
    model = "" if match is None else match.model[:NAME_CHARS]
    billable = match is None or match.billable
    return RequestFacts(
        endpoint=flow.endpoint, model=model, prompt_bytes=size, billable=billable
    )


def _is_unasked(route: Route, identity: Identity | None, model: str) -> bool:
    """Whether the upstream refused lately to be asked, for this tenant and model."""
    tenant = "" if identity is None else identity.tenant.name
    return route.is_unasked(tenant, model)


def _request_usage(flow: Flow, facts: RequestFacts) -> None:
    """Ask for the usage chunk of an OpenAI-style stream where the client did not.

    Raises DialectError for a body that must stay as it is: its usage, hidden reasoning
    included, would not be known.
    """
    context = flow.context
    route, match, identity = context.route, context.match, context.identity
    if route is None or match is None or not route.ask_usage:
        return
    if route.unasked_models and _is_unasked(route, identity, facts.model):
        return  # its tokens are counted
    # A signature covers the body, unless the gateway replaces the credential.
    signed = identity is not None and identity.signed and route.api_key is None
    body = None
    if not signed and not context.request_encoding:
        body = match.dialect.ask_usage(flow.body, facts)
    if body is not None:
        flow.replace_body(body, usage_requested=True)
    elif identity is None or not identity.allowed:
        raise DialectError(_NOT_ASKED, "stream_options")

"""Step 1: what depends on a head and its sender alone, cached with the head.

A client repeats its head on a kept-alive connection. So route, dialect, identity and the
head for the upstream are computed once and cached in ``CachedHead.derived``, until the
configuration changes (``generation``) or the credential expires (``expires_at``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.core.refusal import Refusal
from gateway.http.head import RequestHead
from gateway.http.request_writer import OutgoingHead, rewrite_values, write_fields
from gateway.http.tracing import split_trace_lines
from gateway.identity.credentials import (
    reading_of,
    without_protocol_key,
    without_query_key,
)
from gateway.identity.identify import Identity, Unauthorized, is_preflight
from gateway.metering.dialects import session_match
from gateway.metering.dialects.paths import has_spaces, refused_path
from gateway.proxy.access import (
    check_endpoint,
    check_shape,
    without_overrides,
    without_parts,
)
from gateway.proxy.local_reply import key_refused, unauthorized
from gateway.proxy.route import find_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.model import Policy
    from gateway.http.handler import UpstreamAddress
    from gateway.http.heads import CachedHead
    from gateway.identity.cidr import Address
    from gateway.identity.credentials import CredentialReading
    from gateway.limits.plans import LimitPlan
    from gateway.metering.dialects import Match
    from gateway.metering.prices import PriceTable
    from gateway.proxy.route import Route
    from gateway.proxy.tables import Tables

# Senders cached with one head (the same bytes from many addresses).
MAX_SENDERS = 16
MAX_REQUEST_ID_BYTES = 128
# Weight 0 of a coding: not acceptable (RFC 9110, section 12.4.2).
_NEVER = re.compile(rb"q=0(?:\.0{0,3})?")
# An unknown credential is looked up again after this time.
RETRY_UNKNOWN_S = 5.0
# By policy: in observe mode such a request passes, counted by its address.
AMBIGUOUS = unauthorized(
    "The request holds several different credentials: send one.", by_policy=True
)


class RequestContext:
    """Values derived from one head and sender. Only the caches change: ``plan``,
    ``plan_model`` and ``heads``.
    """

    __slots__ = (
        "address",
        "answer_here",
        "billable",
        "buffer_limit",
        "capless",
        "client_ip",
        "closed",
        "expires_at",
        "field_lines",
        "generation",
        "head",
        "heads",
        "identity",
        "longest_s",
        "match",
        "plan",
        "plan_model",
        "preflight",
        "prices",
        "refusal",
        "request_encoding",
        "request_id",
        "route",
        "session",
        "stranger",
        "trace_lines",
        "upgrade",
    )

    def __init__(self, head: RequestHead, generation: int) -> None:
        self.head = head
        self.generation = generation
        self.route: Route | None = None
        self.match: Match | None = None
        self.identity: Identity | None = None
        # Known from the head alone: refused, or answered by the gateway itself.
        self.refusal: Refusal | None = None
        self.answer_here = False
        self.billable = False
        self.closed = False  # some endpoints are not open to this client
        self.preflight = False  # forwarded without credentials, body and upgrade
        self.client_ip = ""
        self.address: Address | None = None
        # Tenant, route and id of a sender that only the upstream can check.
        self.stranger: tuple[str, str, str] | None = None
        self.expires_at = float("inf")
        self.longest_s = float("inf")
        self.capless = True  # no caps and no prices that a body could violate
        self.prices: PriceTable | None = None
        # Limits for the last model, if they do not depend on the calendar.
        self.plan: LimitPlan | None = None
        self.plan_model = ""
        self.buffer_limit = 0  # largest body to read, in bytes; 0: pass it on unread
        self.upgrade = b""
        self.session = False  # asks for another protocol, and may get it
        self.request_id = b""
        self.request_encoding = b""
        self.field_lines = b""  # header lines that equal requests send upstream
        # Lines of a trace that are part of the cached head, where spans are made.
        self.trace_lines = b""
        # The head for each target, by the target's ``id``.
        self.heads: dict[int, OutgoingHead] = {}

    def head_for(self, target: UpstreamAddress) -> OutgoingHead:
        """The head that equal requests to one target share."""
        found = self.heads.get(id(target))
        if found is None:
            assert self.route is not None
            path = self.route.target_path(target, _without_key(self))
            self.heads[id(target)] = found = OutgoingHead(
                self.head.method, path, target.authority, self.field_lines
            )
        return found


def prepare(
    tables: Tables,
    cached: CachedHead,
    peer_ip: str,
    tls: bool,
    now: float,
    *,
    traced: bool = False,
) -> RequestContext:
    """The context of this head from this peer, cached or new. ``now``: epoch seconds.
    ``traced``: spans are made, so ``Flow`` writes the lines of the trace.
    """
    context: RequestContext | None = cached.derived.get(peer_ip)
    if (
        context is not None
        and context.generation == tables.generation
        and context.expires_at > now
    ):
        return context
    head = cached.head
    context = RequestContext(head, tables.generation)
    hosts = tables.hosts
    if hosts is not None:
        context.refusal = hosts.refuse(head, peer_ip, tables.trusts)
    _find_route(context, tables, head)
    _find_identity(context, tables, peer_ip, now)
    _collect_fields(context, tables, peer_ip, tls=tls, traced=traced)
    if len(cached.derived) >= MAX_SENDERS:
        cached.derived.clear()
    cached.derived[peer_ip] = context
    return context


def _find_route(context: RequestContext, tables: Tables, head: RequestHead) -> None:
    context.answer_here = (
        head.max_forwards == 0 or head.path == tables.settings.health_path
    )
    reason = refused_path(head.path)
    if reason is not None:
        # An upstream that resolves them would serve another path than was metered, or
        # one outside the upstream's prefix, with the provider's key.
        context.refusal = context.refusal or Refusal(
            400, "invalid_path", f"There are {reason}."
        )
    route = context.route = find_route(tables.routes, head.path)
    if tables.settings.via_name in head.fields.get(b"via", b""):
        context.refusal = context.refusal or Refusal(
            508, "loop_detected", "The request has come through this gateway already."
        )
    if route is None:
        context.refusal = context.refusal or Refusal(
            404, "no_upstream", "No upstream is configured for this path."
        )
        return
    match = context.match = tables.find_endpoint(head.method, head.path, route.dialect)
    context.billable = match.billable
    context.refusal = context.refusal or check_shape(match, head.query)
    if match.metered and has_spaces(head.path):
        context.refusal = context.refusal or Refusal(
            400, "invalid_path", "There are spaces in the path."
        )
    context.preflight = is_preflight(head)
    if match.metered:
        context.buffer_limit = tables.settings.max_body
        encoding = head.fields.get(b"content-encoding", b"").lower()
        codings = [coding.strip() for coding in encoding.split(b",")]
        context.request_encoding = b", ".join(
            coding for coding in codings if coding not in (b"", b"identity")
        )
    elif route.websocket and head.upgrade and not context.preflight:
        context.upgrade = head.upgrade
        context.session = True
        context.match = session_match(head.path)


def _find_identity(
    context: RequestContext, tables: Tables, peer_ip: str, now: float
) -> None:
    head = context.head
    if is_preflight(head):
        found = tables.identifier.identify_preflight(peer_ip, head)
    else:
        found = tables.identifier.identify(peer_ip, head, now, _reading(context))
    context.client_ip = found.client_ip
    context.address = found.address
    if isinstance(found, Unauthorized):
        refusal = unauthorized(found.message)
        if found.code:
            refusal = key_refused(found.code, found.message)
        if found.disputed:
            refusal = Refusal(400, "invalid_request", found.message)
        context.refusal = context.refusal or refusal
        # A credential may become valid without a reload (tokens, rotated key sets).
        context.expires_at = now + RETRY_UNKNOWN_S
        return
    context.identity = found
    context.expires_at = found.expires_at
    if found.unchecked and context.route is not None and not context.preflight:
        context.stranger = (found.tenant.name, context.route.name, found.unchecked)
    if found.ambiguous:
        context.refusal = context.refusal or AMBIGUOUS
    _apply_policy(context, tables, found)


def _reading(context: RequestContext) -> CredentialReading:
    """Which credentials the upstream of this request reads."""
    route, match = context.route, context.match
    dialect = "" if match is None else match.dialect.name
    return reading_of(dialect, replaced=route is not None and route.api_key is not None)


def _apply_policy(context: RequestContext, tables: Tables, identity: Identity) -> None:
    policy, route = identity.policy, context.route
    caps = policy.caps
    enforced = policy.mode != "observe"
    if context.buffer_limit and caps.body_bytes is not None and enforced:
        context.buffer_limit = min(context.buffer_limit, caps.body_bytes)
    if route is not None:
        context.longest_s = route.total_s
    if caps.stream_s is not None and enforced:
        context.longest_s = min(context.longest_s, caps.stream_s)
    context.prices = tables.prices_of(policy, route)
    _check_access(context, policy, shared_account=tables.settings.tenants)
    context.capless = policy.models is None and (
        identity.allowed
        or (
            policy.unknown_price != "deny"
            and not policy.model_caps
            and caps.max_tokens is None
            and caps.n is None
        )
    )


def _collect_fields(
    context: RequestContext, tables: Tables, peer_ip: str, *, tls: bool, traced: bool
) -> None:
    """Fields for the upstream: the client's, then those that an intermediary adds."""
    head = context.head
    forward = head.forward
    if traced:
        forward, context.trace_lines = split_trace_lines(forward)
    fields: list[tuple[bytes, bytes]] = []
    if context.route is not None:
        key = context.route.api_key
        if key is None:
            fields += _client_credentials(context)
        elif not context.preflight:
            fields.append(key)
    coding = _accept_encoding(context)
    if coding is not None:
        fields.append((b"Accept-Encoding", coding))
    fields.append((b"Via", _via(head, tables.settings.via_name)))
    fields += _forwarded(head, peer_ip, tls=tls, trusted=tables.trusts(peer_ip))
    if head.max_forwards is not None:
        fields.append((b"Max-Forwards", b"%d" % max(head.max_forwards - 1, 0)))
    route = context.route
    if context.closed or (route is not None and route.dialect != "passthrough"):
        forward = without_overrides(forward)
    match = context.match
    if match is not None and (match.metered or match.polled):
        forward = without_parts(forward)
    if context.upgrade:
        forward = _rewrite_handshake(forward, context)
        fields += (b"Connection", b"Upgrade"), (b"Upgrade", context.upgrade)
    context.field_lines = forward + write_fields(fields)
    context.request_id = _request_id(head.fields.get(b"x-request-id", b""))


def _check_access(
    context: RequestContext, policy: Policy, *, shared_account: bool
) -> None:
    """Refuse endpoints that the policy does not open."""
    route, match, head = context.route, context.match, context.head
    if route is None or match is None or context.preflight:
        return
    # A dialect "passthrough" is stated for upstreams that are not metered at all.
    shared = shared_account and route.api_key is not None
    shared = shared and route.dialect != "passthrough"
    limited = (policy.endpoints, policy.key_endpoints) != (None, None)
    context.closed = shared or limited
    context.refusal = context.refusal or check_endpoint(
        policy, head, match, session=context.session, shared_account=shared
    )


def _client_credentials(context: RequestContext) -> tuple[tuple[bytes, bytes], ...]:
    """The client's credentials, without those that differ from the one that counts."""
    found, identity = context.head.credentials, context.identity
    if context.preflight:
        return ()
    if identity is None or identity.forwarded is None:
        return found
    return tuple([found[index] for index in sorted(identity.forwarded)])


def _rewrite_handshake(forward: bytes, context: RequestContext) -> bytes:
    """Drop compression, so that frames can be read, and the client's key from the list of
    protocols where the upstream gets another key.
    """
    route = context.route
    changes: dict[bytes, Callable[[bytes], bytes]] = {
        b"sec-websocket-extensions": lambda _value: b""
    }
    if route is not None and route.api_key is not None:
        changes[b"sec-websocket-protocol"] = without_protocol_key
    return rewrite_values(forward, changes)


def _via(head: RequestHead, name: bytes) -> bytes:
    hop = (b"1.0 " if head.http10 else b"1.1 ") + name
    earlier = head.fields.get(b"via", b"")
    return earlier + b", " + hop if earlier else hop


def _accept_encoding(context: RequestContext) -> bytes | None:
    """Value of Accept-Encoding for the upstream: gzip or identity if the answer may be
    metered, else the client's; None: send none.
    """
    asked = context.head.fields.get(b"accept-encoding")
    match = context.match
    works = match is not None and (match.metered or match.polled)
    if match is None or not (works or context.head.method == "POST"):
        return asked
    return b"gzip" if asked is not None and _takes_gzip(asked) else b"identity"


def _takes_gzip(asked: bytes) -> bool:
    for item in asked.lower().split(b","):
        coding, _, weight = item.partition(b";")
        if coding.strip() == b"gzip":
            return _NEVER.fullmatch(weight.strip()) is None
    return False


def _forwarded(
    head: RequestHead, peer_ip: str, *, tls: bool, trusted: bool
) -> list[tuple[bytes, bytes]]:
    """X-Forwarded-For with the peer appended; Proto and Host as a trusted peer sent
    them, else those of this connection and request.
    """
    fields = head.fields
    peer = peer_ip.encode()
    hops = fields.get(b"x-forwarded-for")
    proto = b"https" if tls else b"http"
    host = head.host
    if trusted:
        proto = fields.get(b"x-forwarded-proto", proto)
        host = fields.get(b"x-forwarded-host", host)
    found = [
        (b"X-Forwarded-For", b"%b, %b" % (hops, peer) if hops else peer),
        (b"X-Forwarded-Proto", proto),
    ]
    if host:
        found.append((b"X-Forwarded-Host", host))
    return found


def _request_id(value: bytes) -> bytes:
    """The client's request id; b"" if it is too long, has a space or is not ASCII."""
    if 0 < len(value) <= MAX_REQUEST_ID_BYTES and value.isascii() and b" " not in value:
        return value
    return b""


def _without_key(context: RequestContext) -> bytes:
    """Target without ``?key=`` where the upstream gets another credential."""
    head = context.head
    route = context.route
    keyed = route is not None and route.api_key is not None
    if not (keyed or context.preflight) or not head.query:
        return head.target
    path, _, _ = head.target.partition(b"?")
    query = without_query_key(head.query).encode("latin-1")
    return path + b"?" + query if query else path

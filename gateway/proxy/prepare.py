"""What follows from a head and its sender alone, worked out once and kept with it.

A kept-alive client repeats its head; so route, dialect, identity, the gate's keys and
the head that goes upstream are made at the first sight of a head and found again with
it (``CachedHead.derived``). Everything here is dropped when the configuration changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.core.refusal import Refusal
from gateway.http.head import RequestHead
from gateway.identity.credentials import without_protocol_key, without_query_key
from gateway.identity.identify import Identity, Unauthorized, is_preflight
from gateway.proxy.local_reply import unauthorized
from gateway.proxy.route import find_route
from gateway.proxy.tracing import split_trace_lines

if TYPE_CHECKING:
    from gateway.http.handler import UpstreamAddress
    from gateway.http.heads import CachedHead
    from gateway.identity.cidr import Address
    from gateway.limits.plans import LimitPlan
    from gateway.metering.dialects import Match
    from gateway.metering.prices import PriceTable
    from gateway.proxy.route import Route
    from gateway.proxy.tables import Tables

# Senders kept with one head (the same bytes from many addresses).
MAX_SENDERS = 16
MAX_REQUEST_ID_BYTES = 128
GZIP_LINE = b"Accept-Encoding: gzip\r\n"
IDENTITY_LINE = b"Accept-Encoding: identity\r\n"
_NEVER = re.compile(rb"q=0(?:\.0{0,3})?")
RETRY_UNKNOWN_S = 5.0


class RequestContext:
    """A head as one sender's request: immutable but for its caches."""

    __slots__ = (
        "address",
        "answer_here",
        "billable",
        "capless",
        "client_ip",
        "expires_at",
        "generation",
        "head",
        "heads",
        "hold",
        "identity",
        "longest_s",
        "match",
        "plan",
        "plan_model",
        "prices",
        "refusal",
        "request_encoding",
        "request_id",
        "route",
        "trace_lines",
        "upgrade",
        "via_lines",
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
        self.client_ip = ""
        self.address: Address | None = None
        self.expires_at = float("inf")
        self.longest_s = float("inf")
        self.capless = True  # nothing that a body could ask too much of
        self.prices: PriceTable | None = None
        # The plan of the last model asked for, where it never ends.
        self.plan: LimitPlan | None = None
        self.plan_model = ""
        self.hold = 0
        self.upgrade = b""
        self.request_id = b""
        self.request_encoding = b""
        self.via_lines = b""
        # Where spans are made: what of a trace stands in the head that is kept.
        self.trace_lines = b""
        # Head for upstream up to what differs between requests, by target.
        self.heads: dict[int, bytes] = {}

    def head_for(self, target: UpstreamAddress) -> bytes:
        """Request line and fields for one target, without framing and request id."""
        found = self.heads.get(id(target))
        if found is None:
            assert self.route is not None
            path = self.route.target_path(target, _without_key(self))
            found = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
                self.head.method.encode(),
                path,
                target.authority,
                self.via_lines,
            )
            self.heads[id(target)] = found
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
    """Find or make what is known of this head from this peer; ``now``: epoch seconds.
    ``traced``: the lines of a trace are left to the exchange.
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
    _find_route(context, tables, head)
    _find_identity(context, tables, peer_ip, now)
    _write_head(context, tables, peer_ip, tls=tls, traced=traced)
    if len(cached.derived) >= MAX_SENDERS:
        cached.derived.clear()
    cached.derived[peer_ip] = context
    return context


def _find_route(context: RequestContext, tables: Tables, head: RequestHead) -> None:
    context.answer_here = (
        head.max_forwards == 0 or head.path == tables.settings.health_path
    )
    route = context.route = find_route(tables.routes, head.path)
    if tables.settings.via_name in head.fields.get(b"via", b""):
        context.refusal = Refusal(
            508, "loop_detected", "The request has come through this gateway already."
        )
    if route is None:
        context.refusal = context.refusal or Refusal(
            404, "no_upstream", "No upstream is configured for this path."
        )
        return
    match = context.match = tables.find_endpoint(head.method, head.path, route.dialect)
    context.billable = match.billable
    if match.metered:
        context.hold = tables.settings.max_body
        encoding = head.fields.get(b"content-encoding", b"").lower()
        context.request_encoding = b"" if encoding == b"identity" else encoding
    if route.websocket:
        context.upgrade = head.upgrade


def _find_identity(
    context: RequestContext, tables: Tables, peer_ip: str, now: float
) -> None:
    head = context.head
    if is_preflight(head):
        found: Identity | Unauthorized = tables.identifier.identify_preflight(
            peer_ip, head
        )
    else:
        found = tables.identifier.identify(peer_ip, head, now)
    context.client_ip = found.client_ip
    context.address = found.address
    if isinstance(found, Unauthorized):
        context.refusal = context.refusal or unauthorized(found.message)
        # A key may become good without a reload (tokens, rotated key sets).
        context.expires_at = now + RETRY_UNKNOWN_S
        return
    context.identity = found
    context.expires_at = found.expires_at
    _apply_policy(context, tables, found)


def _apply_policy(context: RequestContext, tables: Tables, identity: Identity) -> None:
    policy, route = identity.policy, context.route
    caps = policy.caps
    if context.hold and caps.body_bytes is not None:
        context.hold = min(context.hold, caps.body_bytes)
    if route is not None:
        context.longest_s = route.total_s
    if caps.stream_s is not None:
        context.longest_s = min(context.longest_s, caps.stream_s)
    context.prices = tables.prices_of(policy)
    context.capless = identity.allowed or (
        policy.unknown_price != "deny"
        and not policy.model_caps
        and caps.max_tokens is None
        and caps.n is None
    )


def _write_head(
    context: RequestContext, tables: Tables, peer_ip: str, *, tls: bool, traced: bool
) -> None:
    """Fields for the upstream: as they came, then what an intermediary adds."""
    head = context.head
    fields = head.fields
    route = context.route
    forward = head.forward
    if traced:
        forward, context.trace_lines = split_trace_lines(forward)
    lines = [forward] if forward else []
    if route is not None:
        lines.append(_credential_lines(context, route))
    lines.append(_accept_encoding(context))
    via = fields.get(b"via", b"")
    version = b"1.0" if head.http10 else b"1.1"
    mine = version + b" " + tables.settings.via_name
    lines.append(b"Via: %b\r\n" % (via + b", " + mine if via else mine))
    lines.append(
        _forwarded_lines(head, peer_ip, tls=tls, trusted=tables.trusts(peer_ip))
    )
    if head.max_forwards is not None:
        lines.append(b"Max-Forwards: %d\r\n" % max(head.max_forwards - 1, 0))
    if context.upgrade and lines:
        lines[0] = _upgrade_lines(lines[0], context)
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % context.upgrade)
    context.via_lines = b"".join(lines)
    context.request_id = _request_id(fields.get(b"x-request-id", b""))


def _upgrade_lines(forward: bytes, context: RequestContext) -> bytes:
    """Fields of a handshake: no compression where frames are metered, and no client
    key in the protocol list where the upstream gets another one.
    """
    match, route = context.match, context.route
    metered = match is not None and match.endpoint == "realtime"
    replaced = route is not None and bool(route.api_key_line)
    kept = []
    for line in forward.split(b"\r\n"):
        name, _, value = line.partition(b":")
        lower = name.lower()
        if metered and lower == b"sec-websocket-extensions":
            continue
        if replaced and lower == b"sec-websocket-protocol":
            protocols = without_protocol_key(value.strip())
            if not protocols:
                continue
            kept.append(name + b": " + protocols)
        else:
            kept.append(line)
    return b"\r\n".join(kept)


def _credential_lines(context: RequestContext, route: Route) -> bytes:
    if route.api_key_line:
        return route.api_key_line
    return b"".join(b"%b: %b\r\n" % pair for pair in context.head.credentials)


def _accept_encoding(context: RequestContext) -> bytes:
    """Metered answers are asked for in a coding that can be read (design 3)."""
    asked = context.head.fields.get(b"accept-encoding")
    match = context.match
    if match is None or context.head.method != "POST":
        return b"" if asked is None else b"Accept-Encoding: %b\r\n" % asked
    return GZIP_LINE if asked is not None and _takes_gzip(asked) else IDENTITY_LINE


def _takes_gzip(asked: bytes) -> bool:
    for item in asked.lower().split(b","):
        coding, _, weight = item.partition(b";")
        if coding.strip() == b"gzip":
            return _NEVER.fullmatch(weight.strip()) is None
    return False


def _forwarded_lines(
    head: RequestHead, peer_ip: str, *, tls: bool, trusted: bool
) -> bytes:
    """X-Forwarded-For grows by the peer; Proto and Host are believed from trusted
    peers only and stated anew otherwise.
    """
    fields = head.fields
    peer = peer_ip.encode()
    hops = fields.get(b"x-forwarded-for")
    proto = b"https" if tls else b"http"
    host = head.host
    if trusted:
        proto = fields.get(b"x-forwarded-proto", proto)
        host = fields.get(b"x-forwarded-host", host)
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n%b" % (
        b"%b, %b" % (hops, peer) if hops else peer,
        proto,
        b"X-Forwarded-Host: %b\r\n" % host if host else b"",
    )


def _request_id(value: bytes) -> bytes:
    """The client's own id where it is one plain word."""
    if 0 < len(value) <= MAX_REQUEST_ID_BYTES and value.isascii() and b" " not in value:
        return value
    return b""


def _without_key(context: RequestContext) -> bytes:
    """Target without ``?key=`` where the upstream gets another credential."""
    head = context.head
    route = context.route
    if route is None or not route.api_key_line or not head.query:
        return head.target
    path, _, _ = head.target.partition(b"?")
    query = without_query_key(head.query).encode("latin-1")
    return path + b"?" + query if query else path

"""Answers of our own, in the client's dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.proxy.answer import status_line

if TYPE_CHECKING:
    from gateway.core.model import Action
    from gateway.limits import admission
    from gateway.proxy.exchange import Exchange

_ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
_UPSTREAM_CODES = {502: "upstream_unreachable", 503: "overloaded"}


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not forwarded. A value, not an exception.

    ``fields``: complete header lines. ``by_policy``: observe mode lets it pass.
    ``action`` is what the record says.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    fields: bytes = b""
    action: Action = "allow"
    limit: str | None = None
    by_policy: bool = False
    outcome: Literal["refused", "upstream"] = "refused"
    retry_after: float = -1.0

    @classmethod
    def policy(cls, found: admission.Refusal) -> Refusal:
        """A limit or a block, as admission words it."""
        return cls(
            found.status,
            found.code,
            found.message,
            fields=found.headers,
            action=found.action,
            limit=found.limit,
            by_policy=True,
            retry_after=found.retry_after,
        )

    @classmethod
    def upstream(cls, status: int, reason: str) -> Refusal:
        """502, 503 or 504 in place of an answer that did not come."""
        code = _UPSTREAM_CODES.get(status, "upstream_timeout")
        fields = b"Retry-After: 1\r\n" if status == 503 else b""
        return cls(status, code, reason, fields=fields, outcome="upstream")


def compose_refusal(exchange: Exchange, refusal: Refusal) -> bytes:
    """The answer whole, for one write; the connection stays usable where it can.

    Notes on the exchange what its record needs. b"": nobody is there to read it.
    """
    exchange.status = refusal.status
    if refusal.action != "allow":
        exchange.action = refusal.action
    exchange.limit_name = refusal.limit or exchange.limit_name
    if refusal.outcome == "refused":
        exchange.outcome = "refused"
    conn = exchange.conn
    if conn is None:
        return b""
    if conn.body_pending:
        conn.close_after = True
    service = exchange.service
    body, fields = service.error_body(exchange.prepared.match, refusal)
    keep = not conn.close_after and not service.draining
    exchange.writer.keep = keep
    head = exchange.head
    closing = b"" if keep else b"Connection: close\r\n"
    if keep and head.http10:
        closing = b"Connection: keep-alive\r\n"
    data = (
        b"%bDate: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"X-Request-Id: %b\r\n%b%b%b\r\n"
    ) % (
        status_line(refusal.status),
        service.http_date(),
        len(body),
        exchange.request_id,
        fields,
        refusal.fields,
        closing,
    )
    return data if head.method == "HEAD" else data + body


def wire_error_body(status: int, message: str, code: str = "invalid_request") -> bytes:
    """An error of the wire, where no dialect is known: OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 503:
        code = "overloaded"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": error})


def answer_here(exchange: Exchange) -> None:
    """What is for the gateway itself: its health, and TRACE or OPTIONS whose hops
    are used up (RFC 9110 7.6.2). Nothing of it is forwarded or recorded.
    """
    conn, head, service = exchange.conn, exchange.head, exchange.service
    if conn is None:
        return
    status, fields, body = 200, b"", b"ok\n"
    if head.method == "OPTIONS":
        fields, body = _ALLOW, b""
    elif head.method == "TRACE":
        # Without fields: a trace that echoes credentials would be a leak.
        fields = b"Content-Type: message/http\r\n"
        body = b"TRACE %b HTTP/1.1\r\n\r\n" % head.target
    elif service.draining:
        status, body = 503, b"draining\n"
    keep = not (conn.close_after or conn.body_pending or service.draining)
    conn.close_after = not keep
    data = b"%bDate: %b\r\n%bContent-Length: %d\r\n%b\r\n" % (
        status_line(status),
        service.http_date(),
        fields,
        len(body),
        b"" if keep else b"Connection: close\r\n",
    )
    conn.transport.write(data if head.method == "HEAD" else data + body)

"""Answers of the gateway's own: refusals, errors, health, TRACE and OPTIONS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.core.refusal import Refusal
from gateway.http.answer import status_line
from gateway.metering.inflate import ACCEPTED

if TYPE_CHECKING:
    from gateway.http.head import RequestHead
    from gateway.metering.dialects import Match
    from gateway.metering.inflate import InflateError

_ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
_CHALLENGE = b'WWW-Authenticate: Bearer realm="tidegate"\r\n'
# OpenAI's and Anthropic's SDKs obey it before anything else.
_NO_RETRY = b"x-should-retry: false\r\n"
_UPSTREAM_CODES = {502: "upstream_unreachable", 503: "overloaded"}


def refuse_coding(error: InflateError) -> Refusal:
    """400, 413, 415 or 503 for a body that cannot be decoded; observe mode lets it pass."""
    lines, code = b"", "invalid_request"
    if error.status == 415:
        lines = b"Accept-Encoding: %b\r\n" % ACCEPTED.encode()
        code = "unsupported_encoding"
    elif error.status == 503:
        lines, code = b"Retry-After: 1\r\n", "overloaded"
    return Refusal(error.status, code, str(error), header_lines=lines, by_policy=True)


def unauthorized(message: str, *, by_policy: bool = False) -> Refusal:
    """401 for a credential that is missing or unknown (RFC 9110, section 11.6.1)."""
    return Refusal(
        401,
        "invalid_api_key",
        message,
        header_lines=_CHALLENGE,
        by_policy=by_policy,
    )


def key_refused(code: str, message: str) -> Refusal:
    """401 for a known key that has expired, 403 for one that is used elsewhere."""
    if code == "key_expired":
        return Refusal(401, code, message, header_lines=_CHALLENGE)
    return Refusal(403, code, message)


def upstream_failed(status: int, reason: str) -> Refusal:
    """502, 503 or 504 in place of an upstream's answer."""
    code = _UPSTREAM_CODES.get(status, "upstream_timeout")
    lines = b"Retry-After: 1\r\n" if status == 503 else b""
    return Refusal(status, code, reason, header_lines=lines, upstream_failed=True)


def compose_refusal(
    refusal: Refusal,
    head: RequestHead,
    match: Match | None,
    request_id: bytes,
    date: bytes,
    *,
    keep: bool,
) -> bytes:
    """The whole answer, for one write. ``keep``: the connection stays open."""
    body, lines = _error_body(match, refusal)
    closing = b"" if keep else b"Connection: close\r\n"
    if keep and head.http10:
        closing = b"Connection: keep-alive\r\n"
    data = (
        b"%bDate: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"X-Request-Id: %b\r\n%b%b%b%b\r\n"
    ) % (
        status_line(refusal.status),
        date,
        len(body),
        request_id,
        lines,
        refusal.header_lines,
        _NO_RETRY if refusal.final else b"",
        closing,
    )
    return data if head.method == "HEAD" else data + body


def _error_body(match: Match | None, refusal: Refusal) -> tuple[bytes, bytes]:
    """Body in the client's dialect, and the header lines that the dialect adds."""
    if match is None:
        return wire_error_body(refusal.status, refusal.message, refusal.code), b""
    dialect = match.dialect
    body = dialect.error_body(
        refusal.status, refusal.code, refusal.message, refusal.param
    )
    fields = dialect.error_headers(refusal.status, refusal.code)
    return body, b"".join(b"%b: %b\r\n" % pair for pair in fields)


def wire_error_body(status: int, message: str, code: str = "invalid_request") -> bytes:
    """Body of an error before any dialect is known: OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 503:
        code = "overloaded"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": error})


def wire_error_lines(date: bytes) -> bytes:
    """Header lines of an error before any dialect is known."""
    return b"Date: %b\r\nContent-Type: application/json\r\n" % date


def compose_own(head: RequestHead, date: bytes, *, draining: bool, keep: bool) -> bytes:
    """The answer to a request for the gateway itself: its health, and TRACE or OPTIONS
    with ``Max-Forwards: 0`` (RFC 9110, section 7.6.2).
    """
    status, lines, body = 200, b"", b"ok\n"
    if head.method == "OPTIONS":
        lines, body = _ALLOW, b""
    elif head.method == "TRACE":
        # Without the header fields: they may hold credentials.
        lines = b"Content-Type: message/http\r\n"
        body = b"TRACE %b HTTP/1.1\r\n\r\n" % head.target
    elif draining:
        status, body = 503, b"draining\n"
    data = b"%bDate: %b\r\n%bContent-Length: %d\r\n%b\r\n" % (
        status_line(status),
        date,
        lines,
        len(body),
        b"" if keep else b"Connection: close\r\n",
    )
    return data if head.method == "HEAD" else data + body

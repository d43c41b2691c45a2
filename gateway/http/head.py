"""The request head: one pure function from raw bytes to a `RequestHead`.

The head is checked twice. Our own checks read the raw bytes, because llhttp accepts, or
does not report, input that an upstream's parser may read differently (two spaces in the
request line, `RTSP/1.0`, any fault in Host). llhttp then parses the same bytes by its
own grammar. A head that either of them refuses never reaches an upstream.
`docs/http.md` lists the rules.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import httptools

MAX_HEADERS: Final = 100
# The defaults of nginx and HAProxy are between 8 and 16 KiB.
MAX_TARGET_BYTES: Final = 16_384
# Cached names need no check and no lower-casing; bounded against random names.
_MAX_NAMES: Final = 4096
_MAX_NAME_BYTES: Final = 64
# More digits could overflow a 64-bit integer of an upstream.
_MAX_LENGTH_DIGITS: Final = 18
_MAX_PORT: Final = 65_535
_MAX_HOPS: Final = 1_000_000

CREDENTIAL_FIELDS: Final = frozenset(
    {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"}
)
# Hop-by-hop fields, and fields that the gateway writes itself; also `proxy-*`.
_DROPPED: Final = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
        b"x-tidegate-verdict",
    }
)
# If repeated, two parsers may each use a different one.
_SINGLETONS: Final = CREDENTIAL_FIELDS | {
    b"content-length",
    b"content-type",
    b"host",
    b"max-forwards",
    b"transfer-encoding",
}
# Connection must not remove fields that frame, route or identify the request.
_PROTECTED: Final = CREDENTIAL_FIELDS | {
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"cookie",
    b"forwarded",
    b"host",
    b"max-forwards",
    b"transfer-encoding",
    b"via",
    b"x-request-id",
    b"x-tidegate-verdict",
}
# CGI-like servers read `_` as `-`: they would see these fields, the gateway would not.
_LOOKALIKES: Final = _PROTECTED | _DROPPED

_METHODS: Final = {
    name: name.decode("ascii")
    for name in (
        b"GET HEAD POST PUT DELETE PATCH OPTIONS TRACE QUERY ACL BIND CHECKOUT COPY"
        b" LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY PROPFIND"
        b" PROPPATCH PURGE REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK"
        b" UNSUBSCRIBE"
    ).split()
}
_ALLOW: Final = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"

_TCHAR: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_TOKEN: Final = re.compile(_TCHAR + rb"+")
_HOST: Final = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9._~-]{1,253})(?::([0-9]{0,5}))?"
)
_ABSOLUTE: Final = re.compile(rb"(?i:(https?)://)([^/?]*)(.*)")
_PROTOCOL: Final = re.compile(_TCHAR + rb"+(?:/" + _TCHAR + rb"+)?")
# All bytes but control characters; obs-text (>= 0x80) is allowed.
_HEAD_BYTES: Final = bytes({9, 10, 13, *range(32, 127), *range(128, 256)})
_TARGET_BYTES: Final = bytes(set(range(33, 127)) - {ord("#")})

_PASS, _DROP, _CREDENTIAL, _HOPS = range(4)
_names: dict[bytes, tuple[bytes, int]] = {}


class WireError(Exception):
    """A message that must not be forwarded.

    ``status`` is the answer to the client, ``reason`` a short text for it without
    internals, ``fields`` complete header lines that the answer must have (405: Allow).
    The connection is closed after the answer.
    """

    def __init__(self, status: int, reason: str, fields: bytes = b"") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.fields = fields


class RequestHead:
    """One parsed request head. Shared between equal requests: treat as immutable.

    ``target`` is origin-form with its bytes untouched (or ``*``); ``path`` and
    ``query`` are the same as latin-1 text, not percent-decoded. ``host`` is the
    effective authority, ``scheme`` is set for absolute-form only. ``forward`` holds
    complete header lines unchanged, without hop-by-hop fields, those that the gateway
    writes itself, and ``credentials``. ``fields`` has every header by its lower-case
    name, repeated ones joined. ``upgrade`` is the requested protocol in lower case,
    without ``h2c``.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "credentials",
        "expect_continue",
        "fields",
        "forward",
        "host",
        "http10",
        "keep_alive",
        "max_forwards",
        "method",
        "path",
        "query",
        "scheme",
        "target",
        "upgrade",
    )

    method: str
    target: bytes
    path: str
    query: str
    http10: bool
    host: bytes
    scheme: bytes
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes
    max_forwards: int | None
    forward: bytes
    credentials: tuple[tuple[bytes, bytes], ...]
    fields: dict[bytes, bytes]


def parse_request_head(
    raw: bytes, *, max_headers: int = MAX_HEADERS, max_target: int = MAX_TARGET_BYTES
) -> RequestHead:
    """Parse ``raw``, from the first byte of the method to the empty line's CRLF.

    Raises `WireError`: 400 malformed or ambiguous, 405 CONNECT, 414 target longer
    than ``max_target`` bytes, 417 unknown expectation, 431 more than ``max_headers``
    header lines, 501 unknown method.
    """
    lines = _split(raw)
    head = RequestHead()
    _read_request_line(head, lines[0], max_target)
    if len(lines) - 1 > max_headers:
        raise WireError(431, "too many header fields")
    forward = _read_fields(head, lines)
    fields = head.fields
    _read_host(head)
    _read_framing(head)
    connection = fields.get(b"connection")
    if connection is None:
        head.keep_alive = not head.http10
        head.upgrade = b""
    else:
        forward = _read_connection(head, connection, forward)
    head.expect_continue = b"expect" in fields and _read_expect(head)
    head.max_forwards = None
    if head.method in ("TRACE", "OPTIONS"):
        _read_hops(head)
    forward.append(b"")
    head.forward = b"\r\n".join(forward)
    _check_with_llhttp(raw)
    return head


def strip_leading_crlf(raw: bytes) -> bytes:
    """Remove the one empty line that may precede a head (RFC 9112 section 2.2).

    Some old clients send it after a body. The parser refuses a second one.
    """
    return raw[2:] if raw.startswith(b"\r\n") else raw


def check_partial_head(raw: bytes, start: int = 0) -> None:
    """Refuse an incomplete head that can no longer become valid.

    Otherwise a client that sends bare line feeds, HTTP/0.9 or TLS to this port would
    get its answer only at the time limit. Bytes before ``start`` were checked by an
    earlier call. Raises `WireError`.
    """
    if not start:
        raw = strip_leading_crlf(raw)
    at = start - 1 if raw[start - 1 : start] == b"\r" else start
    fresh = raw[at:-1] if raw.endswith(b"\r") else raw[at:]
    if fresh.translate(None, _HEAD_BYTES):
        raise WireError(400, "control character in the head")
    pairs = fresh.count(b"\r\n")
    if fresh.count(b"\n") != pairs or fresh.count(b"\r") != pairs:
        raise WireError(400, "bare CR or LF in the head")
    if pairs and raw.find(b"\r\n") >= at:
        line, _, _ = raw.partition(b"\r\n")
        _read_request_line(RequestHead(), line, len(line))


def oversize_error(raw: bytes, limit: int | None = None) -> WireError:
    """Return the error for a head of over ``limit`` bytes (None: all of ``raw``)."""
    if b"\r\n" in strip_leading_crlf(raw[:limit]):
        return WireError(431, "header fields too large")
    return WireError(414, "request target too long")


def _split(raw: bytes) -> list[bytes]:
    """Split into request line and header lines; lines end in CRLF only."""
    if raw.translate(None, _HEAD_BYTES):
        raise WireError(400, "control character in the head")
    lines = raw.split(b"\r\n")
    ends = len(lines) - 1
    if raw.count(b"\n") != ends or raw.count(b"\r") != ends:
        raise WireError(400, "bare CR or LF in the head")
    if not raw.endswith(b"\r\n\r\n"):
        raise WireError(400, "the head does not end in an empty line")
    return lines[:-2]


def _read_request_line(head: RequestHead, line: bytes, max_target: int) -> None:
    try:
        name, target, version = line.split(b" ")
    except ValueError:
        raise WireError(400, "malformed request line") from None
    if version == b"HTTP/1.1":
        head.http10 = False
    elif version == b"HTTP/1.0":
        head.http10 = True
    else:
        raise WireError(400, "unsupported HTTP version")
    method = _METHODS.get(name)
    if method is None:
        raise _method_error(name)
    head.method = method
    if len(target) > max_target:
        raise WireError(414, "request target too long")
    if target.translate(None, _TARGET_BYTES):
        raise WireError(400, "fragment or forbidden character in the target")
    head.host = head.scheme = b""
    if target[:1] != b"/":
        target = _read_other_form(head, target)
    head.target = target
    head.path, _, head.query = target.decode("ascii").partition("?")


def _method_error(name: bytes) -> WireError:
    if name == b"CONNECT":
        return WireError(405, "CONNECT is not allowed", _ALLOW)
    if not _TOKEN.fullmatch(name):
        return WireError(400, "malformed method")
    # Methods are case-sensitive, but some servers ignore that.
    if name.upper() != name:
        return WireError(400, "method not in upper case")
    return WireError(501, "unknown method")


def _read_other_form(head: RequestHead, target: bytes) -> bytes:
    """Read asterisk-form or absolute-form (RFC 9112 section 3.2) as origin-form."""
    if target == b"*":
        if head.method != "OPTIONS":
            raise WireError(400, "asterisk target is for OPTIONS only")
        return target
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise WireError(400, "malformed request target")
    scheme, authority, rest = match.groups()
    head.scheme = scheme.lower()
    head.host = _check_authority(authority)
    if rest[:1] == b"/":
        return rest
    if not rest and head.method == "OPTIONS":
        return b"*"
    return b"/" + rest


def _check_authority(value: bytes) -> bytes:
    """Check a host with an optional port: no list, no userinfo, no path."""
    match = _HOST.fullmatch(value)
    if match is None:
        raise WireError(400, "malformed host")
    address, port = match.groups()
    if port and int(port) > _MAX_PORT:
        raise WireError(400, "port out of range")
    if address is not None:
        try:
            ipaddress.IPv6Address(address.decode("ascii"))
        except ValueError:
            raise WireError(400, "malformed host") from None
    return value


def _read_fields(head: RequestHead, lines: list[bytes]) -> list[bytes]:
    """Fill ``fields`` and ``credentials``; returns the lines to forward."""
    fields: dict[bytes, bytes] = {}
    forward: list[bytes] = []
    credentials: list[tuple[bytes, bytes]] = []
    known = _names
    for i in range(1, len(lines)):
        line = lines[i]
        name, colon, value = line.partition(b":")
        if not colon:
            raise WireError(400, "header line without a colon")
        lower, kind = known.get(name) or _learn_name(name)
        value = value.strip(b" \t")
        if lower in fields:
            value = _join_repeated(lower, fields[lower], value)
        fields[lower] = value
        if kind == _PASS:
            forward.append(line)
        elif kind == _CREDENTIAL:
            credentials.append((name, value))
        elif kind == _HOPS and head.method not in ("TRACE", "OPTIONS"):
            forward.append(line)
    head.fields = fields
    head.credentials = tuple(credentials)
    return forward


def _learn_name(name: bytes) -> tuple[bytes, int]:
    """Check and classify a field name, and cache the result."""
    if not _TOKEN.fullmatch(name):
        raise WireError(400, "malformed header name")
    lower = name.lower()
    if b"_" in lower and _is_lookalike(lower.replace(b"_", b"-")):
        raise WireError(400, "header name that imitates a protected one")
    known = lower, _classify(lower)
    if len(name) <= _MAX_NAME_BYTES and len(_names) < _MAX_NAMES:
        _names[name] = known
    return known


def _is_lookalike(name: bytes) -> bool:
    return name in _LOOKALIKES or name.startswith((b"x-forwarded-", b"proxy-"))


def _classify(lower: bytes) -> int:
    if lower in CREDENTIAL_FIELDS:
        return _CREDENTIAL
    if lower in _DROPPED or lower.startswith(b"proxy-"):
        return _DROP
    return _HOPS if lower == b"max-forwards" else _PASS


def _join_repeated(lower: bytes, first: bytes, again: bytes) -> bytes:
    if lower in _SINGLETONS:
        raise WireError(400, f"repeated {lower.decode('ascii')} header")
    return first + b", " + again


def _read_host(head: RequestHead) -> None:
    host = head.fields.get(b"host")
    if host is None:
        # Health checks of HAProxy, and ab, send HTTP/1.0 without Host.
        if not head.http10:
            raise WireError(400, "missing host header")
        return
    _check_authority(host)
    if not head.scheme:
        head.host = host


def _read_framing(head: RequestHead) -> None:
    """Read how the body is framed; refuse whatever could be read in two ways."""
    fields = head.fields
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    head.content_length = None
    head.chunked = False
    if coding is not None:
        if head.http10:
            raise WireError(400, "transfer-encoding on HTTP/1.0")
        if length is not None:
            raise WireError(400, "content-length with transfer-encoding")
        if coding.lower() != b"chunked":
            raise WireError(400, "transfer-encoding other than chunked")
        head.chunked = True
    elif length is not None:
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
            raise WireError(400, "malformed content-length")
        head.content_length = int(length)
    if head.method == "TRACE" and (head.chunked or head.content_length):
        raise WireError(400, "TRACE with a body")


def _read_connection(
    head: RequestHead, value: bytes, forward: list[bytes]
) -> list[bytes]:
    """Set ``keep_alive`` and ``upgrade``; returns ``forward`` without named fields."""
    head.upgrade = b""
    if value == b"keep-alive":
        head.keep_alive = True
        return forward
    options = {option.strip(b" \t") for option in value.lower().split(b",")}
    options.discard(b"")
    head.keep_alive = b"close" not in options and (
        not head.http10 or b"keep-alive" in options
    )
    # Upgrade in HTTP/1.0 must be ignored (RFC 9110 section 7.8).
    if b"upgrade" in options and not head.http10:
        head.upgrade = _read_upgrade(head)
    for option in options:
        if not _TOKEN.fullmatch(option):
            raise WireError(400, "malformed connection header")
        if option in _PROTECTED or option.startswith(b"x-forwarded-"):
            raise WireError(400, "connection names a protected header")
    named = options - {b"close", b"keep-alive", b"upgrade", b"te"}
    if named.isdisjoint(head.fields):
        return forward
    return [x for x in forward if x.partition(b":")[0].lower() not in named]


def _read_upgrade(head: RequestHead) -> bytes:
    """Return the requested protocols without h2c, which is declined by ignoring it.

    After Upgrade, llhttp and servers built on it read a body as bytes of the new
    protocol, other servers read it as a body: a body with Upgrade is refused.
    """
    asked = head.fields.get(b"upgrade", b"").lower().split(b",")
    protocols = [p for p in (item.strip(b" \t") for item in asked) if p]
    if not all(_PROTOCOL.fullmatch(p) for p in protocols):
        raise WireError(400, "malformed upgrade header")
    kept = b", ".join(p for p in protocols if p != b"h2c")
    if kept and (head.chunked or head.content_length):
        raise WireError(400, "upgrade with a body")
    return kept


def _read_expect(head: RequestHead) -> bool:
    if head.fields[b"expect"].lower() != b"100-continue":
        raise WireError(417, "unknown expectation")
    # Only before a body; HTTP/1.0 has no interim answers.
    return not head.http10 and bool(head.chunked or head.content_length)


def _read_hops(head: RequestHead) -> None:
    value = head.fields.get(b"max-forwards")
    if value is None:
        return
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise WireError(400, "malformed max-forwards")
    head.max_forwards = min(int(value), _MAX_HOPS)


class _NoCallbacks:
    """A protocol without callbacks, so that httptools registers none (fastest)."""

    __slots__ = ()


_NO_CALLBACKS: Final = _NoCallbacks()


def _check_with_llhttp(raw: bytes) -> None:
    """Parse the same bytes with llhttp, and refuse what it refuses.

    Each call needs a new parser (about 1 us): a used one may still expect a body.
    """
    try:
        httptools.HttpRequestParser(_NO_CALLBACKS).feed_data(raw)
    except httptools.HttpParserUpgrade:
        return  # the head was read to its end
    except httptools.HttpParserError as error:
        raise WireError(400, "malformed request head") from error


for _name in (
    b"Accept Accept-Encoding Accept-Language Authorization Cache-Control Connection"
    b" Content-Encoding Content-Length Content-Type Cookie Expect Forwarded Host"
    b" Idempotency-Key OpenAI-Beta OpenAI-Organization Origin Referer TE Traceparent"
    b" Tracestate Transfer-Encoding Upgrade User-Agent Via X-Api-Key X-Forwarded-For"
    b" X-Forwarded-Host X-Forwarded-Proto X-Request-Id api-key anthropic-version"
    b" anthropic-beta x-goog-api-key"
).split():
    # Cached at import, so that random names cannot fill the table first.
    _learn_name(_name)
    _learn_name(_name.lower())

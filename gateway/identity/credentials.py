"""Credentials of a request: in headers, ``?key=``, a WebSocket protocol, or SigV4."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, Literal, Protocol
from urllib.parse import unquote_plus

import msgspec

CredentialKind = Literal[
    "",
    "bearer",
    "basic",
    "sigv4",
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "query",
    "websocket",
]

# In order of precedence; after them the query, then the WebSocket protocols.
_HEADERS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
_KINDS: Final[dict[bytes, CredentialKind]] = {
    b"x-api-key": "x-api-key",
    b"api-key": "api-key",
    b"x-goog-api-key": "x-goog-api-key",
}
_WS_PROTOCOL: Final = b"sec-websocket-protocol"
_WS_PREFIX: Final = b"openai-insecure-api-key."
_SIGV4: Final = re.compile(rb"(?i)AWS4-[A-Z0-9-]+\s.*?\bCredential=([^/,\s]+)")
USER_HEX_DIGITS: Final = 16
_JWT_DOTS: Final = 2


class Head(Protocol):
    """The part of a request head that identification reads (``http.head.RequestHead``)."""

    @property
    def method(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def fields(self) -> Mapping[bytes, bytes]: ...
    @property
    def credentials(self) -> tuple[tuple[bytes, bytes], ...]: ...


class RequestCredential(msgspec.Struct, frozen=True, gc=False):
    """One credential of a request.

    ``index``: position in ``head.credentials``, -1 outside of the headers.
    ``signed``: the request is signed (AWS SigV4), so host, headers and body must not be
    changed; ``value`` is then the access key id.
    """

    value: bytes
    kind: CredentialKind
    index: int = -1
    signed: bool = False

    def digest(self) -> bytes:
        """The SHA-256 of the value, as ``api_keys`` configures it."""
        return hashlib.sha256(self.value).digest()

    def user_id(self, secret: bytes, client_ip: str = "") -> str:
        """``key_`` and 16 hex digits: an HMAC, so that guesses need the secret.

        The access key id of a signed request is no secret, and only the upstream can
        check the signature. So it gives ``aws_…``, different for each ``client_ip``:
        who knows the id of another client is not counted as that client.
        """
        if self.signed:
            mac = hmac.digest(secret, self.value + b"\0" + client_ip.encode(), "sha256")
            return "aws_" + mac.hex()[:USER_HEX_DIGITS]
        mac = hmac.digest(secret, self.secret_part(), "sha256")
        return "key_" + mac.hex()[:USER_HEX_DIGITS]

    def secret_part(self) -> bytes:
        """The value without what servers ignore when they compare it: the name of an
        unknown scheme, and the spelling of Base64.
        """
        last = self.value.split()[-1:] or [self.value]
        if self.kind != "basic":
            return last[0]
        try:
            return base64.b64decode(last[0]) or last[0]
        except binascii.Error:
            return last[0]

    def looks_like_jwt(self) -> bool:
        """Whether the value has three parts separated by dots (RFC 7515 section 3.1)."""
        return self.value.count(b".") == _JWT_DOTS


class CredentialReading:
    """Which credentials an upstream reads. Compared by identity: ``reading_of`` returns
    one object for equal arguments.

    ``kinds``: those that the dialect reads; empty: any. ``replaced``: the gateway sends
    its own key instead, so that nobody checks the client's.
    """

    __slots__ = ("kinds", "replaced")

    def __init__(self, kinds: frozenset[CredentialKind], *, replaced: bool) -> None:
        self.kinds = kinds
        self.replaced = replaced


_AUTHORIZATION: Final[frozenset[CredentialKind]] = frozenset(
    ("bearer", "basic", "authorization", "sigv4")
)
_READ_BY: Final[dict[str, frozenset[CredentialKind]]] = {
    # ``api-key``: Azure; ``websocket``: browsers at the Realtime API.
    "openai": _AUTHORIZATION | {"api-key", "websocket"},
    "anthropic": _AUTHORIZATION | {"x-api-key"},
    "gemini": _AUTHORIZATION | {"x-goog-api-key", "query"},
    "ollama": _AUTHORIZATION,
    "cohere": _AUTHORIZATION,
    "bedrock": _AUTHORIZATION,
}


@cache
def reading_of(dialect: str = "", *, replaced: bool = False) -> CredentialReading:
    """The reading of an upstream's dialect (``Dialect.name``)."""
    return CredentialReading(_READ_BY.get(dialect, frozenset()), replaced=replaced)


def choose_credential(
    credentials: Sequence[RequestCredential], reading: CredentialReading
) -> tuple[RequestCredential | None, bool]:
    """Of credentials that match no tenant, the one that the upstream reads, and whether
    several differ, so that nobody can tell which one it would use.

    Header fields that are not read may differ: they are not forwarded
    (``forwarded_credentials``). None where the gateway replaces them all.
    """
    if reading.replaced or not credentials:
        return None, False
    read = [c for c in credentials if c.kind in reading.kinds] or list(credentials)
    chosen = read[0]
    secret = chosen.secret_part()
    fixed = (c for c in credentials if c.index < 0)
    if any(c.secret_part() != secret for c in (*read, *fixed)):
        return None, True
    return chosen, False


def forwarded_credentials(
    credentials: Sequence[RequestCredential], chosen: RequestCredential
) -> frozenset[int]:
    """Indices in ``head.credentials`` of the fields that agree with ``chosen``."""
    secret = chosen.secret_part()
    return frozenset(
        c.index for c in credentials if c.index >= 0 and c.secret_part() == secret
    )


def credentials_elsewhere(head: Head) -> tuple[str, bytes] | None:
    """The query and the WebSocket protocols, if one of them may hold a credential."""
    protocols = head.fields.get(_WS_PROTOCOL, b"")
    query = head.query
    keyed = "=" in query
    if not keyed and _WS_PREFIX not in protocols:
        return None
    return (query if keyed else "", protocols)


def find_credentials(head: Head) -> list[RequestCredential]:
    """All credentials of a request in order of precedence."""
    found: list[tuple[int, RequestCredential]] = []
    for index, (name, value) in enumerate(head.credentials):
        lower = name.lower()
        read = _read_header(lower, value.strip(), index)
        if read is not None:
            found.append((_HEADERS.index(lower), read))
    found.sort(key=lambda ranked: ranked[0])
    return [
        *(credential for _, credential in found),
        *_in_query(head.query),
        *_in_protocols(head.fields.get(_WS_PROTOCOL, b"")),
    ]


def _read_header(name: bytes, value: bytes, index: int) -> RequestCredential | None:
    if not value or name not in _HEADERS:
        return None
    if name != b"authorization":
        return RequestCredential(value, _KINDS[name], index)
    signature = _SIGV4.match(value)
    if signature is not None:
        return RequestCredential(signature[1], "sigv4", index, signed=True)
    scheme, _, token = value.partition(b" ")
    token = token.strip()
    if scheme.lower() == b"bearer":
        return RequestCredential(token, "bearer", index) if token else None
    # Basic and unknown schemes: the whole value is the secret.
    kind: CredentialKind = "basic" if scheme.lower() == b"basic" else "authorization"
    return RequestCredential(value, kind, index)


def _query_name(part: str) -> str:
    name = part.partition("=")[0]
    return unquote_plus(name) if "%" in name else name


def _in_query(query: str) -> list[RequestCredential]:
    """``?key=`` of Gemini clients, and the access key id of a presigned AWS URL."""
    found = []
    for part in query.split("&") if "=" in query else ():
        name = _query_name(part)
        if name not in {"key", "X-Amz-Credential"}:
            continue
        value = unquote_plus(part.partition("=")[2]).encode("utf-8", "replace")
        if name == "key":
            credential = RequestCredential(value, "query")
        else:
            credential = RequestCredential(
                value.partition(b"/")[0], "sigv4", signed=True
            )
        if credential.value:
            found.append(credential)
    return found


def _in_protocols(protocols: bytes) -> list[RequestCredential]:
    if _WS_PREFIX not in protocols:
        return []
    keys = (
        offer.strip().removeprefix(_WS_PREFIX)
        for offer in protocols.split(b",")
        if offer.strip().startswith(_WS_PREFIX)
    )
    return [RequestCredential(key, "websocket") for key in keys if key]


def without_query_key(query: str) -> str:
    """The query without its ``key=``, for upstreams with a credential of their own."""
    return "&".join(part for part in query.split("&") if _query_name(part) != "key")


def without_protocol_key(protocols: bytes) -> bytes:
    """Sec-WebSocket-Protocol without the offered key, for such an upstream."""
    offers = (offer.strip() for offer in protocols.split(b","))
    return b", ".join(
        offer for offer in offers if offer and not offer.startswith(_WS_PREFIX)
    )


def sender_id(
    credential: RequestCredential | None, secret: bytes, client_ip: str
) -> str:
    """The id of a sender that nobody has checked: the credential's, or the address."""
    return client_ip if credential is None else credential.user_id(secret, client_ip)


def is_preflight(head: Head) -> bool:
    """Whether it is a CORS preflight, which carries no credential."""
    return head.method == "OPTIONS" and b"access-control-request-method" in head.fields


def size_of(carried: object) -> int:
    """Bytes in a nested tuple of credentials and header values."""
    if isinstance(carried, tuple):
        return sum(map(size_of, carried))
    return len(carried) if isinstance(carried, bytes | str) else 0

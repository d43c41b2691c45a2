"""Where credentials are found, in which order, and how they are removed."""

import base64
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from gateway.core.model import HeaderRule, Policy, Tenant
from gateway.identity.cidr import Networks
from gateway.identity.credentials import (
    RequestCredential,
    credentials_elsewhere,
    find_credentials,
    reading_of,
    without_protocol_key,
    without_query_key,
)
from gateway.identity.identify import Identifier, Unauthorized

WS = b"sec-websocket-protocol"
NOW = 1_795_000_000.0
SECRET = b"pepper"
PROXY = "10.0.0.1"
TRUSTED = Networks(["10.0.0.0/8"])


class Head(NamedTuple):
    credentials: tuple[tuple[bytes, bytes], ...] = ()
    query: str = ""
    fields: Mapping[bytes, bytes] = MappingProxyType({})
    method: str = "POST"


def found(head: Head) -> list[tuple[bytes, str]]:
    return [
        (credential.value, credential.kind) for credential in find_credentials(head)
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"Authorization", b"Bearer sk-1", (b"sk-1", "bearer")),
        (b"authorization", b"bEARER   sk-1 ", (b"sk-1", "bearer")),
        (b"AUTHORIZATION", b"Basic dTpw", (b"Basic dTpw", "basic")),
        (b"Authorization", b"Token abc", (b"Token abc", "authorization")),
        (b"Authorization", b"sk-bare", (b"sk-bare", "authorization")),
        (b"X-Api-Key", b"sk-2", (b"sk-2", "x-api-key")),
        (b"api-key", b"sk-3", (b"sk-3", "api-key")),
        (b"x-goog-api-key", b"sk-4", (b"sk-4", "x-goog-api-key")),
    ],
)
def test_header_credentials(name, value, expected):
    """Each header is read by its own rule, in any case of its name."""
    assert found(Head(((name, value),))) == [expected]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Authorization", b"Bearer"),
        (b"Authorization", b"Bearer  "),
        (b"Authorization", b""),
        (b"x-api-key", b" "),
        (b"cookie", b"session=1"),
    ],
)
def test_empty_and_foreign_headers_are_no_credential(name, value):
    """Empty values and other headers give no credential."""
    assert found(Head(((name, value),))) == []


def test_search_order_is_the_documented_one():
    """The order is Bearer, the key headers, the query, the WebSocket protocol."""
    head = Head(
        (
            (b"x-goog-api-key", b"4"),
            (b"api-key", b"3"),
            (b"x-api-key", b"2"),
            (b"authorization", b"Bearer 1"),
        ),
        "alt=sse&key=5",
        {WS: b"realtime, openai-insecure-api-key.6, openai-beta.realtime-v1"},
    )
    assert [value for value, _ in found(head)] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert [credential.index for credential in find_credentials(head)] == [
        *(3, 2, 1, 0),
        *(-1, -1),
    ]


def test_sigv4_is_known_by_its_access_key_id_and_marked_signed():
    """A SigV4 signature gives its access key id and is marked as signed."""
    value = (
        b"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-east-1/bedrock/"
        b"aws4_request, SignedHeaders=host;x-amz-date, Signature=5d67"
    )
    (credential,) = find_credentials(Head(((b"Authorization", value),)))
    assert credential == RequestCredential(b"AKIDEXAMPLE", "sigv4", 0, signed=True)


def test_presigned_query_is_known_by_its_access_key_id():
    """A presigned URL gives the same credential by its query."""
    query = "X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Fus-east-1&X-Amz-Signature=ab"
    (credential,) = find_credentials(Head(query=query))
    assert credential == RequestCredential(b"AKIDEXAMPLE", "sigv4", signed=True)


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("key=AIza-1", [b"AIza-1"]),
        ("alt=sse&key=a%2Fb", [b"a/b"]),
        ("%6Bey=hidden", [b"hidden"]),
        ("key=", []),
        ("key", []),
        ("monkey=1", []),
        ("key=one&key=two", [b"one", b"two"]),
    ],
)
def test_query_key(query, values):
    """``key`` is found anywhere in the query, also percent-encoded."""
    assert [value for value, _ in found(Head(query=query))] == values


def test_empty_websocket_key_is_none():
    """The bare prefix of the WebSocket protocol gives no credential."""
    assert found(Head(fields={WS: b"openai-insecure-api-key."})) == []


def test_elsewhere_is_none_without_query_and_protocol():
    """Without query and protocol there are no credentials outside of headers."""
    assert credentials_elsewhere(Head(query="beta", fields={WS: b"chat"})) is None


def test_elsewhere_distinguishes_requests():
    """Requests with different queries or offered keys are different clients."""
    offer = b"openai-insecure-api-key.6"
    heads = [
        Head(query="key=1"),
        Head(query="key=2"),
        Head(fields={WS: offer}),
        Head(query="key=1", fields={WS: offer}),
    ]
    assert len({credentials_elsewhere(head) for head in heads}) == 4


def test_user_id_is_an_hmac_of_the_credential():
    """The user id depends on key and secret only, and does not contain the key."""
    credential = RequestCredential(b"sk-secret", "bearer")
    user = credential.user_id(b"pepper")
    assert user == RequestCredential(b"sk-secret", "x-api-key").user_id(b"pepper")
    assert user != credential.user_id(b"salt")
    assert user.startswith("key_")
    assert len(user) == 20
    assert int(user[4:], 16) >= 0


def test_digest_is_the_configured_hash():
    """The digest of a key is its plain SHA-256."""
    digest = base64.b16encode(RequestCredential(b"abc", "bearer").digest())
    assert digest.startswith(b"BA7816BF8F01CFEA")


def test_jwt_has_three_parts():
    """A value with exactly two dots looks like a token."""
    looks = [
        RequestCredential(value, "bearer").looks_like_jwt()
        for value in (b"a.b.c", b"sk-1", b"a.b", b"a.b.c.d")
    ]
    assert looks == [True, False, False, False]


def test_key_is_cut_out_of_the_query():
    """Every spelling of ``key`` is removed; the rest stays byte for byte."""
    query = "alt=sse&key=1&%6bey=2&x=%20y&key&flag"
    assert without_query_key(query) == "alt=sse&x=%20y&flag"
    assert without_query_key("key=1") == ""


def test_key_is_cut_out_of_the_websocket_protocols():
    """The offered key is removed; the other protocols stay."""
    offers = b"realtime, openai-insecure-api-key.sk-1,, openai-beta.realtime-v1"
    assert without_protocol_key(offers) == b"realtime, openai-beta.realtime-v1"


def bearer(key: str) -> Head:
    return Head(((b"Authorization", b"Bearer " + key.encode()),))


def key_hash(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def tenant(name: str, **fields) -> Tenant:
    return Tenant(name, Policy("default"), **fields)


def identify(tenants, head, peer="203.0.113.9", **options):
    return Identifier(tenants, SECRET, **options).identify(peer, head, NOW)


# -- which credential ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "fields", "kept"),
    [
        ("gemini", {"x-api-key": "junk", "x-goog-api-key": "REAL"}, {1}),
        ("openai", {"x-api-key": "junk", "api-key": "REAL"}, {1}),
        ("anthropic", {"x-api-key": "REAL", "x-goog-api-key": "junk"}, {0}),
        ("anthropic", {"authorization": "Bearer junk", "x-api-key": "REAL"}, None),
        ("openai", {"x-api-key": "junk", "x-goog-api-key": "REAL"}, None),
        ("passthrough", {"x-api-key": "junk", "api-key": "REAL"}, None),
        ("gemini", {"authorization": "Bearer REAL", "x-goog-api-key": "junk"}, None),
    ],
)
def test_the_credential_is_the_one_that_the_upstream_reads(dialect, fields, kept):
    """Fields that the dialect does not read are not forwarded; if several that it reads
    differ, the request is ambiguous.
    """
    sent = tuple((n.encode(), v.encode()) for n, v in fields.items())
    identifier = Identifier([tenant("t")], SECRET)
    plain = identifier.identify("203.0.113.9", bearer("REAL"), NOW)
    found = identifier.identify("203.0.113.9", Head(sent), NOW, reading_of(dialect))
    assert found.ambiguous is (kept is None)
    assert found.forwarded == kept
    assert found.user == ("anonymous" if kept is None else plain.user)


def test_a_key_in_the_query_cannot_differ_from_the_one_in_a_header():
    """What cannot be removed from the request has to agree."""
    head = Head(((b"authorization", b"Bearer REAL"),), query="key=junk")
    identifier = Identifier([tenant("t")], SECRET)
    assert identifier.identify("::1", head, NOW, reading_of("openai")).ambiguous


def test_spellings_of_a_credential_are_one_user():
    """Unknown schemes and loose Base64 do not make new users."""
    spellings = [b"Bearer REAL", b"Token REAL", b"x1 REAL", b"REAL", b"Bearer x REAL"]
    ids = {
        identify([tenant("t")], Head(((b"authorization", value),))).user
        for value in spellings
    }
    assert len(ids) == 1
    basic = [b"Basic cmVhbDp4", b"basic  cmVhbDp4", b"Basic cmVh!bDp4", b"Basic cm"]
    users = [
        identify([tenant("t")], Head(((b"authorization", value),))).user
        for value in basic
    ]
    assert len(set(users)) == 2


def test_a_signature_that_nobody_checks_is_no_key():
    """A tenant's key as the key id of AWS SigV4 counts only if the upstream checks it,
    and never as the user of the key.
    """
    signed = b"AWS4-HMAC-SHA256 Credential=sk-a/2026/us/x, SignedHeaders=h, Signature=0"
    head = Head(((b"Authorization", signed),))
    identifier = Identifier(
        [tenant("t", api_keys=(key_hash("sk-a"),))], SECRET, unknown="deny"
    )
    ours = reading_of("openai", replaced=True)
    assert isinstance(identifier.identify("::1", head, NOW, ours), Unauthorized)
    users = {identifier.identify(ip, head, NOW).user for ip in ("192.0.2.1", "::1")}
    assert len(users) == 2
    assert {user[:4] for user in users} == {"aws_"}


def test_a_trusted_header_comes_before_an_unchecked_credential():
    """A junk credential does not hide the user that the proxy names."""
    tenants = [tenant("blue", header=HeaderRule("X-Team", "blue", "X-User"))]
    fields = {b"x-team": b"blue", b"x-user": b"alice"}
    head = bearer("junk")._replace(fields=fields)
    found = identify(tenants, head, PROXY, trusted=TRUSTED)
    assert (found.user, found.verified) == ("alice", True)

"""Where credentials are found, in which order, and how they are removed."""

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from gateway.identity.credentials import (
    RequestCredential,
    credentials_elsewhere,
    find_credentials,
    without_protocol_key,
    without_query_key,
)

WS = b"sec-websocket-protocol"


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

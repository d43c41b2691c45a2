"""Identity for any input: no exception, no key and no unreadable text in an id."""

from __future__ import annotations

import hashlib
import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Limit, Policy, Tenant
from gateway.http.head import parse_request_head
from gateway.identity.cidr import Networks, parse_address, subject_of
from gateway.identity.credentials import find_credentials, without_query_key
from gateway.identity.hops import client_ip
from gateway.identity.identify import Identifier, Identity, with_body_user
from gateway.identity.ids import readable_id, shorten_id
from gateway.limits.plans import PlanBook

NOW = 1_795_000_000.0
TRUSTED = Networks(["10.0.0.0/8"])
POLICY = Policy(
    "p",
    limits=(
        Limit("user", "requests", 5, 60_000_000),
        Limit("client_ip+model", "tokens", 5, calendar="week"),
    ),
)

field_values = st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40
)
addresses = st.ip_addresses().map(str)


def request(**headers: str):
    lines = "".join(
        f"{name.replace('_', '-')}: {headers[name]}\r\n" for name in headers
    )
    raw = f"POST /v1/x?{headers.get('query', '')} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"
    return parse_request_head(raw.encode("latin-1"))


def without_id(identity: Identity) -> str:
    """All fields of an identity but the id and the position of its credential."""
    return repr(
        msgspec.structs.replace(
            identity,
            user="",
            user_source="credential",
            key=(),
            credential_kind="",
            credential_index=-1,
            takes_body_user=False,
            body_suffix="",
            ambiguous=False,
            unchecked="",
        )
    )


@given(field_values, field_values)
def test_any_header_gives_an_identity_without_the_key(key, chain):
    """Any field values give a tenant, a short id and a plan."""
    identifier = Identifier([Tenant("t", POLICY)], b"pepper", trusted=TRUSTED)
    head = request(Authorization=key, X_Forwarded_For=chain)
    identity = identifier.identify("10.0.0.1", head, NOW)
    assert isinstance(identity, Identity)
    assert re.fullmatch(r"anonymous|(key|aws)_[0-9a-f]{16}", identity.user)
    # Identities differ only in the id, and in the position of the credential.
    other = identifier.identify(
        "10.0.0.1", request(Authorization="Bearer another", X_Forwarded_For=chain), NOW
    )
    assert isinstance(other, Identity)
    assert without_id(identity) == without_id(other)
    assert len(PlanBook().plan(identity, key, NOW).cells) == 2


@given(addresses, st.lists(st.one_of(addresses, field_values), max_size=5))
def test_clients_cannot_choose_their_address(real, forged):
    """For any X-Forwarded-For of the client, the proxy's own hop is the address."""
    fields = {b"x-forwarded-for": ", ".join([*forged, real]).encode()}
    address = parse_address(real)
    assert address is not None
    if not TRUSTED.contains(address):
        assert client_ip("10.0.0.1", fields, TRUSTED) == subject_of(address)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_invalid_chains_end_at_an_address(xff, forwarded):
    """The result is always an address, at worst the peer's."""
    for fields in ({b"x-forwarded-for": xff}, {b"forwarded": forwarded}):
        found = client_ip("10.0.0.1", fields, TRUSTED)
        assert parse_address(found.partition("/")[0]) is not None


@given(st.text(max_size=400))
def test_ids_are_short_and_printable(text):
    """An id can be shown and does not grow when it becomes part of another id."""
    once = readable_id(text)
    assert len(once) <= 128
    assert once.isprintable()
    assert shorten_id(once) == once


_NEAR = st.text(st.sampled_from("ab \u200b\x00\u202e~0123456789abcdef"), max_size=20)


@given(_NEAR, _NEAR)
def test_different_texts_are_different_ids(one, other):
    """What an id cannot show, or looks like a hash, does not make two clients one."""
    texts = (one, other, readable_id(one))
    ids = [readable_id(text) for text in texts]
    shown = {text: id_ for text, id_ in zip(texts, ids, strict=True) if id_}
    assert len(set(shown.values())) == len(shown)


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_no_key_is_left_in_a_stripped_query(query):
    """The client's key does not reach an upstream with a credential of its own."""

    class Head:
        method = "GET"
        credentials = ()
        fields: dict[bytes, bytes] = {}  # noqa: RUF012 - a stand-in

        def __init__(self, query: str) -> None:
            self.query = query

    kinds = {c.kind for c in find_credentials(Head(without_query_key(query)))}
    assert "query" not in kinds


@given(st.lists(field_values, min_size=1, max_size=20, unique=True))
def test_identities_equal_those_of_a_fresh_identifier(keys):
    """A small cache gives the same identities as none."""
    tenants = [
        Tenant("a", POLICY, ("sha256:" + hashlib.sha256(b"known").hexdigest(),)),
        Tenant("open", POLICY),
    ]
    small = Identifier(tenants, b"pepper", capacity=2)
    for key in [*keys, "known", *keys]:
        head = request(x_api_key=key)
        fresh = Identifier(tenants, b"pepper").identify("192.0.2.1", head, NOW)
        found = small.identify("192.0.2.1", head, NOW)
        assert isinstance(found, Identity)
        assert isinstance(fresh, Identity)
        assert (found.key, found.tenant.name) == (fresh.key, fresh.tenant.name)


@given(st.text(max_size=300))
def test_body_users_never_break_a_plan(user):
    """Any user in the body gives a plan with hashed ASCII keys."""
    identifier = Identifier([Tenant("t", POLICY)], b"pepper")
    identity = identifier.identify("192.0.2.1", request(), NOW)
    assert isinstance(identity, Identity)
    plan = PlanBook().plan(with_body_user(identity, user), user, NOW)
    assert all(cell.key.isascii() for cell in plan.cells)

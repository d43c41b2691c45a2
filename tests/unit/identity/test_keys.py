"""Keys with names: whose they are, when and where they may be used."""

from __future__ import annotations

import hashlib

import pytest

from gateway.core.model import ApiKey, Limit, Policy, Tenant
from gateway.identity.cidr import Networks
from gateway.identity.hops import peer_address
from gateway.identity.identify import Identifier, Unauthorized, with_body_user
from gateway.identity.keys import HeldKey, hold_keys
from tests.unit.identity.test_identify import NOW, bearer

OWN = Policy("team", limits=(Limit("key", "requests", 3, 60_000_000),))


def key_hash(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def tenant(*keys: ApiKey, plain: tuple[str, ...] = ()) -> Tenant:
    hashes = tuple(map(key_hash, plain))
    return Tenant("acme", Policy("team"), api_keys=hashes, keys=keys)


def identifier(*keys: ApiKey, plain: tuple[str, ...] = ()) -> Identifier:
    return Identifier([tenant(*keys, plain=plain)], b"pepper", unknown="deny")


def test_keys_by_hash():
    """A plain key has no name; one with a name may have its own policy and tags."""
    named = ApiKey("ci", key_hash("b"), policy=OWN, tags=("x",))
    held = hold_keys([tenant(named, ApiKey("app", key_hash("c")), plain=("a",))])
    plain, own, app = (held[digest(key)] for key in "abc")
    assert (plain.name, plain.tags, plain.scope) == ("", (), "acme")
    assert (own.name, own.tags, own.scope) == ("ci", ("x",), "acme/ci")
    assert (app.name, app.scope) == ("app", "acme")
    assert (own.tenant.policy, app.tenant.policy.limits) == (OWN, ())
    assert plain.expires == app.expires == float("inf")


def test_the_first_of_equal_hashes_counts():
    """A hash that is stated twice keeps its first entry."""
    held = hold_keys([tenant(ApiKey("ci", key_hash("a")), plain=("a",))])
    assert held[digest("a")].name == ""


@pytest.mark.parametrize(
    ("address", "now", "code"),
    [
        ("192.0.2.7", NOW, ""),
        ("192.0.2.7", NOW + 10, "key_expired"),
        ("198.51.100.7", NOW, "key_network"),
    ],
)
def test_faults(address, now, code):
    """A key is refused after its expiry, and from outside its networks."""
    named = ApiKey("ci", key_hash("a"), NOW + 10, networks=("192.0.2.0/24",))
    (held,) = hold_keys([tenant(named)]).values()
    assert held.fault(peer_address(address, Networks()), now)[0] == code
    assert HeldKey(tenant()).fault(peer_address(address, Networks()), now) == ("", "")


def test_identity_of_a_named_key():
    """The name and tags are in the identity; the user id does not depend on them."""
    named = identifier(ApiKey("ci", key_hash("a"), tags=("x",)))
    plain = identifier(plain=("a",))
    found = named.identify("192.0.2.7", bearer("a"), NOW)
    assert (found.key_name, found.tags, found.verified) == ("ci", ("x",), True)
    assert found.user == plain.identify("192.0.2.7", bearer("a"), NOW).user


def test_an_expired_key_is_refused_also_when_it_was_cached():
    """The cached identity ends with the key."""
    named = identifier(ApiKey("ci", key_hash("a"), NOW + 10))
    assert named.identify("192.0.2.7", bearer("a"), NOW).expires_at == NOW + 10
    refused = named.identify("192.0.2.7", bearer("a"), NOW + 10)
    assert isinstance(refused, Unauthorized)
    assert refused.code == "key_expired"


def test_two_keys_of_one_user_have_plans_of_their_own():
    """Keys with policies of their own never share a plan, whoever the body names."""
    policy = Policy("team", user_from=("body",))
    keys = [ApiKey(name, key_hash(name), policy=policy) for name in ("one", "other")]
    found = [
        with_body_user(
            identifier(*keys).identify("192.0.2.7", bearer(key.name), NOW), "alice"
        )
        for key in keys
    ]
    assert {one.user for one in found} == {"alice"}
    assert len({one.key for one in found}) == 2

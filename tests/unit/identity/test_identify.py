"""Peer and head to tenant, user, client_ip: precedence, users, caching."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from gateway.core.model import HeaderRule, JwtRule, Limit, Policy, Tenant
from gateway.identity.cidr import Networks
from gateway.identity.credentials import reading_of
from gateway.identity.identify import (
    Identifier,
    Identity,
    Unauthorized,
    is_preflight,
    with_body_user,
)

NOW = 1_795_000_000.0
SECRET = b"pepper"
PROXY = "10.0.0.1"
TRUSTED = Networks(["10.0.0.0/8"])
TOKEN = "head.body.sign"


class Head(NamedTuple):
    credentials: tuple[tuple[bytes, bytes], ...] = ()
    query: str = ""
    fields: Mapping[bytes, bytes] = MappingProxyType({})
    method: str = "POST"


def bearer(key: str) -> Head:
    return Head(((b"Authorization", b"Bearer " + key.encode()),))


def key_hash(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def policy(name="default", **fields) -> Policy:
    return Policy(name, **fields)


def tenant(name: str, **fields) -> Tenant:
    return Tenant(name, fields.pop("policy", policy()), **fields)


class Tokens:
    """A verifier that accepts a fixed set of tokens and counts its calls."""

    def __init__(self, **claims) -> None:
        self.claims = {TOKEN: claims}
        self.asked = 0

    def __call__(self, token: str, rule: JwtRule, now: float):
        self.asked += 1
        return self.claims.get(token)


def identify(tenants, head, peer="203.0.113.9", now=NOW, **options):
    return Identifier(tenants, SECRET, **options).identify(peer, head, now)


# -- which tenant ---------------------------------------------------------------------


def test_api_key_names_the_tenant_by_its_hash():
    """A key belongs to the tenant with its hash; the user is derived from the key."""
    tenants = [
        tenant("acme", api_keys=(key_hash("sk-a"),)),
        tenant("beta", api_keys=(key_hash("sk-b"), key_hash("sk-c"))),
    ]
    identity = identify(tenants, bearer("sk-c"))
    assert (identity.tenant.name, identity.user_source) == ("beta", "credential")
    assert identity.credential_kind == "bearer"
    assert identity.credential_index == 0
    assert identity.user.startswith("key_")
    assert identity.key == ("beta", "203.0.113.9", identity.user)


def test_any_credential_of_a_request_may_match():
    """An unknown Authorization does not hide a known x-api-key."""
    head = Head(((b"Authorization", b"Basic eDp5"), (b"X-Api-Key", b"sk-a")))
    identity = identify([tenant("acme", api_keys=(key_hash("sk-a"),))], head)
    assert (identity.tenant.name, identity.credential_index) == ("acme", 1)


def test_precedence_is_key_token_header_network_catch_all():
    """A rule applies only if the rules before it matched no tenant."""
    tenants = [
        tenant("open"),
        tenant("net", cidrs=("203.0.113.0/24",)),
        tenant("head", header=HeaderRule("X-Team", "blue")),
        tenant("jwt", jwt=JwtRule(jwks_url="u")),
        tenant("key", api_keys=(key_hash("a.b.c"),)),
    ]
    claims = Tokens(sub="alice")
    claims.claims["a.b.c"] = {"sub": "alice"}
    identifier = Identifier(tenants, SECRET, verify_jwt=claims, trusted=TRUSTED)
    via = {b"x-forwarded-for": b"203.0.113.9", b"x-team": b"blue"}
    only_via = {b"x-forwarded-for": b"203.0.113.9"}
    heads = [
        bearer("a.b.c")._replace(fields=via),
        bearer(TOKEN)._replace(fields=via),
        bearer("sk-x")._replace(fields=via),
        bearer("sk-x")._replace(fields=only_via),
        bearer("sk-x"),
    ]
    names = [identifier.identify(PROXY, head, NOW).tenant.name for head in heads]
    assert names == ["key", "jwt", "head", "net", "open"]


def test_header_rule_applies_to_trusted_peers_only():
    """A header names a tenant only if a trusted peer sends it."""
    tenants = [tenant("blue", header=HeaderRule("X-Team", "blue", "X-User"))]
    head = Head(fields={b"x-team": b"blue", b"x-user": b"alice"})
    found = identify(tenants, head, PROXY, trusted=TRUSTED, unknown="deny")
    assert (found.tenant.name, found.user, found.user_source) == (
        *("blue", "alice"),
        "header",
    )
    refused = identify(tenants, head, trusted=TRUSTED, unknown="deny")
    assert isinstance(refused, Unauthorized)


def test_header_value_must_be_equal():
    """Another value of the header does not match the tenant."""
    tenants = [tenant("blue", header=HeaderRule("X-Team", "blue"))]
    head = Head(fields={b"x-team": b"blue, green"})
    found = identify(tenants, head, PROXY, trusted=TRUSTED, unknown="deny")
    assert isinstance(found, Unauthorized)


def test_network_rule_sees_the_whole_address():
    """A network longer than /64 is matched against the full address."""
    tenants = [tenant("lab", cidrs=("2001:db8::7/128",))]
    inside = identify(tenants, Head(), "2001:db8::7", unknown="deny")
    assert (inside.tenant.name, inside.client_ip) == ("lab", "2001:db8::/64")
    outside = identify(tenants, Head(), "2001:db8::8", unknown="deny")
    assert outside == Unauthorized(
        "No credential was sent.", "2001:db8::/64", outside.address
    )


def test_unknown_clients_get_the_anonymous_policy():
    """Users with unknown credentials are distinct; without any credential the user is
    "anonymous".
    """
    tenants = [tenant("acme", api_keys=(key_hash("sk-a"),))]
    loose = policy("anonymous")
    keyed = identify(tenants, bearer("sk-x"), anonymous=loose)
    assert (keyed.tenant.name, keyed.policy) == ("anonymous", loose)
    assert keyed.user.startswith("key_")
    bare = identify(tenants, Head())
    assert (bare.user, bare.user_source, bare.credential_kind) == (
        *("anonymous", "none"),
        "",
    )


def test_unknown_clients_are_refused_if_configured():
    """With ``deny``, unknown clients get a 401 that does not say which part was wrong."""
    tenants = [tenant("acme", api_keys=(key_hash("sk-a"),))]
    refused = identify(tenants, bearer("sk-x"), unknown="deny")
    assert isinstance(refused, Unauthorized)
    assert (refused.message, refused.client_ip) == (
        "Unknown credential.",
        "203.0.113.9",
    )


def test_tenant_without_rules_takes_every_client():
    """A tenant without rules takes precedence over the anonymous policy."""
    identity = identify([tenant("default")], bearer("sk-x"), unknown="deny")
    assert identity.tenant.name == "default"


def test_signed_requests_are_marked():
    """SigV4 is matched by its access key id, and the identity is marked as signed."""
    value = b"AWS4-HMAC-SHA256 Credential=AKID/20261123/r/s/aws4_request, Signature=1"
    tenants = [tenant("aws", api_keys=(key_hash("AKID"),))]
    identity = identify(tenants, Head(((b"Authorization", value),)))
    assert (identity.tenant.name, identity.signed) == ("aws", True)
    assert not identity.verified


# -- tokens ---------------------------------------------------------------------------


def jwt_tenant(**rule) -> Tenant:
    return tenant("jwt", jwt=JwtRule(jwks_url="u", **rule))


def test_token_names_tenant_and_user():
    """A verified token is the source "jwt" even if credentials come first."""
    identity = identify([jwt_tenant()], bearer(TOKEN), verify_jwt=Tokens(sub="alice"))
    assert (identity.user, identity.user_source) == ("alice", "jwt")


@pytest.mark.parametrize(
    ("claim", "user"),
    [(7, "7"), (True, "anonymous"), (["a"], "anonymous"), (" \x07", "anonymous")],
)
def test_odd_user_claims(claim, user):
    """Numeric claims are ids; claims of other types name no user."""
    rule = {"user_claim": "uid"}
    tokens = Tokens(uid=claim)
    identity = identify([jwt_tenant(**rule)], bearer(TOKEN), verify_jwt=tokens)
    assert identity.user == user


@pytest.mark.parametrize(
    ("claims", "holds"),
    [
        ({"team": "blue"}, True),
        ({"team": "not blue"}, False),
        ({"team": ["green", "blue"]}, True),
        ({"team": ["green"]}, False),
        ({"team": None}, False),
        ({}, False),
    ],
)
def test_required_claims(claims, holds):
    """A token of the right issuer without a required claim matches no tenant."""
    tenants = [jwt_tenant(require={"team": "blue"})]
    found = identify(
        tenants, bearer(TOKEN), verify_jwt=Tokens(**claims), unknown="deny"
    )
    assert isinstance(found, Identity) is holds


@pytest.mark.parametrize(
    ("name", "claim", "wanted"),
    [("scope", "read llm write", "llm"), ("admin", True, "true"), ("level", 3, "3")],
)
def test_required_claims_of_other_types(name, claim, wanted):
    """Scopes are separated by spaces; booleans and numbers compare as text."""
    tokens = Tokens(**{name: claim})
    tenants = [jwt_tenant(require={name: wanted})]
    found = identify(tenants, bearer(TOKEN), verify_jwt=tokens, unknown="deny")
    assert isinstance(found, Identity)


def test_token_is_verified_once_until_it_expires():
    """A token is verified once, and again after it expires."""
    tokens = Tokens(sub="alice", exp=NOW + 60)
    identifier = Identifier([jwt_tenant()], SECRET, verify_jwt=tokens, unknown="deny")
    for at in (NOW, NOW + 1, NOW + 59):
        assert identifier.identify("1.1.1.1", bearer(TOKEN), at).user == "alice"
    assert tokens.asked == 1
    tokens.claims = {}
    late = identifier.identify("1.1.1.1", bearer(TOKEN), NOW + 61)
    assert isinstance(late, Unauthorized)


def test_forget_empties_the_cache():
    """After ``forget``, every token is verified again."""
    tokens = Tokens(sub="alice", exp=NOW + 60)
    identifier = Identifier([jwt_tenant()], SECRET, verify_jwt=tokens)
    identifier.identify("1.1.1.1", bearer(TOKEN), NOW)
    identifier.forget()
    identifier.identify("1.1.1.1", bearer(TOKEN), NOW)
    assert tokens.asked == 2


def test_failed_token_is_anonymous_for_seconds_only():
    """A rejected token is verified again after seconds, for example with new keys."""
    tokens = Tokens()
    tokens.claims = {}
    identifier = Identifier([jwt_tenant()], SECRET, verify_jwt=tokens)
    first = identifier.identify("1.1.1.1", bearer(TOKEN), NOW)
    tokens.claims = {TOKEN: {"sub": "alice"}}
    again = identifier.identify("1.1.1.1", bearer(TOKEN), NOW + 6)
    assert (first.tenant.name, again.tenant.name) == ("anonymous", "jwt")


def test_without_a_verifier_no_token_is_good():
    """Without a verifier no token matches."""
    found = identify([jwt_tenant()], bearer(TOKEN), unknown="deny")
    assert isinstance(found, Unauthorized)


# -- which user -----------------------------------------------------------------------


def test_user_comes_from_the_first_source_that_is_there():
    """The order in the policy decides between key and header."""
    order = ("jwt", "header", "credential")
    rules = {"header": HeaderRule("X-Team", "blue", "X-User"), "cidrs": ("0.0.0.0/0",)}
    tenants = [tenant("t", policy=policy(user_from=order), **rules)]
    head = bearer("sk-1")._replace(fields={b"x-user": b"alice"})
    named = identify(tenants, head, PROXY, trusted=TRUSTED)
    unnamed = identify(tenants, bearer("sk-1"), PROXY, trusted=TRUSTED)
    assert (named.user, named.user_source) == ("alice", "header")
    assert unnamed.user_source == "credential"


def test_no_source_at_all_is_anonymous():
    """If no source of the policy is present, the user is "anonymous"."""
    tenants = [tenant("t", policy=policy(user_from=("jwt", "header")))]
    assert identify(tenants, bearer("sk-1")).user == "anonymous"


@pytest.mark.parametrize(
    ("order", "head", "user"),
    [
        (("credential", "body"), bearer("sk-1"), "key"),
        (("credential", "body"), Head(), "body:bob@203.0.113.9"),
        (("body", "credential"), bearer("sk-1"), "body:bob@key"),
        (("credential",), Head(), "anonymous"),
    ],
)
def test_body_user_counts_by_the_policys_order(order, head, user):
    """The body's user counts if the policy lists "body" before the source in the head."""
    identity = identify([tenant("t", policy=policy(user_from=order))], head)
    found = with_body_user(identity, "bob")
    assert found.user.partition("_")[0] == user
    assert found.key == ("t", "203.0.113.9", found.user)


def test_few_tokens_of_one_head_are_verified():
    """A head may hold hundreds; clients send one."""
    asked = []

    def verify(token, *_):
        asked.append(token)

    query = "&".join(f"key=a.b.{number}" for number in range(300))
    found = identify(
        [jwt_tenant()], Head(query=query), verify_jwt=verify, unknown="deny"
    )
    assert isinstance(found, Unauthorized)
    assert asked == ["a.b.0", "a.b.1", "a.b.2", "a.b.3"]


@pytest.mark.parametrize("user", [None, "", "\x00\x1f"])
def test_empty_body_user_changes_nothing(user):
    """A body without a user leaves the identity unchanged."""
    identity = identify([tenant("t")], Head())
    assert with_body_user(identity, user) is identity


# -- allow lists, preflights, caching  -------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "allowed"),
    [
        ("client_ip:203.0.113.9", True),
        ("client_ip:203.0.113.8", False),
        ("network:203.0.113.0/24", True),
        ("user:anonymous", True),
        ("tenant:t", True),
        ("tenant:u", False),
    ],
)
def test_allow_list(entry, allowed):
    """Each kind of entry allows its own subject and no other."""
    tenants = [tenant("t", policy=policy(allow=(entry,)))]
    assert identify(tenants, Head()).allowed is allowed


def test_allow_list_does_not_hold_a_user_that_the_body_names():
    """Anyone can write a name into a body, so only verified users are on the list."""
    rules = policy(allow=("user:bob",), user_from=("body", "credential"))
    key = tenant("t", policy=rules, api_keys=(key_hash("sk-a"),))
    for tenants in ([tenant("t", policy=rules)], [key]):
        identity = identify(tenants, bearer("sk-a"))
        assert not with_body_user(identity, "bob").allowed
    rule = JwtRule(jwks_url="u")
    token = tenant("jwt", policy=policy(allow=("user:bob",)), jwt=rule)
    assert identify([token], bearer(TOKEN), verify_jwt=Tokens(sub="bob")).allowed


def test_preflight_is_an_options_request_that_asks_for_a_method():
    """Only OPTIONS with Access-Control-Request-Method is a preflight."""
    asks = {b"access-control-request-method": b"POST"}
    assert is_preflight(Head(method="OPTIONS", fields=asks))
    assert not is_preflight(Head(method="OPTIONS"))
    assert not is_preflight(Head(method="POST", fields=asks))


def test_preflight_counts_for_its_address_only():
    """A preflight has no user and only the limits per client_ip, even if keys are
    required.
    """
    limits = (Limit("user", "requests", 1), Limit("client_ip", "requests", 9))
    loose = policy("anonymous", limits=limits)
    tenants = [tenant("acme", api_keys=(key_hash("sk-a"),))]
    identifier = Identifier(
        tenants, SECRET, unknown="deny", anonymous=loose, trusted=TRUSTED
    )
    head = Head(fields={b"x-forwarded-for": b"203.0.113.9"}, method="OPTIONS")
    identity = identifier.identify_preflight(PROXY, head)
    assert identity.policy.limits == (limits[1],)
    assert (identity.client_ip, identity.user) == ("203.0.113.9", "anonymous")
    assert identity.key == ("anonymous", "203.0.113.9", "")
    assert identifier.identify_preflight(PROXY, head) is identity
    assert identifier.identify_preflight("1.1.1.1", Head()).client_ip == "1.1.1.1"
    bare = Identifier([tenant("t")], SECRET).identify_preflight(PROXY, head)
    assert [limit.name for limit in bare.policy.limits] == ["client_ip.requests.1m"]


def test_same_client_is_the_same_object():
    """Equal requests share one identity; another address or key does not."""
    identifier = Identifier([tenant("t")], SECRET, trusted=TRUSTED)
    first = identifier.identify("1.1.1.1", bearer("sk-1"), NOW)
    assert identifier.identify("1.1.1.1", bearer("sk-1"), NOW + 9) is first
    assert identifier.identify("1.1.1.2", bearer("sk-1"), NOW).client_ip == "1.1.1.2"
    assert identifier.identify("1.1.1.1", bearer("sk-2"), NOW).user != first.user


def test_blank_header_does_not_hide_the_query_key():
    """Two clients with the same empty header and different query keys stay apart."""
    blank = ((b"Authorization", b""),)
    identifier = Identifier([tenant("t")], SECRET)
    users = {
        identifier.identify("1.1.1.1", Head(blank, f"key={key}"), NOW).user
        for key in "ab"
    }
    assert len(users) == 2


def test_clients_behind_one_proxy_are_distinct():
    """Clients behind one proxy have identities of their own."""
    identifier = Identifier([tenant("t")], SECRET, trusted=TRUSTED)
    for last in (1, 2, 1):
        head = Head(fields={b"x-forwarded-for": b"203.0.113.%d" % last})
        assert identifier.identify(PROXY, head, NOW).client_ip == f"203.0.113.{last}"
    assert identifier.identify(PROXY, Head(), NOW).client_ip == PROXY


def test_huge_credentials_and_chains_are_not_cached():
    """Identities of long credentials or chains are not cached."""
    identifier = Identifier([tenant("t")], SECRET, trusted=TRUSTED)
    chain = {b"x-forwarded-for": b"1.1.1.1," * 1000 + b"203.0.113.9"}
    head = bearer("k" * 5000)._replace(fields=chain)
    first = identifier.identify(PROXY, head, NOW)
    assert first.client_ip == "203.0.113.9"
    assert identifier.identify(PROXY, head, NOW) is not first


# -- ids of one source are never those of another ---------------------------------------


@pytest.mark.parametrize("named", ["key_081ba31d12992c20", "anonymous", "jwt:x", "a"])
def test_a_token_never_names_the_user_of_another_source(named):
    """A claim that looks like the id of a key gets a prefix."""
    found = identify([jwt_tenant()], bearer(TOKEN), verify_jwt=Tokens(sub=named))
    assert found.user == (named if named == "a" else f"jwt:{named}")


def test_a_body_never_names_the_user_of_a_credential():
    """The holder of a tenant's key names its own users, but no key and no anonymous."""
    rules = policy(user_from=("body", "credential"))
    keyed = identify(
        [tenant("t", policy=rules, api_keys=(key_hash("sk-a"),))], bearer("sk-a")
    )
    assert with_body_user(keyed, "bob").user == "bob"
    for reserved in (keyed.user, "anonymous", "body:bob", "aws_0"):
        assert with_body_user(keyed, reserved).user == f"body:{reserved}"


def test_a_body_never_names_the_user_of_a_token():
    """In a tenant with tokens, names of the body are not those of claims."""
    rules = policy(user_from=("body", "jwt"))
    both = tenant("t", policy=rules, jwt=JwtRule(jwks_url="u"))
    found = identify([both], bearer(TOKEN), verify_jwt=Tokens(sub="mallory"))
    assert with_body_user(found, "alice").user == "body:alice"


def test_strangers_with_the_same_name_are_two_users():
    """A name counts with the address or key of the unverified sender."""
    rules = tenant("t", policy=policy(user_from=("body", "credential")))
    ids = {
        with_body_user(identify([rules], head, ip), "bob").user
        for ip in ("192.0.2.1", "192.0.2.2")
        for head in (Head(), bearer("sk-1"), bearer("sk-2"))
    }
    assert len(ids) == 4
    long = with_body_user(identify([rules], Head()), "b" * 200).user
    assert len(long) == 128


def test_unchecked_clients_are_not_named_by_their_bodies():
    """Where the gateway sends its own key, only a policy that lists the body first lets
    an unknown sender name its user.
    """
    ours = reading_of("openai", replaced=True)
    for order, taken in (
        (("credential", "body"), False),
        (("body", "credential"), True),
        (("body",), True),
    ):
        rules = tenant("t", policy=policy(user_from=order), cidrs=("203.0.113.0/24",))
        identifier = Identifier([rules], SECRET)
        found = identifier.identify("203.0.113.9", bearer("junk"), NOW, ours)
        assert (found.user, found.takes_body_user) == ("anonymous", taken)


def test_a_message_that_names_two_clients_is_refused():
    """A proxy that passes one of the two fields on does not let the client choose."""
    fields = {b"x-forwarded-for": b"8.8.8.8", b"forwarded": b"for=203.0.113.10"}
    head = Head(fields=fields)
    identifier = Identifier([tenant("t")], SECRET, trusted=TRUSTED)
    for found in (
        identifier.identify(PROXY, head, NOW),
        identifier.identify_preflight(PROXY, head),
    ):
        assert isinstance(found, Unauthorized)
        assert (found.disputed, found.client_ip) == (True, PROXY)
    named = identify(
        [tenant("t")], head, PROXY, trusted=TRUSTED, client_ip_header=b"forwarded"
    )
    assert named.client_ip == "203.0.113.10"

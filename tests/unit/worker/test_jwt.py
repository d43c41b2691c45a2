"""Verification of tokens against key sets, and the cache of its results."""

import base64
import json

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.core.model import JwtRule
from gateway.worker import jwt as jwt_module
from gateway.worker.jwt import (
    FAILURE_TTL_S,
    LEEWAY_S,
    MAX_TRIES,
    JwtVerifier,
    KeySetError,
)

NOW = 1_795_000_000.0
URL = "https://id.example/jwks"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KINDS = {
    "RS256": (RSA, pyjwt.algorithms.RSAAlgorithm),
    "ES256": (EC, pyjwt.algorithms.ECAlgorithm),
    "EdDSA": (ED, pyjwt.algorithms.OKPAlgorithm),
}
RULE = JwtRule(jwks_url=URL)


def jwk(algorithm="RS256", key=None, **fields) -> dict:
    own, kind = KINDS[algorithm]
    return json.loads(kind.to_jwk((key or own).public_key())) | fields


def sign(algorithm="RS256", key=None, kid=None, **claims) -> str:
    claims = {"sub": "alice", "exp": NOW + 600} | claims
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": kid} if kid is not None else None
    secret = key or KINDS[algorithm][0]
    return pyjwt.encode(claims, secret, algorithm, headers)


def verifier(*keys: dict) -> JwtVerifier:
    made = JwtVerifier()
    made.set_keys(URL, {"keys": list(keys or [jwk()])})
    return made


def holds(token: str, *keys: dict, rule: JwtRule = RULE, now=NOW) -> bool:
    return verifier(*keys).verify(token, rule, now) is not None


@pytest.mark.parametrize("algorithm", KINDS)
def test_good_tokens_give_their_claims(algorithm):
    """A token signed by any key type of the default algorithms is accepted."""
    claims = verifier(jwk(algorithm)).verify(sign(algorithm), RULE, NOW)
    assert claims["sub"] == "alice"


def test_key_of_a_file_is_read_at_once(tmp_path):
    """A rule may read its key set from a file."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk()]}))
    rule = JwtRule(jwks_file=str(path))
    assert JwtVerifier([rule, RULE]).verify(sign(), rule, NOW) is not None


def test_unreadable_file_is_an_error_that_names_it(tmp_path):
    """An unreadable key set file raises an error with the file and the reason."""
    rule = JwtRule(jwks_file=str(tmp_path / "none.json"))
    with pytest.raises(KeySetError, match=r"none\.json: No such file"):
        JwtVerifier([rule])


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": NOW - LEEWAY_S + 1}, True),
        ({"exp": NOW - LEEWAY_S}, False),
        ({"exp": None}, False),
        ({"nbf": NOW + LEEWAY_S}, True),
        ({"nbf": NOW + LEEWAY_S + 1}, False),
    ],
)
def test_times_have_leeway(claims, good):
    """``exp`` and ``nbf`` have 30 s of leeway; a token without ``exp`` is rejected."""
    assert holds(sign(**claims)) is good


@pytest.mark.parametrize("claims", [{"exp": "soon"}, {"exp": True}, {"nbf": []}])
def test_odd_times_are_refused(claims):
    """Malformed claims in a signed token are rejected without an exception."""
    assert not holds(sign(**claims))


@pytest.mark.parametrize(
    ("wanted", "claims", "good"),
    [
        ({"issuer": "https://id"}, {"iss": "https://id"}, True),
        ({"issuer": "https://id"}, {"iss": "https://evil"}, False),
        ({"issuer": "https://id"}, {}, False),
        ({"audience": "llm"}, {"aud": ["web", "llm"]}, True),
        ({"audience": "llm"}, {"aud": "web"}, False),
        ({"audience": "llm"}, {}, False),
        ({}, {"aud": "web", "iss": "x"}, True),
    ],
)
def test_issuer_and_audience(wanted, claims, good):
    """Issuer and audience are checked where the rule states them."""
    assert holds(sign(**claims), rule=JwtRule(jwks_url=URL, **wanted)) is good


def test_public_key_is_never_an_hmac_secret():
    """HS256 signed with the bytes of the public key is rejected."""
    public = RSA.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256"}, {"exp": NOW + 9})]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = pyjwt.algorithms.HMACAlgorithm(pyjwt.algorithms.HMACAlgorithm.SHA256)
    token = signed + b"." + base64.urlsafe_b64encode(mac.sign(signed, public))
    rule = JwtRule(jwks_url=URL, algorithms=("RS256", "HS256", "none"))
    assert not holds(token.decode().rstrip("="), rule=rule)


def test_unsigned_tokens_are_refused_even_if_allowed():
    """The algorithm ``none`` is rejected."""
    token = pyjwt.encode({"exp": NOW + 9}, None, "none")
    assert not holds(token, rule=JwtRule(jwks_url=URL, algorithms=("none",)))


def test_algorithms_outside_of_the_rule_are_refused():
    """A valid signature by an algorithm that the rule does not list is rejected."""
    rule = JwtRule(jwks_url=URL, algorithms=("ES256",))
    assert not holds(sign(), rule=rule)


def test_rsa_key_without_an_algorithm_serves_its_family():
    """A key without ``alg`` is used with the algorithms of the rule."""
    token = pyjwt.encode({"exp": NOW + 9}, RSA, "PS384")
    bare = {name: value for name, value in jwk().items() if name != "alg"}
    assert holds(token, bare, rule=JwtRule(jwks_url=URL, algorithms=("PS384",)))
    assert not holds(
        token, jwk(alg="RS256"), rule=JwtRule(jwks_url=URL, algorithms=("PS384",))
    )


@pytest.mark.parametrize(
    ("kid", "keys", "good"),
    [
        ("a", [jwk(kid="a")], True),
        ("b", [jwk(kid="a")], False),
        ("a", [jwk(key=OTHER_RSA, kid="a"), jwk(kid="b")], False),
        ("a", [jwk()], True),
        (None, [jwk(key=OTHER_RSA, kid="a"), jwk(kid="b")], True),
        (None, [jwk(key=OTHER_RSA)], False),
    ],
)
def test_key_id_chooses_the_key(kid, keys, good):
    """A ``kid`` selects that key or keys without an id; without it all are tried."""
    assert holds(sign(kid=kid), *keys) is good


@pytest.mark.parametrize(
    "token",
    ["", "a.b.c", "..", "a" * 20_000, "\ud800.b.c", sign() + "x", sign()[:-9]],
)
def test_junk_is_refused(token):
    """Any text that is no token is rejected without an exception."""
    assert not holds(token)


def test_deep_header_is_refused():
    """Deep nesting in the unverified header raises no exception."""
    deep = base64.urlsafe_b64encode(b"[" * 9000).rstrip(b"=").decode()
    assert not holds(deep + ".b.c")


def test_unknown_source_is_refused_until_its_keys_arrive():
    """New keys discard a cached failure at once."""
    made = JwtVerifier()
    token = sign()
    assert made.verify(token, RULE, NOW) is None
    made.set_keys(URL, json.dumps({"keys": [jwk()]}))
    assert made.verify(token, RULE, NOW) is not None


def test_good_tokens_are_remembered_until_they_expire():
    """Cached claims are returned without another check until the token expires."""
    made, token = verifier(), sign()
    first = made.verify(token, RULE, NOW)
    assert made.verify(token, RULE, NOW + 600) is first
    assert made.verify(token, RULE, NOW + 600 + LEEWAY_S) is None


def test_failures_are_remembered_briefly():
    """The failure of a token before its ``nbf`` is cached for seconds only."""
    made, token = verifier(), sign(nbf=NOW + LEEWAY_S + 1)
    assert made.verify(token, RULE, NOW) is None
    assert made.verify(token, RULE, NOW + FAILURE_TTL_S - 1) is None
    assert made.verify(token, RULE, NOW + FAILURE_TTL_S) is not None


def test_rules_do_not_share_their_answers():
    """Cached claims of one audience are not used for another."""
    made, token = verifier(), sign(aud="web")
    assert made.verify(token, RULE, NOW) is not None
    assert made.verify(token, JwtRule(jwks_url=URL, audience="llm"), NOW) is None


def test_withdrawn_keys_withdraw_their_tokens():
    """New keys discard the results cached under the old ones."""
    made, token = verifier(), sign()
    assert made.verify(token, RULE, NOW) is not None
    made.set_keys(URL, {"keys": [jwk(key=OTHER_RSA)]})
    assert made.verify(token, RULE, NOW) is None


@pytest.mark.parametrize(
    ("jwks", "why"),
    [
        (b"{", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b" " * 1_100_000, "larger than"),
        ({}, 'no list "keys"'),
        ({"keys": []}, "no public signature key"),
        ({"keys": [7, {"kty": "oct", "k": "c2VjcmV0"}]}, "no public signature key"),
        ({"keys": [jwk(use="enc")]}, "no public signature key"),
        ({"keys": [{"kty": "RSA", "n": "!", "e": 1}, {"kty": "?"}]}, "no public sig"),
    ],
)
def test_unusable_key_sets_are_errors_and_change_nothing(jwks, why):
    """An invalid key set is refused, and the old keys stay."""
    made = verifier()
    with pytest.raises(KeySetError, match=why):
        made.set_keys(URL, jwks)
    assert made.verify(sign(), RULE, NOW) is not None


def counted(monkeypatch) -> list[object]:
    """The signature checks that are made."""
    checks: list[object] = []
    real = jwt_module._decode

    def check(*given):
        checks.append(given)
        return real(*given)

    monkeypatch.setattr(jwt_module, "_decode", check)
    return checks


def test_tokens_of_another_issuer_cost_no_signature_check(monkeypatch):
    """The issuer is read before the signature."""
    checks = counted(monkeypatch)
    rule = JwtRule(jwks_url=URL, issuer="https://id.example")
    assert verifier().verify(sign(iss="https://other.example"), rule, NOW) is None
    assert verifier().verify("eyJhbGciOiJSUzI1NiJ9.e30.", rule, NOW) is None
    assert verifier().verify("eyJhbGciOiJSUzI1NiJ9.$.x", rule, NOW) is None
    assert not checks
    assert verifier().verify(sign(iss=rule.issuer), rule, NOW) is not None
    assert len(checks) == 1


def test_a_token_is_checked_against_few_keys(monkeypatch):
    """A key set may hold more than a token without an id is tried with."""
    checks = counted(monkeypatch)
    keys = [jwk(key=OTHER_RSA, kid=f"k{n}", alg="RS256") for n in range(40)]
    assert verifier(*keys).verify(sign(), RULE, NOW) is None
    assert len(checks) == MAX_TRIES


def test_forged_tokens_do_not_displace_valid_ones(monkeypatch):
    """Failures are remembered apart."""
    made = JwtVerifier(capacity=4)
    made.set_keys(URL, {"keys": [jwk()]})
    good = sign()
    assert made.verify(good, RULE, NOW) is not None
    for number in range(20):
        assert made.verify(sign(key=OTHER_RSA, sub=f"u{number}"), RULE, NOW) is None
    checks = counted(monkeypatch)
    assert made.verify(good, RULE, NOW) is not None
    assert not checks
    late = NOW + 600 + LEEWAY_S
    assert made.verify(good, RULE, late) is None
    assert made.verify(good, RULE, late) is None
    assert len(checks) == 1

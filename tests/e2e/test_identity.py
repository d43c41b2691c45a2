"""Identification of tenant, user and address: keys, tokens, headers, trusted proxies."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.gateway_process import Gateway, MockLLM, call, key_hash, running_gateway

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello river"}]}
CHAT = "/v1/chat/completions"
CONFIG = """
[[upstream]]
name = "mock"
url = "{url}"
[[upstream]]
name = "ours"
url = "{url}"
prefix = "/ours"
strip_prefix = true
api_key = "sk-upstream-own"
[policy.default]
limits = []
[policy.named]
user_from = ["body", "credential"]
[policy.anonymous]
limits = [{{ per = "client_ip", requests = 2, window = "1d" }}]
[[tenant]]
name = "keyed"
api_keys = ["{keyed}"]
[[tenant]]
name = "named"
policy = "named"
api_keys = ["{named}"]
[[tenant]]
name = "tokens"
jwt = {{ jwks_file = "{jwks}", issuer = "https://issuer", algorithms = ["ES256"] }}
[[tenant]]
name = "behind"
header = {{ name = "x-team", value = "behind", user_header = "x-user" }}
[[tenant]]
name = "office"
cidrs = ["203.0.113.0/24", "2001:db8:7::/48"]
"""
# 127.0.0.1 is a trusted proxy here, so each test sets its address by header.
SERVER = 'trusted_proxies = ["127.0.0.0/8"]\nunknown_clients = "anonymous"\n'
SIGNER = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(name="gateway", scope="module")
def _gateway(
    mock: MockLLM, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    jwks = tmp_path_factory.mktemp("jwks") / "jwks.json"
    _write_jwks(jwks)
    config = CONFIG.format(
        url=mock.url, keyed=key_hash("sk-keyed"), named=key_hash("sk-named"), jwks=jwks
    )
    with running_gateway(config, server=SERVER) as gateway:
        yield gateway


def _write_jwks(path: Path) -> None:
    public = jwt.algorithms.ECAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True)
    path.write_text(json.dumps({"keys": [public | {"kid": "one", "alg": "ES256"}]}))


def _token(**claims: object) -> str:
    stated = {"iss": "https://issuer", "sub": "alice", "exp": time.time() + 3600}
    return jwt.encode(stated | claims, SIGNER, "ES256", {"kid": "one"})


@pytest.fixture(name="ask")
def _ask(gateway: Gateway):
    """``ask(key, {header: value}, …)`` sends one call and returns status and record."""

    def ask(key: str = "", headers: dict | None = None, **body: object):
        id_ = f"who-{time.monotonic_ns()}"
        fields = {"x-request-id": id_, "x-mock-tag": id_} | (headers or {})
        url = gateway.url + CHAT
        status = call("POST", url, ASKED | body, key=key, headers=fields)[0]
        return status, gateway.record(request_id=id_)

    return ask


def test_key_of_a_tenant(ask):
    """A known key gives its tenant and a user id that does not reveal the key."""
    _, record = ask("sk-keyed")
    assert record["tenant"] == "keyed"
    assert record["user"].startswith("key_")
    assert len(record["user"]) == len("key_") + 16


def test_body_names_the_user(ask):
    """With ``user_from = ["body", …]`` the ``user`` of the body is the user; without
    one the key is.
    """
    _, record = ask("sk-named", user="bob@example.org")
    assert (record["tenant"], record["user"]) == ("named", "bob@example.org")
    _, record = ask("sk-named")
    assert record["user"].startswith("key_")


def test_verified_token_names_tenant_and_user(ask):
    """A JWT with a valid signature of the issuer gives its tenant."""
    _, record = ask(_token())
    assert (record["tenant"], record["status"]) == ("tokens", 200)


@pytest.mark.parametrize(
    "claims", [{"exp": 1_000_000_000}, {"iss": "https://other"}], ids=["old", "other"]
)
def test_token_that_does_not_verify_is_of_no_tenant(ask, claims):
    """An expired token, or one of another issuer, gives no tenant."""
    _, record = ask(_token(**claims), {"X-Forwarded-For": "198.51.100.20"})
    assert record["tenant"] != "tokens"


def test_header_of_a_trusted_proxy(ask):
    """Headers set by the trusted proxy give tenant and user."""
    _, record = ask("", {"x-team": "behind", "x-user": "carol"})
    assert (record["tenant"], record["user"]) == ("behind", "carol")


@pytest.mark.parametrize(
    ("hops", "client_ip"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 127.0.0.7", "203.0.113.9"),
        ("2001:db8:7:1:2:3:4:5", "2001:db8:7:1::/64"),
        ("::ffff:203.0.113.8", "203.0.113.8"),
    ],
)
def test_right_most_untrusted_hop_is_the_client(ask, hops, client_ip):
    """The right-most untrusted hop of X-Forwarded-For is the client's address."""
    _, record = ask("", {"X-Forwarded-For": hops})
    assert (record["client_ip"], record["tenant"]) == (client_ip, "office")


def test_unknown_clients_share_the_anonymous_policy(ask):
    """A client without a tenant is user ``anonymous`` under the anonymous policy,
    limited by address.
    """
    source = {"X-Forwarded-For": "198.51.100.77"}
    answers = [ask("", source) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 429]
    assert answers[0][1]["user"] == "anonymous"
    assert ask("", {"X-Forwarded-For": "198.51.100.78"})[0] == 200


def test_client_key_is_replaced_upstream(gateway, mock):
    """An upstream with its own key never receives the client's key."""
    headers = {"x-mock-tag": "ours"}
    url = f"{gateway.url}/ours{CHAT}"
    assert call("POST", url, ASKED, key="sk-keyed", headers=headers)[0] == 200
    seen = mock.seen("ours")
    assert seen["path"] == CHAT
    fields = [value for name, value in seen["fields"] if name.lower() != "host"]
    assert "Bearer sk-upstream-own" in fields
    assert not any("sk-keyed" in value for value in fields)


def test_raw_keys_reach_no_log_and_no_record(gateway, ask):
    """No client key is written to the log or the records."""
    for key in ("sk-keyed", "sk-a-secret-of-nobody"):
        ask(key, {"X-Forwarded-For": f"198.51.100.{len(key)}"})
    written = gateway.log() + gateway.records_file.read_text()
    assert "sk-keyed" not in written
    assert "sk-a-secret" not in written


# -- the PROXY protocol ---------------------------------------------------------------


@pytest.fixture(name="proxied", scope="module")
def _proxied(mock: MockLLM) -> Iterator[Gateway]:
    config = f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n'
    server = 'trusted_proxies = ["127.0.0.0/8"]\nproxy_protocol = true\n'
    with running_gateway(config, server=server) as gateway:
        yield gateway


_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(
    ">H4s4sHH", 12, bytes([203, 0, 113, 6]), bytes([10, 0, 0, 1]), 4711, 80
)


@pytest.mark.parametrize(
    ("header", "client_ip"),
    [
        (b"PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\n", "203.0.113.5"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n", "2001:db8::/64"),
        (_V2, "203.0.113.6"),
    ],
    ids=["v1", "v1-ip6", "v2"],
)
def test_proxy_header_names_the_client(proxied, header, client_ip):
    """A PROXY header, version 1 or 2, of a trusted proxy gives the client's address."""
    request = b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxied.port), 60) as plain:
        plain.sendall(header + request)
        assert plain.recv(64).startswith(b"HTTP/1.1 200 ")
    assert proxied.record(client_ip=client_ip)["status"] == 200


KEYED = """
[[upstream]]
name = "mock"
url = "{url}"
[policy.default]
limits = [{{ per = "user", requests = 100, window = "1h" }}]
models = {{ allow = ["gpt-*"] }}
[policy.small]
limits = [{{ per = "user", requests = 1, window = "1h" }}]
[[tenant]]
name = "acme"
api_keys = [
  "{plain}",
  {{ name = "ci", hash = "{ci}", tags = ["build"], limits = [{{ requests = 2, window = "1h" }}] }},
  {{ name = "old", hash = "{old}", expires = 2020-01-01 }},
  {{ name = "app", hash = "{app}", policy = "small", models = ["gpt-4o", "o3"] }},
  {{ name = "far", hash = "{far}", networks = ["203.0.113.0/24"] }},
]
"""


def _key_id(key: str) -> str:
    """The output of ``keys id``, which reads the key from standard input."""
    argv = [sys.executable, "-m", "gateway", "keys", "id"]
    settings = os.environ | {
        "TIDEGATE_STORE__URL": "memory:",
        "TIDEGATE_UPSTREAM__0__URL": "http://llm:8000",
    }
    done = subprocess.run(
        argv, input=key, env=settings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_keys_with_names(mock):
    """Names and tags are in records; expiry, networks, models, limits and policy hold."""
    names = ("plain", "ci", "old", "app", "far")
    config = KEYED.format(url=mock.url, **{n: key_hash(f"sk-{n}") for n in names})
    with running_gateway(config) as gateway:

        def ask(name: str, path: str = CHAT, **body: object):
            id_ = f"key-{time.monotonic_ns()}"
            fields = {"x-request-id": id_, "x-mock-tag": id_}
            url = gateway.url + path
            answer = call("POST", url, ASKED | body, key=f"sk-{name}", headers=fields)
            return answer[0], answer[2], gateway.record(request_id=id_)

        plain = ask("plain")[2]
        assert plain["key"] == ""
        assert _key_id("sk-plain") == plain["user"]
        status, _, record = ask("ci")
        assert (status, record["key"], record["tags"]) == (200, "ci", ["build"])
        assert ask("ci")[0] == 200
        status, body, record = ask("ci")
        assert (status, record["limit"]) == (429, "key.requests.1h")
        assert b"API key" in body
        status, body, _ = ask("old")
        assert (status, b"key_expired" in body) == (401, True)
        assert ask("far")[0] == 403
        asked = ("o3", 403), ("gpt-5", 403), ("gpt-4o", 200), ("gpt-4o", 429)
        for model, expected in asked:
            status, _, record = ask("app", model=model)
            assert (model, status) == (model, expected)
        assert record["limit"] == "user.requests.1h"


def test_a_site_of_many_networks_has_a_bounded_limit(mock):
    """40 addresses in 40 networks (/64) of one /48, 3 calls a minute each: 24 pass."""
    policy = '[policy.default]\nlimits = [{ per = "client_ip", requests = 3, window = "1m" }]\n'
    config = f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n{policy}'
    with running_gateway(config, server=SERVER) as gateway:

        def ask(address: str) -> int:
            fields = {"x-forwarded-for": address, "x-mock-tag": "site"}
            return call("POST", gateway.url + CHAT, ASKED, headers=fields)[0]

        answers = [ask(f"2001:db8:9:{number:x}::1") for number in range(40)]
        assert answers == [200] * 24 + [429] * 16
        assert ask("2001:db8:a::1") == 200
        assert ask("198.51.100.7") == 200

"""Inheritance, tenants and routes, resolved for the workers."""

from __future__ import annotations

import pytest

from gateway.config import effective_policy, load_config, resolve
from gateway.config.resolve import split_target
from gateway.core.model import Caps, HeaderRule, Limit, Price

HASH = "sha256:" + "0" * 64
MINUTE_US = 60_000_000


def read(text, upstream='[[upstream]]\nurl = "http://llm"\n'):
    """The configuration that ``text`` states."""
    return load_config("gate.toml", {}, {}, text=upstream + text)


def policy(text, name="a"):
    """The effective policy ``name`` of ``text``."""
    return effective_policy(read(text), name).policy


@pytest.mark.parametrize(
    ("stated", "limit", "name"),
    [
        (
            "per='user', requests=5, window='1m'",
            Limit("user", "requests", 5, MINUTE_US),
            "user.requests.1m",
        ),
        (
            "per='tenant', usd=0.5, window='day'",
            Limit("tenant", "usd", 500_000_000, 0, "day"),
            "tenant.usd.day",
        ),
        (
            "per='user+model', concurrent=2",
            Limit("user+model", "concurrent", 2),
            "user+model.concurrent",
        ),
        (
            "per='model', prompt_tokens=7, window='1h30m'",
            Limit("model", "prompt_tokens", 7, 90 * MINUTE_US),
            "model.prompt_tokens.90m",
        ),
    ],
)
def test_limits_in_store_units(stated, limit, name):
    """Money becomes nano-dollars, windows microseconds, names as records show them."""
    (found,) = policy(f"[policy.a]\nlimits = [{{ {stated} }}]").limits
    assert found == limit
    assert found.name == name


def test_everything_is_inherited_from_default():
    """A policy without keys equals the default policy."""
    text = """
    [policy.default]
    mode = "observe"
    limits = [{ per = "user", requests = 5, window = "1m" }]
    weights = { cached = 0.1 }
    unknown_price = "deny"
    user_from = ["jwt"]
    allow = ["10.0.0.0/8", "192.0.2.1", "user:ops"]
    caps = { n = 3, max_body = "1MiB", max_stream = "10m" }
    prices.m = { input = 1, output = 2 }
    [policy.default.anomaly]
    warning = 2.0
    ladder = { tag = 2.0 }
    [policy.a]
    """
    found = policy(text)
    assert (found.name, found.mode, found.unknown_price) == ("a", "observe", "deny")
    assert len(found.limits) == 1
    assert found.weights == {"cached": 0.1}
    assert found.user_from == ("jwt",)
    assert found.allow == ("network:10.0.0.0/8", "client_ip:192.0.2.1", "user:ops")
    assert found.caps == Caps(n=3, body_bytes=1 << 20, stream_s=600.0)
    assert found.prices == {"m": Price(1, 2)}
    assert (found.anomaly.warning, found.anomaly.ladder.tag) == (2.0, 2.0)
    assert found.anomaly.critical == 5.0


def test_limits_replace_and_extra_limits_add():
    """``limits`` replaces the parent's limits, ``extra_limits`` adds to them."""
    text = """
    [policy.default]
    limits = [{ per = "user", requests = 1, window = "1m" }]
    extra_limits = [{ per = "user", requests = 2, window = "2m" }]
    [policy.add]
    extra_limits = [{ per = "user", requests = 3, window = "3m" }]
    [policy.own]
    limits = [{ per = "user", requests = 4, window = "4m" }]
    [policy.heir]
    inherit = "own"
    extra_limits = [{ per = "user", requests = 5, window = "5m" }]
    [policy.none]
    limits = []
    """
    config = read(text)
    amounts = {
        name: [limit.amount for limit in effective_policy(config, name).policy.limits]
        for name in config.policies
    }
    assert amounts == {
        "default": [1, 2],
        "add": [1, 2, 3],
        "own": [4],
        "heir": [4, 5],
        "none": [],
    }


def test_extra_limits_without_any_limits():
    """Extra limits apply even if no policy states ``limits``."""
    text = '[policy.a]\nextra_limits = [{ per = "user", concurrent = 1 }]'
    assert len(policy(text).limits) == 1


def test_inherit_nothing():
    """``inherit = ""`` inherits nothing."""
    text = '[policy.default]\nmode = "observe"\n[policy.a]\ninherit = ""'
    assert policy(text).mode == "enforce"


def test_tables_merge_key_by_key():
    """Caps, weights, prices and anomaly settings change one key at a time."""
    text = """
    [policy.default]
    weights = { cached = 0.1 }
    caps = { n = 3, clamp = true }
    [policy.a]
    weights = { reasoning = 2 }
    caps = { max_tokens = 9, clamp = false }
    anomaly = { ladder = { block = 9.0 }, enabled = false }
    """
    found = policy(text)
    assert found.weights == {"cached": 0.1, "reasoning": 2.0}
    assert found.caps == Caps(max_tokens=9, n=3)
    assert (found.anomaly.ladder.block, found.anomaly.enabled) == (9.0, False)


def test_model_overrides():
    """A model's limits count it alone; its caps are complete and in file order."""
    text = """
    [policy.default]
    limits = [{ per = "user", requests = 1, window = "1m" }]
    caps = { n = 3 }
    [[policy.default.model]]
    match = "gpt-4*"
    limits = [{ per = "user", tokens = 9, window = "day" }]
    caps = { max_tokens = 7 }
    [[policy.default.model]]
    match = ["a", "b"]
    [policy.a]
    """
    found = policy(text)
    assert found.limits[1] == Limit("user", "tokens", 9, 0, "day", ("gpt-4*",))
    assert [entry.models for entry in found.model_caps] == [("gpt-4*",), ("a", "b")]
    assert found.model_caps[0].caps == Caps(max_tokens=7, n=3)


def test_origins_name_the_policy_that_states_a_value():
    """Each value has the policy that states it, each limit its key."""
    text = """
    [policy.default]
    mode = "observe"
    [policy.a]
    limits = [{ per = "user", requests = 1, window = "1m" }]
    """
    effective = effective_policy(read(text), "a")
    assert effective.origins["mode"] == "default"
    assert effective.origins["limits"] == "a"
    assert effective.origins["allow"] == "built in"
    assert effective.limit_keys == (("policy", "a", "limits", 0),)


@pytest.mark.parametrize(
    ("text", "unknown", "anonymous"),
    [
        ("", "anonymous", "default"),
        (f'[[tenant]]\nname = "t"\napi_keys = ["{HASH}"]', "deny", None),
        (
            f'[[tenant]]\nname = "t"\napi_keys = ["{HASH}"]\n[policy.anonymous]',
            "anonymous",
            "anonymous",
        ),
        (
            f'[[tenant]]\nname = "t"\napi_keys = ["{HASH}"]\n'
            '[server]\nunknown_clients = "anonymous"',
            "anonymous",
            "default",
        ),
        (
            f'[[tenant]]\nname = "t"\napi_keys = ["{HASH}"]\n[policy.anonymous]\n'
            '[server]\nunknown_clients = "deny"',
            "deny",
            None,
        ),
    ],
)
def test_unknown_clients(text, unknown, anonymous):
    """Unknown clients are denied only if every tenant states credentials."""
    tables = resolve(read(text))
    assert tables.unknown_clients == unknown
    assert (tables.anonymous and tables.anonymous.name) == anonymous


def test_tenant_rules():
    """JWT, header and network rules are resolved for the identifier."""
    text = """
    [[tenant]]
    name = "t"
    cidrs = ["10.0.0.0/8"]
    jwt = { jwks_url = "https://x/jwks", issuer = "i", require = { org = "o" } }
    header = { name = "x-t", value = "v" }
    """
    (tenant,) = resolve(read(text)).tenants
    assert tenant.header == HeaderRule("x-t", "v")
    assert tenant.jwt.jwks_url == "https://x/jwks"
    assert tenant.jwt.algorithms == ("RS256", "ES256", "EdDSA")
    assert tenant.cidrs == ("10.0.0.0/8",)


def test_longest_prefix_on_whole_segments():
    """Routes match whole path segments, the longest prefix first."""
    text = """
    [[upstream]]
    url = "http://a"
    [[upstream]]
    url = "http://b"
    prefix = "/v1"
    [[upstream]]
    url = "http://c"
    prefix = "/v1/audio/"
    """
    tables = resolve(read(text, ""))
    names = {
        path: tables.find_route(path).name
        for path in ("/", "/v1", "/v1/", "/v10", "/v1/x", "/v1/audio", "/v1/audio/x")
    }
    assert [name[0] for name in names.values()] == list("abbabcc")


def test_no_route():
    """A path that no prefix covers has no route."""
    tables = resolve(read("", '[[upstream]]\nurl = "http://a"\nprefix = "/v1"\n'))
    assert tables.find_route("/v2") is None


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (
            "https://api.openai.com",
            ("https", "api.openai.com", 443, "api.openai.com", ""),
        ),
        ("http://h:80/v1/", ("http", "h", 80, "h", "/v1")),
        ("http://h:8000", ("http", "h", 8000, "h:8000", "")),
        ("https://[::1]:443", ("https", "::1", 443, "[::1]", "")),
        ("http://[::1]:99/x", ("http", "::1", 99, "[::1]:99", "/x")),
    ],
)
def test_targets(url, parts):
    """A URL is split into the parts of a connection and its Host header."""
    target = split_target(url)
    found = (target.scheme, target.host, target.port, target.authority, target.path)
    assert found == parts


@pytest.mark.parametrize(
    ("upstream", "header", "value"),
    [
        ("url = 'https://api.openai.com'", "authorization", "Bearer k"),
        ("url = 'https://api.anthropic.com'", "x-api-key", "k"),
        ("url = 'https://x.openai.azure.com'", "api-key", "k"),
        (
            "url = 'https://generativelanguage.googleapis.com'",
            "x-goog-api-key",
            "k",
        ),
        ("url = 'http://h'\ndialect = 'anthropic'", "x-api-key", "k"),
        ("url = 'http://h'\ndialect = 'azure'", "api-key", "k"),
        ("url = 'http://h'\napi_key_header = 'X-Key'", "x-key", "k"),
    ],
)
def test_credentials_by_dialect(upstream, header, value):
    """The key goes into the header that the API expects, and is not printed."""
    config = load_config(
        "f", {}, {"K": "k"}, text=f"[[upstream]]\n{upstream}\napi_key = {{ env = 'K' }}"
    )
    credential = resolve(config).routes[0].credential
    assert (credential.header, credential.value) == (header, value)


def test_no_credential_by_default():
    """Without a key the client's own credential goes upstream."""
    route = resolve(read("")).routes[0]
    assert route.credential is None
    assert route.dialect is None


def test_targets_beside_url():
    """``targets`` adds servers; duplicates count once."""
    text = "[[upstream]]\nurl='http://a'\ntargets=['http://b', 'http://a/']\n"
    route = resolve(read("", text)).routes[0]
    assert [target.host for target in route.targets] == ["a", "b"]


@pytest.mark.parametrize("store", ["memory:", "embedded:x"])
def test_auto_workers(store):
    """``auto`` is one worker per core, and one worker with ``memory:``."""
    text = f'[server]\nworkers = "auto"\n[store]\nurl = "{store}"'
    workers = resolve(read(text)).workers
    assert workers == 1 if store == "memory:" else workers >= 1


def test_azure_speaks_openai():
    """The azure dialect is the openai dialect with another key header."""
    text = "[[upstream]]\nurl='http://a'\ndialect='azure'\n"
    assert resolve(read("", text)).routes[0].dialect == "openai"

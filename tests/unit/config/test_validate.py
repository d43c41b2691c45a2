"""Faults with their line and key, and warnings."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, load

HASH = "sha256:" + "0" * 64
UPSTREAM = '[[upstream]]\nurl = "http://llm:8000"\n'

# (lines after the upstream, key of the fault, part of its message)
REFUSED = [
    ("[server]\nlisten = '8080'", "server.listen", "not host:port"),
    ("[server]\nlisten = '::1:8080'", "server.listen", "IPv6"),
    ("[server]\nlisten = 'h:70000'", "server.listen", "not host:port"),
    ("[server]\nlisten = '127.0.0.1:9901'", "server.listen", "same as"),
    ("[server]\nworkers = 0", "server.workers", "out of range"),
    ("[server]\nworkers = true", "server.workers", "not usable"),
    ("[server]\nhead_timeout = 10", "server.head_timeout", "not a duration"),
    ("[server]\nhead_timeout = '10'", "server.head_timeout", "not a duration"),
    ("[server]\nmax_body = '1 elephant'", "server.max_body", "not a size"),
    ("[server]\nmax_body = -1", "server.max_body", "is negative"),
    ("[server]\nmax_body = true", "server.max_body", "not a size"),
    ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "server.trusted_proxies[0]", "host"),
    ("[server]\ntrusted_proxies = '10.0.0.0/8'", "server.trusted_proxies", "list"),
    ("[server]\nhealth_path = 'health'", "server.health_path", "not a path"),
    ("[server]\nproxy_protocol = true", "server.proxy_protocol", "trusted_proxies"),
    ("[server]\ntimezone = 'Mars/Base'", "server.timezone", "time zone"),
    ("[server]\nlog = 'debug'", "server.log", "must be a table"),
    ("[server]\nunknown = 1", "server.unknown", "did you mean"),
    ("[server]\nzzz = 1", "server.zzz", "known here"),
    ("[server.tls]\ncert = 'c'", "server.tls", '"key" is missing'),
    ("[admin]\nlisten = ':9901'", "admin.token", "is missing"),
    ("[store]\nurl = 'mysql://x'", "store.url", "not a store"),
    ("[store]\nurl = 'redis+cluster://x'", "store.url", "not supported yet"),
    ("[store]\nurl = ''", "store.url", "not usable"),
    ("[store]\nurl = 'memory:'\n[server]\nworkers = 2", "server.workers", "share"),
    ("[store]\nprefix = 'a{b'", "store.prefix", "braces"),
    ("[store]\nwhen_down = 'panic'", "store.when_down", "not usable"),
    ("[[upstream]]\nprefix = '/a'", "upstream[1]", '"url" is missing'),
    ("[[upstream]]\nurl = 'ftp://a'\nprefix = '/a'", "upstream[1].url", "http"),
    ("[[upstream]]\nurl = 'http://a?x'\nprefix = '/a'", "upstream[1].url", "query"),
    ("[[upstream]]\nurl = 'http://a:x'\nprefix = '/a'", "upstream[1].url", "ort"),
    ("[[upstream]]\nurl = 'http://a'", "upstream[1].prefix", "twice"),
    (
        "[[upstream]]\nurl = 'http://a'\nname = 'llm'\nprefix = '/a'",
        "upstream[1].name",
        "twice",
    ),
    ("[[upstream]]\nurl = 'http://a'\nprefix = 'a'", "upstream[1].prefix", "path"),
    (
        "[[upstream]]\nurl = 'http://a'\nprefix = '/a'\nproxy = 'socks5://p'",
        "upstream[1].proxy",
        "not a proxy",
    ),
    (
        "[[upstream]]\nurl = 'http://a'\nprefix = '/a'\napi_key_header = 'a b'",
        "upstream[1].api_key_header",
        "header name",
    ),
    (
        "[[upstream]]\nurl = 'http://a'\nprefix = '/a'\napi_key = \"a\\nb\"",
        "upstream[1].api_key",
        "header",
    ),
    ("[policy.'a b']", 'policy."a b"', "usable name"),
    ("[policy.a]\nmode = 'shadow'", "policy.a.mode", "not usable"),
    ("[policy.a]\ninherit = 'b'", "policy.a.inherit", "not a policy"),
    ("[policy.a]\ninherit = 'a'", "policy.a.inherit", "circular"),
    ("[policy.a]\nweights = { input = 1 }", "policy.a.weights.input", "not usable"),
    ("[policy.a]\nweights = 1", "policy.a.weights", "must be a table"),
    ("[policy.a]\nunknown_price = 'maybe'", "policy.a.unknown_price", "not usable"),
    ("[policy.a]\nunknown_price = 1", "policy.a.unknown_price", "not usable"),
    ("[policy.a]\nunknown_price = [1]", "policy.a.unknown_price", "cannot be a list"),
    (
        "[policy.a]\nunknown_price = { input = 1 }",
        "policy.a.unknown_price",
        '"output" is missing',
    ),
    ("[policy.a]\nallow = ['nobody']", "policy.a.allow[0]", "IPv4 or IPv6"),
    ("[policy.a]\nallow = ['network:x']", "policy.a.allow[0]", "IPv4 or IPv6"),
    ("[policy.a]\nallow = ['user:']", "policy.a.allow[0]", "no user"),
    (
        "[policy.a]\nallow = ['cient_ip:203.0.113.9']",
        "policy.a.allow[0]",
        "'cient_ip' is not a kind of subject",
    ),
    ("[[policy.a.model]]\nmatch = ''", "policy.a.model[0].match", "no model"),
    (
        "[policy.a.anomaly]\nladder = { tag = 9.0 }",
        "policy.a.anomaly.ladder",
        "tag <= throttle <= block",
    ),
    ("[policy.a.anomaly]\nwarning = 9.0", "policy.a.anomaly", "above critical"),
    ("[[tenant]]\nname = 'a/b'", "tenant[0].name", "usable name"),
    ("[[tenant]]\nname = 'a'\npolicy = 'b'", "tenant[0].policy", "not a policy"),
    (
        f"[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'a'\napi_keys = ['{HASH}']",
        "tenant[1].name",
        "twice",
    ),
    ("[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'b'", "tenant", "several match every"),
    (
        "[[tenant]]\nname = 'a'\napi_keys = ['sk-plain']",
        "tenant[0].api_keys[0]",
        "keys hash",
    ),
    (
        f"[[tenant]]\nname = 'a'\napi_keys = ['{HASH}']\n"
        f"[[tenant]]\nname = 'b'\napi_keys = ['{HASH}']",
        "tenant[1].api_keys[0]",
        "already",
    ),
    ("[[tenant]]\nname = 'a'\njwt = {}", "tenant[0].jwt", "one source"),
    (
        "[[tenant]]\nname = 'a'\njwt = { jwks_url = 'x' }",
        "tenant[0].jwt.jwks_url",
        "not a URL",
    ),
    (
        "[[tenant]]\nname = 'a'\njwt = { jwks_file = 'x', algorithms = ['HS256'] }",
        "tenant[0].jwt.algorithms[0]",
        "not usable",
    ),
    (
        "[[tenant]]\nname = 'a'\nheader = { name = 'a:', value = 'b' }",
        "tenant[0].header.name",
        "header name",
    ),
    ("[[tenant]]\nname = 'a'\ncidrs = ['x']", "tenant[0].cidrs[0]", "IPv4 or IPv6"),
    (
        "[[campaign]]\nfrom = 2026-01-02T00:00:00Z\nto = 2026-01-01T00:00:00",
        "campaign[0].to",
        "not after",
    ),
    (
        "[[campaign]]\ntenant = 'x'\nfrom = 2026-01-01T00:00:00\n"
        "to = 2026-01-02T00:00:00",
        "campaign[0].tenant",
        "not a tenant",
    ),
    ("[[alert]]\ntype = 'webhook'", "alert[0]", '"url" is missing'),
    ("[[alert]]\ntype = 'slack'\nurl = 'x'", "alert[0].url", "not a URL"),
    (
        "[[alert]]\ntype = 'webhook'\nurl = 'https://x'\nsecret = 'x'",
        "alert[0].secret",
        "Standard Webhooks",
    ),
    (
        "[[alert]]\ntype = 'slack'\nurl = 'https://x'\nname = 'a'\n"
        "[[alert]]\ntype = 'teams'\nurl = 'https://y'\nname = 'a'",
        "alert[1].name",
        "twice: alert[0] and alert[1]",
    ),
    (
        "[[alert]]\ntype = 'slack'\nurl = 'https://x'\n"
        "[[alert]]\ntype = 'teams'\nurl = 'https://y'\nname = 'slack'",
        "alert[1].name",
        "twice: alert[0] and alert[1]",
    ),
    (
        "[[alert]]\ntype = 'teams'\nurl = 'https://y'\nname = 'slack'\n"
        "[[alert]]\ntype = 'slack'\nurl = 'https://x'",
        "alert[1]",
        "twice: alert[0] and alert[1]",
    ),
    ("[[alert]]\ntype = 'pagerduty'", "alert[0]", '"secret" is missing'),
    (
        "[[alert]]\ntype = 'email'\nurl = 'smtp://x'",
        "alert[0]",
        '"to" and "from"',
    ),
    (
        "[[alert]]\ntype = 'slack'\nurl = 'https://x'\nevents = ['nope']",
        "alert[0].events",
        "is not an event",
    ),
    (
        "[[silence]]\nfrom = 2026-12-02T00:00:00Z\nto = 2026-12-01T00:00:00Z",
        "silence[0].to",
        "not after",
    ),
    (
        "[[silence]]\nfrom = 2026-12-01T00:00:00Z\nto = 2026-12-02T00:00:00Z\n"
        "class = 'scrapping'",
        "silence[0].class",
        "no class",
    ),
    (
        "[[silence]]\nfrom = 2026-12-01T00:00:00Z\nto = 2026-12-02T00:00:00Z\n"
        "subject = '203.0.113.9'",
        "silence[0].subject",
        "is not a subject",
    ),
    ("[[alert]]\nurl = 'https://x'", "alert[0]", '"type" is missing'),
]

# (a limit, key below the limit, part of the message)
BAD_LIMITS = [
    ("per = 'ip', requests = 1, window = '1m'", ".per", "not a subject"),
    ("per = 'user+user', requests = 1, window = '1m'", ".per", "pair"),
    ("per = 'user+model+tenant', requests = 1, window = '1m'", ".per", "pair"),
    ("requests = 1, window = '1m'", "", '"per" is missing'),
    ("per = 'user', window = '1m'", "", "states 0 meters"),
    ("per = 'user', requests = 1, tokens = 1, window = '1m'", "", "states 2 meters"),
    ("per = 'user', requests = 0, window = '1m'", ".requests", "out of range"),
    ("per = 'user', requests = 1.5, window = '1m'", ".requests", "not usable"),
    ("per = 'user', usd = 0, window = '1m'", ".usd", "out of range"),
    ("per = 'user', requests = 1", "", '"window" is missing'),
    ("per = 'user', requests = 1, window = '2d'", ".window", "not a window"),
    ("per = 'user', requests = 1, window = '500ms'", ".window", "not a window"),
    ("per = 'user', requests = 1, window = 'year'", ".window", "not a window"),
    ("per = 'user', concurrent = 1, window = '1m'", ".window", "no window"),
    ("per = 'user', request = 1, window = '1m'", ".request", "did you mean"),
]

# (lines after the upstream, key of the warning, part of its message)
WARNED = [
    ("tls_verify = false", "upstream[0].tls_verify", "any certificate"),
    ('provider = "grog"', "upstream[0].provider", "tidegate prices --providers"),
    ("[policy.anonymous]", "policy.anonymous", "no effect"),
    ("[policy.defualt]", "policy.defualt", 'did you mean "default"?'),
    ("[policy.gold]", "policy.gold", "applies to no tenant or key"),
    (
        "[server]\nunknown_clients = 'deny'",
        "server.unknown_clients",
        "no effect",
    ),
    (
        f"[server]\nunknown_clients = 'anonymous'\n[[tenant]]\nname = 'a'\n"
        f"api_keys = ['{HASH}']",
        "server.unknown_clients",
        "without any limit",
    ),
    (
        "[[tenant]]\nname = 'a'\nheader = { name = 'x-t', value = 'a' }",
        "tenant[0].header",
        "never trusted",
    ),
    (
        "[policy.default]\nlimits = [{ per = 'user', requests = 1, window = '1m' }, "
        "{ per = 'user', requests = 2, window = '60s' }]",
        "policy.default",
        "twice",
    ),
    (
        "[policy.default]\nuser_from = ['body', 'credential']\nallow = ['user:ops']",
        "policy.default.allow",
        "no user that a body names",
    ),
    (
        "[[tenant]]\nname = 'a'\njwt = { jwks_file = 'k.json' }",
        "tenant[0].jwt",
        "for other services",
    ),
    ("[events.kafka]\nbrokers = ['k:1']", "events.kafka", "not available"),
]


def read(text):
    """Load ``text`` after one upstream."""
    return load("gate.toml", {}, {"HOOK": "whsec_eA=="}, text=UPSTREAM + text + "\n")


@pytest.mark.parametrize(("text", "key", "message"), REFUSED)
def test_refused(text, key, message):
    """Each fault is reported at its key, with a line of the file."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message
    assert 3 <= problem.line <= 3 + text.count("\n")


@pytest.mark.parametrize(("limit", "key", "message"), BAD_LIMITS)
def test_refused_limit(limit, key, message):
    """A limit is one subject, one meter and a window that the meter takes."""
    with pytest.raises(ConfigError) as caught:
        read(f"[policy.a]\nlimits = [\n  {{ {limit} }},\n]")
    (problem,) = caught.value.problems
    assert problem.key == "policy.a.limits[0]" + key
    assert message in problem.message
    assert problem.line == 5


@pytest.mark.parametrize(("text", "key", "message"), WARNED)
def test_warned(text, key, message):
    """Valid but probably mistaken values are warnings at their key."""
    (warning,) = read(text).warnings
    assert warning.key == key
    assert message in warning.message


def test_no_upstream_is_an_error(tmp_path, monkeypatch):
    """Without an upstream the error names the key and the flag."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {})
    assert "--upstream URL" in str(caught.value)


def test_every_fault_is_reported_at_once():
    """Faults of several tables are reported in one error, a line each."""
    text = "[server]\nlisten = 1\nworkers = 'x'\n[sever]\n[admin]\ntokn = 'x'"
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert [p.line for p in caught.value.problems] == [4, 5, 6, 8]
    assert caught.value.line == 4
    assert caught.value.key == "server.listen"
    assert str(caught.value).count("\n") == 3
    assert "(allowed: a whole number or " in str(caught.value)


def test_a_plain_client_key_is_not_repeated():
    """A plain key in place of its hash is not repeated in the message."""
    with pytest.raises(ConfigError) as caught:
        read("[[tenant]]\nname = 'a'\napi_keys = ['sk-very-secret']")
    assert "sk-very-secret" not in str(caught.value)

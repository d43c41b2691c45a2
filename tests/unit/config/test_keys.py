"""Client keys with names: faults, warnings, and what they resolve to."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from gateway.config import ConfigError, load, resolve
from gateway.core.model import ApiKey, ModelList

UPSTREAM = '[[upstream]]\nurl = "http://llm:8000"\n'
ONE, OTHER = ("sha256:" + digit * 64 for digit in "01")


def read(keys: str, policies: str = ""):
    text = f'{UPSTREAM}{policies}[[tenant]]\nname = "acme"\napi_keys = [{keys}]\n'
    return load("gate.toml", {}, {}, text=text)


def entry(more: str = "", name: str = "ci", text: str = ONE) -> str:
    return f'{{ name = "{name}", hash = "{text}"{", " if more else ""}{more} }}'


def key_of(keys: str, policies: str = "") -> ApiKey:
    (tenant,) = resolve(read(keys, policies).config).tenants
    return tenant.keys[0]


@pytest.mark.parametrize(
    ("keys", "place", "message"),
    [
        (entry(name="a b"), "[0].name", "not a usable name"),
        (entry(text="sk-plain"), "[0].hash", "is not a hash"),
        (entry() + "," + entry(name="x"), "[1]", "in this list already"),
        (entry() + "," + f'"{ONE}"', "[1]", "in this list already"),
        (entry() + "," + entry(text=OTHER), "[1].name", "is used twice"),
        (entry('policy = "none"'), "[0].policy", "is not a policy"),
        (entry("limits = [{ usd = 1 }]"), "[0].limits[0]", "window"),
        (
            entry('limits = [{ per = "x", usd = 1, window = "day" }]'),
            "[0].limits[0].per",
            "not a subject",
        ),
        (entry('endpoints = ["A B"]'), "[0].endpoints[0]", "not an endpoint"),
        (entry('networks = ["x"]'), "[0].networks[0]", "x"),
        (entry('tags = ["a b"]'), "[0].tags", "not usable"),
        (entry("canary = true"), "[0].canary", "not available"),
        (entry('expires = "soon"'), "[0].expires", ""),
        (entry('expire = "soon"'), "[0].expire", "did you mean"),
    ],
)
def test_refused(keys, place, message):
    """Each fault is reported at its own key."""
    with pytest.raises(ConfigError) as caught:
        read(keys)
    assert f"tenant[0].api_keys{place}" in str(caught.value)
    assert message in str(caught.value)


def test_per_key_is_not_a_subject_of_policies():
    """A policy has no key: ``key`` is a subject of a key's own limits only."""
    policy = '[policy.default]\nlimits = [{ per = "key", usd = 1, window = "day" }]\n'
    with pytest.raises(ConfigError, match="not a subject"):
        read(entry(), policy)


@pytest.mark.parametrize(
    ("days", "message"),
    [(-1, "has expired"), (0.5, "expires in 1 day"), (10, "in 10 days"), (15, "")],
)
def test_expiry_is_warned_of(days, message):
    """``check`` warns of keys that have expired or will within 14 days."""
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    warnings = read(entry(f"expires = {moment:%Y-%m-%dT%H:%M:%SZ}")).warnings
    shown = [one for one in map(str, warnings) if 'key "ci"' in one]
    assert bool(shown) == bool(message)
    assert all(re.search(message, one) for one in shown)


def test_a_date_is_its_midnight_in_the_zone_of_the_server():
    """A date without a time begins at midnight of ``server.timezone``."""
    server = '[server]\ntimezone = "Europe/Berlin"\n'
    assert key_of(entry("expires = 2027-01-01"), server).expires == 1_798_758_000.0
    assert key_of(entry()).expires == float("inf")


def test_rules_of_a_key():
    """Limits are added, lists only close further, a policy replaces the tenant's."""
    policies = (
        '[policy.default]\nlimits = [{ per = "user", usd = 5, window = "day" }]\n'
        'models = { allow = ["gpt-*"] }\n'
        '[policy.big]\ninherit = ""\nmode = "observe"\n'
    )
    rules = 'limits = [{ usd = 1, window = "day" }], models = ["gpt-5"]'
    key = key_of(entry(f'{rules}, endpoints = ["models"]'), policies)
    assert [limit.per for limit in key.policy.limits] == ["user", "key"]
    assert key.policy.models == ModelList(("gpt-5",), within=ModelList(("gpt-*",)))
    assert key.policy.key_endpoints == ("models",)
    assert key_of(entry('policy = "big"'), policies).policy.mode == "observe"
    assert key_of(entry(), policies).policy is None
    denied = key_of(entry('models = { deny = ["x"] }')).policy.models
    assert denied == ModelList(deny=("x",))

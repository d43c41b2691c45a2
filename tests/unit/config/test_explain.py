"""What ``check`` and the admin API print is what the file accepts."""

from __future__ import annotations

import pytest

from gateway.config import effective_policy, load
from gateway.config.build import fields_of
from gateway.config.explain import explain, policy_rows
from gateway.config.structs import AnomalyTable, CapsTable, Config, PolicyTable

UPSTREAM = '[[upstream]]\nurl = "http://x"\n'
FULL = """
[policy.default]
mode = "observe"
caps = { max_tokens = 5, n = 2, max_body = "3MiB", max_stream = "90s", clamp = true }
weights = { cached = 0.1, reasoning = 2.0 }
unknown_price = { input = 0.123456789, output = 3.0 }
prices = { "a.b*" = { input = 1.0, output = 2.0, cached = 0.5 } }
user_from = ["jwt", "body"]
allow = ["10.0.0.0/8", "user:alice", "2001:db8::1"]
endpoints = ["metered", "GET /v1/files/*"]
models = { allow = ["gpt-4*"], deny = ["o1"] }
[policy.default.anomaly]
enabled = false
warning = 2.5
critical = 6.5
ladder = { tag = 2.5, throttle = 4.5, block = 8.0 }
classes = { scraping = { block = 9.0 }, ddos = { tag = 1.0 } }
grace = "36h"
block_ttl = "90s"
max_block_ttl = "2d"
max_blocked_share = 0.25
throttle_share = 0.75
delay = "250ms"
max_delayed = 7
[[policy.default.model]]
match = ["gpt-4*", "o1"]
caps = { n = 1 }
"""
TEXT_LISTS = {"user_from", "allow", "endpoints"}
INLINE_TABLES = {"caps", "anomaly", "weights", "prices", "models"}


def as_toml(key: str, value: str) -> str:
    """A printed row as a line of the file."""
    if key in TEXT_LISTS:
        items = [] if value == "none" else value.split(", ")
        return f"{key} = {items}"
    if key in INLINE_TABLES:
        return f"{key} = {{ {'' if value == 'none' else value} }}"
    if key == "model":
        return f"model = [{{ {value} }}]"
    plain = value[0] in "{0123456789"
    return f"{key} = {value}" if plain else f'{key} = "{value}"'


@pytest.mark.parametrize("text", [UPSTREAM, UPSTREAM + FULL], ids=["empty", "full"])
def test_the_file_accepts_every_printed_value(text):
    """A policy written from its printed rows is the same policy."""
    loaded = load("f.toml", {}, {}, text=text)
    effective = effective_policy(loaded.config, "default")
    rows = [row for row in policy_rows(loaded, effective) if row[0] != "limits"]
    lines = [as_toml(key, value) for key, value, _ in rows]
    again = load(
        "f.toml", {}, {}, text="\n".join([UPSTREAM, "[policy.default]", *lines])
    )
    assert effective_policy(again.config, "default").policy == effective.policy
    assert again.warnings == ()


def test_every_key_of_a_policy_is_printed():
    """No key of a policy, its caps or its anomaly settings is left out."""
    loaded = load("f.toml", {}, {}, text=UPSTREAM + FULL)
    rows = policy_rows(loaded, effective_policy(loaded.config, "default"))
    printed = {key for key, _, _ in rows}
    assert printed == set(fields_of(PolicyTable)) - {"inherit", "extra_limits"}
    values = {key: value for key, value, _ in rows}
    for key, table in (("caps", CapsTable), ("anomaly", AnomalyTable)):
        for name in fields_of(table):
            assert f"{name} = " in values[key]


def test_every_printed_key_is_a_key_of_the_file():
    """The first column of every section names keys of the file."""
    loaded = load(
        "f.toml",
        {},
        {},
        text=UPSTREAM + '[[tenant]]\nname = "a"\ncidrs = ["10.0.0.0/8"]\n'
        'jwt.jwks_file = "k"\nheader = { name = "x", value = "y" }\n'
        f'api_keys = ["sha256:{"0" * 64}"]\n[policy.anonymous]\n',
    )
    tables = fields_of(Config)
    known = {
        f"{section}.{key}"
        for section in ("server", "admin", "store", "events")
        for key in fields_of(tables[section][1])
    }
    for section in ("upstream", "tenant"):
        (item, _) = tables[section][1].__args__
        known |= set(fields_of(item))
    known |= set(fields_of(PolicyTable))
    for section in explain(loaded):
        assert {key for key, _, _ in section.rows} <= known, section.title

"""The effective configuration as rows: the file's key, the value, where it is stated.

For ``tidegate check`` and ``GET /api/v1/policies``. Every key printed here is a key of
the file, in the file's units; a test feeds them back to the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.config.build import fields_of
from gateway.config.errors import Key
from gateway.config.load import Loaded
from gateway.config.prices import price_words
from gateway.config.resolve import (
    Effective,
    anomaly_table,
    anonymous_policy_name,
    caps_table,
    effective_policy,
    resolve_route,
    takes_everyone,
    tenant_tables,
    unknown_clients,
    worker_count,
)
from gateway.config.resolve_keys import split_keys
from gateway.config.structs import TenantTable, UpstreamTable
from gateway.config.values import to_toml, toml_key
from gateway.core.model import Limit, Price, format_window
from gateway.limits.meters import METER_TABLE

DEFAULT = "default"
Row = tuple[str, str, str]  # key of the file, value, where it is stated


class Section(msgspec.Struct, frozen=True):
    """A titled list of rows."""

    title: str
    rows: tuple[Row, ...]


def explain(loaded: Loaded) -> list[Section]:
    """Gateway, upstreams, every tenant's policy, then that of unknown clients."""
    sections = [_gateway(loaded), *_upstreams(loaded)]
    for index, tenant in enumerate(tenant_tables(loaded.config)):
        sections.append(_tenant(loaded, tenant, index))
    if unknown_clients(loaded.config) == "anonymous" and not any(
        map(takes_everyone, tenant_tables(loaded.config))
    ):
        name = anonymous_policy_name(loaded.config)
        effective = effective_policy(loaded.config, name)
        title = f"unknown clients, policy {name}"
        sections.append(Section(title, tuple(policy_rows(loaded, effective))))
    return sections


def place_of(loaded: Loaded, key: Key) -> str:
    """Where a key is stated: ``tidegate.toml:12``, a variable, a flag, or ``default``."""
    return loaded.places.get(key, DEFAULT)


def _place_of_item(loaded: Loaded, key: Key) -> str:
    """The place of a list item; a list from the environment has one place for all."""
    return loaded.places.get(key) or place_of(loaded, key[:-1])


def _gateway(loaded: Loaded) -> Section:
    config = loaded.config
    values: list[tuple[Key, str]] = [
        (("server", "listen"), config.server.listen),
        (("server", "workers"), str(worker_count(config))),
        (("server", "trusted_proxies"), _words(config.server.trusted_proxies)),
        (("server", "unknown_clients"), unknown_clients(config)),
        (("server", "timezone"), config.server.timezone),
        (("admin", "listen"), config.admin.listen),
        (("admin", "token"), "set" if config.admin.token else "none"),
        (("store", "url"), config.store.url.masked()),
        (("store", "when_down"), config.store.when_down),
        (("events", "file"), config.events.file or "none"),
    ]
    rows = [(".".join(map(str, k)), v, place_of(loaded, k)) for k, v in values]
    return Section("gateway", tuple(rows))


def _upstreams(loaded: Loaded) -> list[Section]:
    return [
        _upstream(loaded, upstream, index)
        for index, upstream in enumerate(loaded.config.upstreams)
    ]


def _upstream(loaded: Loaded, upstream: UpstreamTable, index: int) -> Section:
    route = resolve_route(upstream)
    api_key = "none: the client's credential is passed on"
    if route.credential:
        api_key = f"{route.credential.header} ({route.credential.secret.source})"
    values = {"prefix": route.prefix or "/"}
    if upstream.url:
        values["url"] = upstream.url.masked()
    if upstream.targets:
        values["targets"] = _words(url.masked() for url in upstream.targets)
    values |= {
        "dialect": route.dialect or "auto",
        "api_key": api_key,
        "on_disconnect": route.on_disconnect,
    }
    rows = [
        (key, value, place_of(loaded, ("upstream", index, key)))
        for key, value in values.items()
    ]
    return Section(f"upstream {route.name}", tuple(rows))


def _tenant(loaded: Loaded, tenant: TenantTable, index: int) -> Section:
    values = {}
    if tenant.api_keys:
        _, named = split_keys(tenant)
        names = f", named: {_words(key.name for key in named)}" if named else ""
        values["api_keys"] = f"{len(tenant.api_keys)} stated{names}"
    if tenant.jwt:
        values["jwt"] = f"keys of {tenant.jwt.jwks_file or tenant.jwt.jwks_url}"
    if tenant.header:
        values["header"] = f"{tenant.header.name}: {tenant.header.value}"
    if tenant.cidrs:
        values["cidrs"] = _words(tenant.cidrs)
    if not values:
        values["api_keys"] = "none: every client belongs to this tenant"
    rows = [
        (key, value, place_of(loaded, ("tenant", index, key)))
        for key, value in values.items()
    ]
    effective = effective_policy(loaded.config, tenant.policy)
    title = f"tenant {tenant.name}, policy {tenant.policy}"
    return Section(title, (*rows, *policy_rows(loaded, effective)))


def policy_rows(loaded: Loaded, effective: Effective) -> list[Row]:
    """The values of one policy: mode, one row for each limit, then the other keys."""
    policy = effective.policy
    limits = [
        ("limits", limit_words(limit), _place_of_item(loaded, key))
        for limit, key in zip(policy.limits, effective.limit_keys, strict=True)
    ]
    values = {
        "caps": _inline(caps_table(policy.caps)) or "none",
        "weights": _pairs(policy.weights) or "none",
        "unknown_price": _price(policy.unknown_price),
        "prices": ", ".join(
            f"{toml_key(name)} = {_price(one)}" for name, one in policy.prices.items()
        )
        or "none",
        "user_from": _words(policy.user_from),
        "allow": _words(policy.allow),
        "anomaly": _inline(anomaly_table(policy.anomaly)),
        "overdraft": to_toml(policy.overdraft),
        "assumed_max_tokens": to_toml(policy.assumed_max_tokens),
        "overrun": policy.overrun,
        "network_factor": to_toml(policy.network_factor),
        "assumed_job_usd": to_toml(policy.assumed_job_usd),
        "assumed_context_tokens": to_toml(policy.assumed_context_tokens),
    }
    if policy.endpoints is not None:
        values["endpoints"] = _words(policy.endpoints)
    if policy.models is not None:
        values["models"] = _inline(policy.models)
    rows = [
        ("mode", policy.mode, _origin(loaded, effective, "mode")),
        *(limits or [("limits", "none", _origin(loaded, effective, "limits"))]),
        *(
            (key, value, _origin(loaded, effective, key))
            for key, value in values.items()
        ),
    ]
    for index, model in enumerate(policy.model_caps):
        key = ("policy", effective.origins["model"], "model", index)
        caps = _inline(caps_table(model.caps))
        words = f"match = {to_toml(model.models)}, caps = {{ {caps} }}"
        rows.append(("model", words, place_of(loaded, key)))
    return rows


def _origin(loaded: Loaded, effective: Effective, key: str) -> str:
    return place_of(loaded, ("policy", effective.origins[key], key))


def limit_words(limit: Limit) -> str:
    """A limit in words: ``200,000 tokens in 1m per user``."""
    in_units = METER_TABLE[limit.meter].in_units(limit.amount)
    number = f"{in_units:,g}" if isinstance(in_units, float) else f"{in_units:,}"
    amount = f"{number} {limit.meter}"
    window = limit.calendar or (limit.window_us and format_window(limit.window_us))
    if limit.calendar:
        amount += f" a {window}"
    elif window:
        amount += f" in {window}"
    words = f"{amount} per {limit.per}"
    return words + (f" of {_words(limit.models)}" if limit.models else "")


def _price(price: str | Price) -> str:
    return price if isinstance(price, str) else f"{{ {price_words(price)} }}"


def _value(value: Any) -> str:
    """A value as TOML, a struct as an inline table."""
    return (
        f"{{ {_inline(value)} }}"
        if isinstance(value, msgspec.Struct)
        else to_toml(value)
    )


def _inline(table: msgspec.Struct) -> str:
    """The keys of a table that have a value, as within an inline table of TOML."""
    values = {
        key: getattr(table, attribute)
        for key, (attribute, _) in fields_of(type(table)).items()
    }
    return _pairs({k: v for k, v in values.items() if v is not None and v != {}})


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{toml_key(key)} = {{ {_pairs(value)} }}"
        if isinstance(value, dict)
        else f"{toml_key(key)} = {_value(value)}"
        for key, value in values.items()
    )


def _words(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"

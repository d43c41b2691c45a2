"""The effective configuration in words, each value with the place that states it.

Only ``tidegate check`` needs it; workers do not import it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.config.errors import Key
from gateway.config.load import Loaded
from gateway.config.resolve import (
    Effective,
    anonymous_policy_name,
    effective_policy,
    resolve_route,
    takes_everyone,
    tenant_tables,
    unknown_clients,
    worker_count,
)
from gateway.config.structs import TenantTable, UpstreamTable
from gateway.config.values import format_size
from gateway.core.model import Anomaly, Limit, Price, format_window
from gateway.limits.meters import METER_TABLE

DEFAULT = "default"
Row = tuple[str, str, str]  # what, value, where it is stated


class Section(msgspec.Struct, frozen=True):
    """A titled list of rows."""

    title: str
    rows: tuple[Row, ...]


def explain(loaded: Loaded) -> list[Section]:
    """Gateway, upstreams, then every tenant's policy and that of strangers."""
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
    """Where ``key`` is stated: ``tidegate.toml:12``, a variable, a flag, or default."""
    return loaded.places.get(key, DEFAULT)


def _place_of_item(loaded: Loaded, key: Key) -> str:
    """A list from the environment is stated as a whole."""
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
    key = "url" if upstream.url else "targets"
    servers = _words(f"{t.scheme}://{t.authority}{t.path}" for t in route.targets)
    credential = "the client's own"
    if route.credential:
        credential = f"{route.credential.header} ({route.credential.secret.source})"
    values = [
        ("prefix", "prefix", route.prefix or "/"),
        ("servers", key, servers),
        ("dialect", "dialect", route.dialect or "auto"),
        ("credential", "api_key", credential),
        ("on_disconnect", "on_disconnect", route.on_disconnect),
    ]
    rows = [
        (what, value, place_of(loaded, ("upstream", index, name)))
        for what, name, value in values
    ]
    return Section(f"upstream {route.name}", tuple(rows))


def _tenant(loaded: Loaded, tenant: TenantTable, index: int) -> Section:
    stated = {
        "api keys": len(tenant.api_keys),
        "tokens (jwt)": tenant.jwt is not None,
        "header": tenant.header is not None,
        "networks": len(tenant.cidrs),
    }
    who = ", ".join(
        f"{count} {what}" if count is not True else what
        for what, count in stated.items()
        if count
    )
    clients = ("clients", who or "everyone", place_of(loaded, ("tenant", index)))
    effective = effective_policy(loaded.config, tenant.policy)
    title = f"tenant {tenant.name}, policy {tenant.policy}"
    return Section(title, (clients, *policy_rows(loaded, effective)))


def policy_rows(loaded: Loaded, effective: Effective) -> list[Row]:
    """What one policy says, limits first."""
    policy = effective.policy
    rows = [
        ("limit", limit_words(limit), _place_of_item(loaded, key))
        for limit, key in zip(policy.limits, effective.limit_keys, strict=True)
    ] or [("limits", "none", _origin(loaded, effective, "limits"))]
    values = {
        "mode": policy.mode,
        "caps": _struct_words(policy.caps) or "none",
        "weights": _words(f"{k} {v:g}" for k, v in policy.weights.items()),
        "unknown_price": _price_words(policy.unknown_price),
        "prices": _words(f"{k} {_price_words(v)}" for k, v in policy.prices.items()),
        "user_from": _words(policy.user_from),
        "allow": _words(policy.allow),
        "anomaly": _anomaly_words(policy.anomaly),
    }
    rows.insert(0, ("mode", values.pop("mode"), _origin(loaded, effective, "mode")))
    rows += [(k, v, _origin(loaded, effective, k)) for k, v in values.items()]
    for index, model in enumerate(policy.model_caps):
        key = ("policy", effective.origins["model"], "model", index)
        words = _struct_words(model.caps) or "none"
        rows.append((f"caps of {_words(model.models)}", words, place_of(loaded, key)))
    return rows


def _origin(loaded: Loaded, effective: Effective, key: str) -> str:
    return place_of(loaded, ("policy", effective.origins[key], key))


def limit_words(limit: Limit) -> str:
    """``200,000 tokens in 1m per user``."""
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


def _price_words(price: str | Price) -> str:
    if isinstance(price, str):
        return price
    return f"{price.input:g}/{price.output:g} usd"


def _anomaly_words(anomaly: Anomaly) -> str:
    if not anomaly.enabled:
        return "off"
    plain = _struct_words(msgspec.structs.replace(anomaly, classes={}))
    ladders = (
        f"{cls}: {_struct_words(rungs)}"
        for cls, rungs in sorted(anomaly.classes.items())
    )
    return "; ".join((plain, *ladders))


def _struct_words(struct: msgspec.Struct) -> str:
    parts = []
    for name, value in msgspec.structs.asdict(struct).items():
        if value is not None and value is not False and value != {}:
            shown = format_size(value) if name.endswith("_bytes") else _plain(value)
            parts.append(f"{name} {shown}")
    return ", ".join(parts)


def _plain(value: Any) -> str:
    return "yes" if value is True else f"{value:g}"


def _words(items: Any) -> str:
    return ", ".join(items) or "none"

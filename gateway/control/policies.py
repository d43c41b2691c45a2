"""Policies in force, in the form of the admin API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.admin.spend import SpendHistory
from gateway.config import Loaded
from gateway.config.explain import policy_rows
from gateway.config.resolve import effective_policy
from gateway.control.price_list import models_by_tenant, price_list
from gateway.control.running_config import RunningConfig
from gateway.core.model import Anomaly, Limit, Policy, RequestRecord
from gateway.limits.meters import METER_TABLE


def policy_list(
    config: RunningConfig,
    recent: Iterable[RequestRecord],
    spend: SpendHistory,
    now: float,
) -> list[dict[str, Any]]:
    """Each policy by name with its tenants, the source of each value, the prices of
    recently requested models, and the cost of the last 30 days.
    """
    resolved = config.resolved
    found = [(tenant.name, tenant.policy) for tenant in resolved.tenants]
    if resolved.anonymous is not None:
        found.append(("anonymous", resolved.anonymous))
    tenants: dict[str, list[str]] = {}
    for name, policy in found:
        tenants.setdefault(policy.name, []).append(name)
    by_name = {policy.name: policy for _, policy in found}
    requested = models_by_tenant(recent)
    none: Counter[str] = Counter()
    return [
        public_policy(by_name[name])
        | {
            "price_list": price_list(
                by_name[name],
                sum((requested.get(tenant, none) for tenant in tenants[name]), none),
                config.prices,
            ),
            "tenants": tenants[name],
            "effective": _effective(config.loaded, name),
            "spend": spend.public(tenants[name], now),
        }
        for name in sorted(by_name)
    ]


def _effective(loaded: Loaded, name: str) -> list[dict[str, str]]:
    """Each value of a policy with the place that sets it."""
    rows = policy_rows(loaded, effective_policy(loaded.config, name))
    return [{"key": k, "value": v, "from": place} for k, v, place in rows]


def public_policy(policy: Policy) -> dict[str, Any]:
    """A policy in the form of the admin API."""
    shown: dict[str, Any] = msgspec.to_builtins(policy)
    return shown | {
        "limits": [public_policy_limit(limit) for limit in policy.limits],
        "anomaly": public_anomaly(policy.anomaly),
    }


def public_anomaly(anomaly: Anomaly) -> dict[str, Any]:
    """Detection settings: scores and block times beside the other keys, and the scores
    of each class with a ladder of its own.
    """
    shown: dict[str, Any] = msgspec.to_builtins(anomaly)
    classes = {
        name: {"tag": own.tag, "throttle": own.throttle, "block": own.block}
        for name, own in anomaly.classes.items()
    }
    del shown["ladder"]
    ladder: dict[str, Any] = msgspec.to_builtins(anomaly.ladder)
    return shown | ladder | {"classes": classes}


def public_policy_limit(limit: Limit) -> dict[str, Any]:
    """A limit as the configuration writes it, with its name."""
    shown: dict[str, Any] = msgspec.to_builtins(limit)
    shown.pop("window_us")
    shown.pop("calendar")
    spec = METER_TABLE[limit.meter]
    window = None if spec.leased else limit.name.rpartition(".")[2]
    amount = spec.in_units(limit.amount)
    return {"name": limit.name} | shown | {"amount": amount, "window": window}

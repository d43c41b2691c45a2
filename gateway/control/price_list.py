"""Prices in use: those that a policy states, and those of recently requested models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from gateway.core.model import Policy, RequestRecord
from gateway.metering.prices import PriceTable

# Most requested models in the list: clients may send any number of names.
MAX_MODELS = 50


def models_by_tenant(records: Iterable[RequestRecord]) -> dict[str, Counter[str]]:
    """Requests by tenant and model."""
    found: dict[str, Counter[str]] = {}
    for r in records:
        if r.model:
            found.setdefault(r.tenant, Counter())[r.model] += 1
    return found


def price_list(
    policy: Policy, asked: Counter[str], table: PriceTable
) -> dict[str, Any]:
    """Prices in dollars per million tokens. ``from`` is "policy", "package" (the price
    table, of date ``dated``), or "none" for a model without a price.
    """
    ours = table.with_overrides(policy.prices, policy.unknown_price)
    names = dict.fromkeys(policy.prices)
    names |= dict.fromkeys(name for name, _ in asked.most_common(MAX_MODELS))
    rows = []
    for name in names:
        price = policy.prices.get(name) or ours.price(name)
        stated = name in policy.prices or ours.source(name) != "table"
        rows.append(
            {
                "model": name,
                "input": None if price is None else price.input,
                "output": None if price is None else price.output,
                "cached": None if price is None else price.cached,
                "from": "none" if price is None else "policy" if stated else "package",
            }
        )
    return {"dated": table.dated, "items": rows}

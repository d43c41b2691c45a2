"""Prices in use, as the policies page shows them."""

from __future__ import annotations

from collections import Counter

from gateway.control.price_list import MAX_MODELS, models_by_tenant, price_list
from gateway.core.model import Policy, Price
from tests.records import make_record


def test_prices_say_where_they_come_from():
    """Stated by the policy, of the package's table, or none at all."""
    policy = Policy(name="p", prices={"own-*": Price(1.0, 2.0)})
    shown = price_list(policy, Counter({"gpt-4o": 3, "own-7b": 2, "nobody-knows": 1}))
    found = {row["model"]: (row["input"], row["from"]) for row in shown["items"]}
    assert found == {
        "own-*": (1.0, "policy"),
        "own-7b": (1.0, "policy"),
        "gpt-4o": (2.5, "package"),
        "nobody-knows": (None, "none"),
    }
    assert shown["dated"]


def test_invented_names_are_bounded():
    """Clients may name any model."""
    asked = models_by_tenant(make_record(model=f"m{n}") for n in range(500))
    assert len(price_list(Policy(name="p"), asked["acme"])["items"]) == MAX_MODELS

"""Prices in use as the policies page shows them."""

from __future__ import annotations

from collections import Counter

from gateway.control.price_list import MAX_MODELS, models_by_tenant, price_list
from gateway.core.model import Policy, Price
from gateway.serve.price_table import packaged_table
from tests.records import make_record


def test_prices_have_a_source():
    """Each price has its source: the policy, the package's table or none."""
    policy = Policy(name="p", prices={"own-*": Price(1.0, 2.0)})
    shown = price_list(
        policy, Counter({"gpt-4o": 3, "own-7b": 2, "nobody-knows": 1}), packaged_table()
    )
    found = {row["model"]: (row["input"], row["from"]) for row in shown["items"]}
    assert found == {
        "own-*": (1.0, "policy"),
        "own-7b": (1.0, "policy"),
        "gpt-4o": (2.5, "package"),
        "nobody-knows": (None, "none"),
    }
    assert shown["dated"]


def test_invented_names_are_bounded():
    """The number of listed models is bounded, because clients may name any model."""
    asked = models_by_tenant(make_record(model=f"m{n}") for n in range(500))
    assert (
        len(price_list(Policy(name="p"), asked["acme"], packaged_table())["items"])
        == MAX_MODELS
    )

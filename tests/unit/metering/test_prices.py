"""Prices by the names under which models occur."""

import pytest

from gateway.core.model import Price, Usage
from gateway.metering.prices import PriceTable, packaged_prices

TABLE = PriceTable.parse(packaged_prices())


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4o-2024-08-06", "gpt-4o"),
        ("openai/gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-5.2_2025-12-11", "gpt-5.2"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4"),
        ("anthropic.claude-3-haiku-20240307-v1:0:200k", "claude-3-haiku"),
        ("anthropic/claude-3.5-sonnet:beta", "claude-3.5-sonnet"),
        ("models/gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("command-r-08-2024", "command-r"),
        ("mistral-large-latest", "mistral-large"),
        ("gpt-4o-audio-preview-2024-10-01", "gpt-4o-audio"),
        ("gpt-4o-mini-search-of-tomorrow", "gpt-4o-mini-search"),
        ("claude-opus-4-9", "other"),
        ("gpt-5.9", "other"),
        ("never-heard-of", "other"),
        ("x" * 1000, "other"),
        ("", "other"),
    ],
)
def test_names(model, name):
    """Prefixes, dates, versions and tags are resolved; another version is not."""
    assert TABLE.known_name(model) == name
    assert TABLE.knows(model) is (name != "other")
    assert (TABLE.price(model) is None) is (name == "other")


def test_the_table_is_dated_and_complete():
    """The packaged table has a date, and no negative prices."""
    assert TABLE.dated
    assert TABLE.price("text-embedding-3-small") == Price(0.02, 0)


@pytest.mark.parametrize(
    ("usage", "nanos"),
    [
        (Usage(350, 100, 450), 350 * 2500 + 100 * 10_000),
        (Usage(350, 100, 450, cached=100), 250 * 2500 + 100 * 1250 + 100 * 10_000),
        (Usage(350, 100, 500), 350 * 2500 + 150 * 10_000),
        (Usage(), 0),
    ],
)
def test_costs(usage, nanos):
    """Cached tokens have their own price; reasoning beyond the completion is charged."""
    assert TABLE.cost_nanos("gpt-4o", usage) == nanos


def test_cache_writes():
    """Cache writes have their own price, or that of the input."""
    usage = Usage(100, 0, 100, 0, 0, 40)
    assert TABLE.cost_nanos("claude-sonnet-4-5", usage) == 60 * 3000 + 40 * 3750
    assert TABLE.cost_nanos("gpt-4", usage) == 100 * 30_000
    cached = Usage(100, 0, 100, 40)
    assert TABLE.cost_nanos("gpt-4", cached) == 100 * 30_000


def test_unknown_models_have_no_cost():
    """The cost of an unknown model is None."""
    assert TABLE.cost_nanos("never-heard-of", Usage(1, 1, 2)) is None


def test_overrides():
    """A policy's names go before its globs (longest first), and these before the table."""
    table = TABLE.with_overrides(
        {
            "GPT-4o": Price(1, 1),
            "gpt-4o-mini": Price(2, 2),
            "claude-*": Price(3, 3),
            "claude-opus-*": Price(4, 4),
            "acme/own-[ab]": Price(5, 5),
        }
    )
    assert table.price("gpt-4o") == Price(1, 1)
    assert table.price("openai/gpt-4o-mini-2024-07-18") == Price(2, 2)
    assert table.price("claude-sonnet-4-5") == Price(3, 3)
    assert table.price("claude-opus-4-5") == Price(4, 4)
    assert table.price("acme/own-a") == Price(5, 5)
    assert table.known_name("acme/own-a") == "other"
    assert table.price("o3") == TABLE.price("o3")
    assert table.price("nobody") is None


def test_unknown_price():
    """A policy may set a price for unknown models; "deny" and "free" set none."""
    table = TABLE.with_overrides({}, Price(1, 3))
    assert table.cost_nanos("nobody", Usage(10, 10, 20)) == 40_000
    assert table.knows("x" * 1000)
    assert table.known_name("nobody") == "other"
    assert not TABLE.with_overrides({}, "deny").knows("nobody")


def test_a_batch_costs_half():
    """The requests of a batch have half the price of single ones."""
    usage = Usage(1000, 500, 1500, 200)
    batch = Usage(1000, 500, 1500, 200, batch=True)
    full = TABLE.cost_nanos("gpt-4o", usage)
    assert TABLE.cost_nanos("gpt-4o", batch) == full // 2

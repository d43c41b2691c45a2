"""Prices by the names under which models occur."""

import pytest

from gateway.core.model import Price, Usage
from gateway.metering.prices import PriceTable, packaged_prices, provider_ids

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
    price = TABLE.price("text-embedding-3-small")
    assert (price.input, price.output) == (0.02, 0)


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
    """The requests of a batch have half the price of single ones; what was read from the
    cache is as cheap as the provider's table says.
    """
    usage = Usage(1000, 500, 1500)
    batch = Usage(1000, 500, 1500, batch=True)
    full = TABLE.cost_nanos("gpt-4o", usage)
    assert TABLE.cost_nanos("gpt-4o", batch) == full // 2
    cached = Usage(1000, 500, 1500, 200, batch=True)
    assert TABLE.cost_nanos("gpt-4o", cached) == full // 2
    table = TABLE.with_overrides({"mine": Price(2, 4)})
    assert table.cost_nanos("mine", batch) == 2_000_000


OWN = TABLE.with_overrides({"prod-*": Price(1, 1)}, Price(7, 7))
NAMED = TABLE.with_overrides(
    {"prod-chat": Price(1, 1), "gpt-4?": Price(0, 0), "gpt-4o-mini*": Price(0, 0)}
)
ANSWER = Usage(1_000_000, 0, 1_000_000, cost_usd=0.0123)


@pytest.mark.parametrize(
    ("table", "model", "answered", "nanos", "source"),
    [
        (TABLE, "gpt-4o", "", 2_500_000_000, "table"),
        (TABLE, "gpt-4o", "gpt-4o", 2_500_000_000, "table"),
        # A deployment's name has no price: the answer's model has.
        (TABLE, "chat-eastus", "gpt-4o-2024-08-06", 2_500_000_000, "table"),
        # A router or a fallback list answers with another model.
        (TABLE, "gpt-4o-mini", "gpt-5-pro", 15_000_000_000, "table"),
        (TABLE, "gpt-4o-mini", "who-knows", 150_000_000, "table"),
        (TABLE, "no-price", "who-knows", None, ""),
        # A pattern's price holds unless a dearer model is known to have answered.
        (OWN, "prod-chat", "prod-other", 1_000_000_000, "policy"),
        (OWN, "prod-chat", "who-knows", 1_000_000_000, "policy"),
        (OWN, "prod-chat", "gpt-4o", 2_500_000_000, "table"),
        (OWN, "prod-chat", "gpt-4o-mini", 1_000_000_000, "policy"),
        (OWN.of_upstream("", trust_cost=True), "prod-1", "o3", 1_000_000_000, "policy"),
        (NAMED, "prod-chat", "gpt-4o", 1_000_000_000, "policy"),
        (NAMED, "gpt-4o", "gpt-4o-2024-08-06", 0, "policy"),
        (NAMED, "gpt-4o-mini", "prod-chat", 1_000_000_000, "policy"),
        (OWN, "gpt-4o", "prod-chat", 1_000_000_000, "policy"),
        (OWN, "no-price", "who-knows", 7_000_000_000, "unknown_price"),
        (OWN, "no-price", "gpt-4o", 2_500_000_000, "table"),
        (TABLE.of_upstream("", trust_cost=True), "gpt-4o", "", 12_300_000, "answer"),
        (TABLE.of_upstream("", trust_cost=True), "no-price", "", 12_300_000, "answer"),
        (OWN.of_upstream("", trust_cost=True), "prod-1", "", 1_000_000_000, "policy"),
    ],
)
def test_what_decides_the_price(table, model, answered, nanos, source):
    """The policy's price of the request's model, the stated cost where it is trusted, the
    answer's model, the request's, the policy's price of unknown models.
    """
    quote = table.quote(model, ANSWER, answered=answered)
    assert quote == (nanos, source, False)


def test_what_answered_for_a_pattern_is_reserved():
    """The next request of the same name reserves what the dearest answer cost."""
    table = TABLE.with_overrides({"prod-*": Price(1, 1)})
    usage = Usage(1_000_000, 0, 1_000_000)
    assert table.most_nanos("prod-1", usage, "", 0.0) == 1_000_000_000
    table.quote("prod-1", usage, answered="gpt-4o")
    assert table.most_nanos("prod-1", usage, "priority", 0.0) == 2_500_000_000
    assert table.most_nanos("prod-2", usage, "", 0.0) == 1_000_000_000


@pytest.mark.parametrize("cost", [None, -1.0, float("nan"), float("inf"), 2e6])
def test_absurd_stated_costs_are_not_taken(cost):
    """A cost that is no amount of money leaves the price to the table."""
    table = TABLE.of_upstream("", trust_cost=True)
    quote = table.quote("gpt-4o", Usage(1, 0, 1, cost_usd=cost))
    assert quote == (2500, "table", False)
    zero = table.quote("gpt-4o", Usage(1, 0, 1, cost_usd=0.0))
    assert zero == (0, "answer", False)


def test_prices_of_an_upstream():
    """An upstream's provider decides; the same provider needs no other table."""
    groq = TABLE.of_upstream("groq")
    assert groq.of_upstream("groq") is groq
    assert groq.price("openai/gpt-oss-120b").output == 0.6
    assert TABLE.price("openai/gpt-oss-120b").output > 0.6
    assert groq.source("gpt-4o") == "table"
    assert groq.with_overrides({"gpt-4o": Price(1, 1)}).source("gpt-4o") == "policy"


def test_limits_count_all_spellings_of_a_model_as_one():
    """Names that the table knows in another form have one canonical name."""
    assert TABLE.canonical_name("gpt-4o-2024-05-13") == "gpt-4o"
    assert TABLE.canonical_name("openai/GPT-4o") == "gpt-4o"
    assert TABLE.canonical_name("acme/Own-Model") == "own-model"
    assert TABLE.canonical_name("claude-opus-4-8-of-ours") == "claude-opus-4-8"
    assert TABLE.known_name("claude-opus-4-8-of-ours") == "claude-opus-4-8"


def test_what_a_request_may_cost():
    """The tier that it asks for counts if it is dearer; names without a price cost what
    answered for them before.
    """
    usage = Usage(1000, 1000, 2000)
    table = TABLE.with_overrides({})

    def most(model, tier=""):
        return table.most_nanos(model, usage, tier, 1.8e9)

    assert most("gpt-5-mini") == most("gpt-5-mini", "flex") == 2_250_000
    assert most("gpt-5-mini", "priority") == 4_050_000
    assert most("prod-chat") == 0
    table.quote("prod-chat", usage, answered="who-knows")
    assert most("prod-chat") == 0
    for answered in ("gpt-5-mini", "gpt-4o", "gpt-5-nano"):
        table.quote("prod-chat", usage, answered=answered)
    assert most("prod-chat") == 12_500_000
    assert not table.knows("prod-chat")
    # A model with a price keeps it, whoever answered.
    table.quote("gpt-5-nano", usage, answered="gpt-5-pro")
    assert most("gpt-5-nano") == 450_000


def test_providers():
    """The names that an upstream's ``provider`` may have."""
    assert {"openai", "azure", "groq"} <= provider_ids()
    assert provider_ids() == {row.id for row in TABLE.book.file.providers}


def test_tools_cost_as_their_models():
    """The answer's own tokens at its price, the rest at that of each tool's model."""
    advised = Usage(900_000, 100_000, 1_000_000, cached=1, cache_write=2, model="o3")
    unknown = Usage(10, 0, 10, model="nobody")
    usage = Usage(1_000_010, 200_000, 1_200_010, cached=1, cache_write=2)
    usage.tools = (advised,)
    own = Usage(100_010, 100_000, 200_010)
    cheap, dear = (
        TABLE.cost_nanos("gpt-4o-mini", own),
        TABLE.cost_nanos("o3", advised),
    )
    assert TABLE.quote("gpt-4o-mini", usage) == (cheap + dear, "table", False)
    usage.tools = (advised, unknown)
    assert TABLE.quote("gpt-4o-mini", usage) == (cheap + dear, "table", True)
    assert TABLE.quote("nobody", usage) == (dear, "table", True)
    usage.tools = (unknown,)
    assert TABLE.quote("nobody", usage) == (None, "", False)
    usage.tools, usage.batch = (advised,), True
    assert TABLE.quote("gpt-4o-mini", usage)[0] < cheap + dear


@pytest.mark.parametrize(
    ("provider", "model", "cost", "expected"),
    [
        ("openrouter", "openai/gpt-4o-mini", 0.04, (40_000_000, "answer")),
        ("openrouter", "nobody/nothing", 0.04, (40_000_000, "answer")),
        ("openrouter", "openai/gpt-4o-mini", 0.0, (150_000, "table")),
        ("openrouter", "openai/gpt-4o-mini", -1.0, (150_000, "table")),
        ("openai", "gpt-4o-mini", 0.04, (150_000, "table")),
    ],
)
def test_a_router_states_fees_that_the_table_lacks(provider, model, cost, expected):
    """The larger of both is charged."""
    table = PriceTable.parse(packaged_prices()).of_upstream(provider)
    usage = Usage(1000, 0, 1000, source="upstream", cost_usd=cost)
    assert table.quote(model, usage)[:2] == expected

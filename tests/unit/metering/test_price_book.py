"""Which model of which provider a name means."""

import pytest

from gateway.metering.price_book import PriceBook, _names_of, matcher
from gateway.metering.prices import packaged_prices

BOOK = PriceBook.parse(packaged_prices())


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1/", "openai"),
        ("https://api.anthropic.com/", "anthropic"),
        ("https://acme.openai.azure.com/openai/", "azure"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com/", "aws"),
        ("https://generativelanguage.googleapis.com/", "google"),
        ("https://api.groq.com/openai/", "groq"),
        ("https://openrouter.ai/api/", "openrouter"),
        ("http://10.0.0.7/v1/", ""),
        ("https://api.openai.com.evil.example/", "openai"),
    ],
)
def test_providers_of_hosts(url, provider):
    """The host of an upstream tells its provider."""
    assert BOOK.provider_of(url) == provider


def test_the_provider_decides_among_equal_names():
    """A model that several hosts sell costs what the upstream asks."""
    name = "llama-3.3-70b-instruct"
    hosts = {
        provider: BOOK.find(f"meta-llama/{name}", provider)[1].output
        for provider in ("together", "openrouter", "huggingface_nebius")
    }
    assert len(set(hosts.values())) > 1
    dearest = BOOK.find(name)[1]
    everywhere = [
        found[1].input + found[1].output
        for provider in BOOK.file.providers
        if (found := BOOK._of_provider([f"meta-llama/{name}", name], provider.id))
    ]
    assert dearest.input + dearest.output == max(everywhere)


def test_a_vendors_own_price_goes_before_resellers():
    """Without a known provider, a model costs what its vendor asks."""
    assert (
        BOOK.find("claude-sonnet-4-5")[1]
        is BOOK.find("claude-sonnet-4-5", "anthropic")[1]
    )
    assert BOOK.find("gpt-4o") == BOOK.find("gpt-4o", "openai")
    # Open models are sold by others for more than the entry of their maker says.
    own, open_price = BOOK.find("gpt-oss-120b", "openai"), BOOK.find("gpt-oss-120b")
    assert open_price[1].output > own[1].output


def test_providers_serve_the_models_of_others():
    """Azure sells OpenAI's models; an unlisted one still has its vendor's price."""
    assert BOOK.find("gpt-5-mini", "azure")[0] == "gpt-5-mini"
    assert BOOK.find("gpt-4o", "groq") == BOOK.find("gpt-4o", "openai")
    assert BOOK.find("gpt-4o", "nobody") == BOOK.find("gpt-4o")
    assert BOOK.find("gpt-5.2-20251211", "openai")[0] == "gpt-5.2"


@pytest.mark.parametrize(
    "name", ["", "  ", "x" * 201, "nobody-knows-this", "claude-sonnet", "gpt-99"]
)
def test_unknown_names(name):
    """Names without a model have no price and no label."""
    assert BOOK.find(name) is None
    assert BOOK.label(name) == ""


def test_longer_names():
    """A name may continue a known one, at the price of the vendor's model."""
    assert BOOK.find("gpt-4o-mini-for-us")[1] is BOOK.find("gpt-4o-mini")[1]
    assert BOOK.find("ft:gpt-4o-mini-2024-07-18:acme::1")[0] == "ft:gpt-4o-mini"
    assert BOOK.find("qwen3-32b-tuned")[0] == "qwen3-32b"
    assert BOOK.find("gpt-4o-5") is None


def test_labels_are_bounded():
    """Every label is a name in the table, whatever a client appends."""
    for row in BOOK.file.providers:
        for model in row.models:
            label = BOOK.label(f"{model.id}-x7f3")
            assert "x7f3" not in label
            assert len(BOOK.label(model.id)) <= len(model.id)
    assert BOOK.label("claude-sonnet-4-5-my-own-text") == "claude-sonnet-4-5"
    assert BOOK.label("grok-4-0709") == "grok-4"


def test_the_work_per_name_is_bounded():
    """Of a name with 30 suffixes only some spellings are looked up; it has its price."""
    name = "gpt-4o" + ":free" * 30
    assert len(_names_of(name)) <= 9
    assert BOOK.find(name)[1] is BOOK.find("gpt-4o")[1]


def test_rows():
    """All models are listed with their provider."""
    rows = list(BOOK.rows())
    assert len(rows) > 2000
    assert ("openai", "gpt-4o") in {row[:2] for row in rows}


def test_rules():
    """Rules of each operator."""
    assert matcher("a")("a")
    assert not matcher("a")("ab")
    assert matcher(["|", ["a", ["$", "z"]]])("xz")
    assert not matcher(["|", ["a", ["$", "z"]]])("xy")

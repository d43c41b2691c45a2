"""Costs of usages: kinds of tokens, other units, service and context tiers, times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Price, TimedPrice, Usage
from gateway.metering.cost import (
    PLAIN_TIERS,
    is_plain,
    price_at,
    price_plain,
    price_usage,
)
from gateway.metering.prices import PriceTable, packaged_prices

TABLE = PriceTable.parse(packaged_prices())
MILLION = 1_000_000
NOON = 1_796_126_400.0  # 2026-12-01 12:00 UTC


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        # platform.openai.com/docs/pricing
        ("gpt-4o", Usage(MILLION, MILLION, 2 * MILLION), 12.5),
        ("gpt-4o", Usage(MILLION, 0, MILLION, cached=MILLION), 1.25),
        ("gpt-4o-mini", Usage(MILLION, MILLION, 2 * MILLION), 0.75),
        ("gpt-5-mini", Usage(MILLION, MILLION, 2 * MILLION), 2.25),
        ("gpt-5-mini", Usage(MILLION, MILLION, 2 * MILLION, tier="flex"), 1.125),
        ("gpt-5-mini", Usage(MILLION, MILLION, 2 * MILLION, tier="Priority"), 4.05),
        ("gpt-5-mini", Usage(MILLION, MILLION, 2 * MILLION, batch=True), 1.125),
        ("o3-mini", Usage(MILLION, MILLION, 2 * MILLION), 5.5),
        ("whisper-1", Usage(units=(("audio_seconds", 600),)), 0.06),
        ("tts-1", Usage(units=(("input_characters", 4000),)), 0.06),
        ("dall-e-3", Usage(units=(("images", 1),)), 0.04),
        ("dall-e-3", Usage(units=(("images:1024x1792:hd", 2),)), 0.24),
        ("dall-e-3", Usage(units=(("images:1792x1024:vivid", 1),)), 0.08),
        ("gpt-4o", Usage(0, 0, 0, units=(("web_searches", 10),)), 0.1),
        (
            "gpt-4o-audio-preview",
            Usage(
                1000,
                1000,
                2000,
                units=(("input_audio_tokens", 1000), ("output_audio_tokens", 1000)),
            ),
            0.12,
        ),
        (
            "gpt-image-1",
            Usage(2000, 4000, 6000, units=(("input_image_tokens", 1000),)),
            0.005 + 0.01 + 0.16,
        ),
        # anthropic.com/pricing
        ("claude-haiku-4-5", Usage(MILLION, MILLION, 2 * MILLION), 6.0),
        (
            "claude-haiku-4-5",
            Usage(1000, 0, 1000, 0, 0, 1000, units=(("cache_write_1h_tokens", 1000),)),
            0.002,
        ),
        (
            "claude-haiku-4-5",
            Usage(1000, 0, 1000, 0, 0, 1000, units=(("cache_write_1h_tokens", 400),)),
            0.00155,
        ),
        ("claude-sonnet-4-5", Usage(300_000, 1000, 301_000), 1.8225),
        ("claude-sonnet-4-5", Usage(200_000, 1000, 201_000), 0.615),
        (
            "claude-sonnet-4-5",
            Usage(9, 1, 10, units=(("web_searches", 100),)),
            1.000042,
        ),
        # ai.google.dev/gemini-api/docs/pricing
        ("gemini-2.5-pro", Usage(300_000, 1000, 301_000), 0.765),
        ("gemini-2.5-pro", Usage(100_000, 1000, 101_000), 0.135),
        ("gemini-2.5-flash", Usage(10, 100, 110), 0.000253),
        ("veo-3.0-generate-001", Usage(units=(("video_seconds:720p", 8),)), 3.2),
        ("rerank-v3.5", Usage(units=(("search_units", 1),)), 0.002),
        ("text-embedding-3-small", Usage(MILLION, 0, MILLION), 0.02),
    ],
)
def test_published_prices(model, usage, usd):
    """Prices by hand, from the providers' pages."""
    quote = TABLE.quote(model, usage, NOON)
    assert quote == (round(usd * 1e9), "table", False)


PRICE = Price(2, 8, 0.5, 2.5, 4)


@pytest.mark.parametrize(
    ("price", "usage", "nanos", "part"),
    [
        (PRICE, Usage(100, 10, 110, tier="fast"), 280_000, True),
        (PRICE, Usage(100, 10, 110, tier="standard"), 280_000, False),
        (PRICE, Usage(100, 10, 110, tier="on_demand_priority"), 280_000, True),
        (PRICE, Usage(100, 10, 110, tier="batch"), 140_000, False),
        (
            Price(2, 8, tiers={"flex": Price(1, 4), "batch": Price(2, 8)}),
            Usage(100, 10, 110, tier="on_demand_flex"),
            140_000,
            False,
        ),
        (Price(2, 8, tiers={"batch": PRICE}), Usage(100, batch=True), 200_000, False),
        # A batch is a batch at any tier.
        (PRICE, Usage(100, 10, 110, tier="priority", batch=True), 140_000, False),
        # Units without a price are never silently free.
        (PRICE, Usage(100, units=(("web_searches", 1),)), 200_000, True),
        (PRICE, Usage(100, units=(("web_searches", 0),)), 200_000, False),
        (PRICE, Usage(units=(("images", 1),)), 0, True),
        (PRICE, Usage(5, 0, 5, units=(("images", 1),)), 10_000, False),
        (Price(), Usage(50, 50, 100), 0, False),
        (Price(units={"images": 100}), Usage(50, 50, 100), 0, True),
        (Price(units={"images": 100}), Usage(units=(("images", 2),)), 200_000, False),
        (Price(units={"requests": 5000}), Usage(50, 50, 100), 5_000_000, False),
        (
            Price(1, 1, units={"requests": 5000}),
            Usage(50, 50, 100, reasoning=9),
            5_100_000,
            False,
        ),
        (
            Price(1, 2, units={"reasoning_tokens": 3}),
            Usage(50, 50, 100, reasoning=10),
            160_000,
            False,
        ),
        (
            Price(units={"audio_seconds": 100}, least_seconds=10),
            Usage(units=(("audio_seconds", 3),)),
            1_000_000,
            False,
        ),
        # Parts are at most the whole that they are part of.
        (
            Price(1, 2, units={"input_audio_tokens": 10, "output_audio_tokens": 20}),
            Usage(
                10,
                10,
                20,
                units=(("input_audio_tokens", 99), ("output_audio_tokens", 99)),
            ),
            300_000,
            False,
        ),
        (
            PRICE,
            Usage(9, 0, 9, 0, 0, 9, units=(("cache_write_1h_tokens", 99),)),
            36_000,
            False,
        ),
        (
            Price(1, 2, 0.5, units={"cache_audio_read_tokens": 0.1}),
            Usage(10, 0, 10, 10, units=(("cache_audio_read_tokens", 4),)),
            3_400,
            False,
        ),
        # The same unit twice is added up.
        (
            Price(units={"images": 100, "images:hd": 200}),
            Usage(units=(("images", 1), ("images", 2), ("images:hd", 1))),
            500_000,
            False,
        ),
        # The whole request at the rate of the tier that its prompt exceeds.
        (
            Price(1, 1, contexts=((10, Price(2, 2)), (20, Price(3, 3)))),
            Usage(10, 1, 11),
            11_000,
            False,
        ),
        (
            Price(1, 1, contexts=((10, Price(2, 2)), (20, Price(3, 3)))),
            Usage(11, 1, 12),
            24_000,
            False,
        ),
        (
            Price(1, 1, contexts=((10, Price(2, 2)), (20, Price(3, 3)))),
            Usage(21, 1, 22),
            66_000,
            False,
        ),
        # Of a sum over two answers, each prompt counts by itself.
        (
            Price(1, 1, contexts=((10, Price(2, 2)), (20, Price(3, 3)))),
            Usage(20, 2, 22, answers=2),
            22_000,
            False,
        ),
    ],
)
def test_costs(price, usage, nanos, part):
    """Right values for each dimension."""
    assert price_usage(price, usage) == (nanos, part)


def test_prices_by_time():
    """The last price in force applies; a night may pass midnight."""
    price = Price(
        1,
        timed=(
            TimedPrice(Price(2), since=1000.0),
            TimedPrice(Price(3), since=1000.0, start=82_800, end=3600),
            TimedPrice(Price(4), start=7200, end=10_800),
        ),
    )
    day = 86_400.0
    assert price_at(price, 5.0).input == 1
    assert price_at(price, 7200.0).input == 4
    assert price_at(price, day + 5).input == 3
    assert price_at(price, day + 83_000).input == 3
    assert price_at(price, day + 50_000).input == 2
    assert price_usage(price, Usage(1), day + 50_000) == (2000, False)


@given(
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
def test_rounding(prompt, completion, rate, other_rate):
    """Rounded half up, without errors of binary fractions; rates have six digits."""
    price = Price(rate / MILLION, other_rate / MILLION)
    exact = prompt * rate + completion * other_rate  # 1e-3 nano-dollars
    found = price_usage(price, Usage(prompt, completion, prompt + completion))[0]
    assert abs(found - (exact + 500) // 1000) <= exact * 1e-15


@pytest.mark.parametrize(
    ("rate", "nanos"), [(0.0005, 1), (0.0015, 2), (0.000499, 0), (1.0005, 1001)]
)
def test_half_a_nano_dollar_is_rounded_up(rate, nanos):
    """The middle between two numbers, which binary fractions miss."""
    assert price_usage(Price(rate), Usage(1, 0, 1)) == (nanos, False)


AMOUNT = st.integers(0, 5_000_000)
UNIT = st.sampled_from(
    [
        "input_audio_tokens",
        "cache_audio_read_tokens",
        "output_image_tokens",
        "cache_write_1h_tokens",
        "web_searches",
        "images:1024x1024:hd",
        "audio_seconds",
    ]
)


@given(
    st.sampled_from(["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro", "whisper-1"]),
    AMOUNT,
    AMOUNT,
    st.floats(0, 1),
    st.floats(0, 1),
    st.lists(st.tuples(UNIT, AMOUNT), max_size=4),
    st.sampled_from(["", "flex", "priority", "nonsense"]),
)
def test_costs_are_never_negative_and_grow_with_the_answer(
    model, prompt, completion, cached, written, units, tier
):
    """Whatever an answer states, its cost is at least 0, and more output never costs less."""
    in_cache = int(prompt * cached)
    to_cache = int((prompt - in_cache) * written)

    def cost(more):
        usage = Usage(
            prompt,
            completion + more,
            prompt + completion + more,
            in_cache,
            0,
            to_cache,
            units=tuple(units),
            tier=tier,
        )
        return TABLE.quote(model, usage, NOON)[0]

    assert 0 <= cost(0) <= cost(1000)


PLAIN = Price(2.5, 10.0, cached=1.25, units={"web_searches": 10_000.0})


@pytest.mark.parametrize(
    ("price", "plain"),
    [
        (PLAIN, True),
        (Price(2.5, 10.0, tiers={"flex": Price(1.0, 5.0)}), True),
        (Price(2.5, 10.0, tiers={"default": Price(1.0, 5.0)}), False),
        (Price(2.5, 10.0, contexts=((200_000, Price(5.0, 20.0)),)), False),
        (Price(2.5, 10.0, timed=(TimedPrice(Price(1.0, 1.0)),)), False),
        (Price(units={"images": 1.0}), False),
        (Price(2.5, 10.0, units={"requests": 5.0}), False),
        (Price(2.5, 10.0, units={"reasoning_tokens": 5.0}), False),
    ],
)
def test_plain_prices(price, plain):
    """A plain price is the same for every size, time and ordinary tier."""
    assert is_plain(price) is plain


@given(
    st.sampled_from((PLAIN, Price(0.15, 0.6), Price(3.0, 0.0))),
    *(st.integers(0, 10_000_000) for _ in range(4)),
    st.sampled_from(sorted(PLAIN_TIERS)),
)
def test_plain_prices_give_the_same_cost(price, prompt, completion, rest, cached, tier):
    """The short calculation agrees with the whole one to the nano-dollar."""
    usage = Usage(
        prompt, completion, prompt + rest, cached=min(cached, prompt + 1), tier=tier
    )
    assert (price_plain(price, usage), False) == price_usage(price, usage)

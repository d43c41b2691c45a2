"""Stated prices become prices by unit, and are printed as the file accepts them."""

import tomllib

import msgspec
import pytest

from gateway.config import ConfigError, load
from gateway.config.prices import ModelPrice, PriceRates, price_words, to_price
from gateway.core.model import Price

TEXT = """
input = 1.0
output = 3.0
cache_write_hour = 2.0
audio_hours = 0.36
images = 0.04
images_by = { "1024x1792:HD" = 0.12 }
requests = 5.0
web_searches = 10.0
contexts = [{ above = 9, input = 4.0 }, { above = 5, input = 2.0, output = 4.0 }]
tiers = { Flex = { input = 0.5, output = 1.5 } }
"""


def read(text):
    """The price of a table in the file."""
    return to_price(msgspec.convert(tomllib.loads(text), ModelPrice))


def test_units_are_per_million():
    """Each key in its own unit; tiers and contexts keep what they do not state."""
    price = read(TEXT)
    assert (price.input, price.output, price.cache_write_1h) == (1, 3, 2)
    assert price.units == pytest.approx(
        {
            "audio_seconds": 100,
            "images": 40_000,
            "images:1024x1792:hd": 120_000,
            "requests": 5000,
            "web_searches": 10_000,
        }
    )
    assert [(above, p.input, p.output) for above, p in price.contexts] == [
        (5, 2, 4),
        (9, 4, 3),
    ]
    assert list(price.tiers) == ["flex"]
    assert (price.tiers["flex"].input, price.tiers["flex"].units) == (0.5, price.units)


def test_words_are_what_the_file_accepts():
    """A printed price is read as the same price."""
    price = read(TEXT)
    again = tomllib.loads(f"x = {{ {price_words(price)} }}")["x"]
    assert to_price(msgspec.convert(again, ModelPrice)) == price
    assert to_price(PriceRates(images=0.04)) == Price(units={"images": 40_000.0})
    assert price_words(Price(units={"video_seconds:720p": 5e5})).endswith("720p = 0.5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prices = { m = { input = 1.0 } }", '"output" is missing'),
        ("prices = { m = { output = 1.0 } }", '"input" is missing'),
        ("prices = { m = {} }", '"input" and "output" are missing'),
        ("unknown_price = { input = 1.0 }", '"output" is missing'),
        ("prices = { m = { input = -1.0, output = 1.0 } }", "out of range"),
        ("prices = { m = { input = 1.0, output = 1.0, inptu = 1 } }", "did you mean"),
    ],
)
def test_half_a_price_is_an_error(line, message):
    """A rate that is not stated would be free, so both are."""
    text = f'[[upstream]]\nurl = "http://x"\n[policy.default]\n{line}\n'
    with pytest.raises(ConfigError) as caught:
        load("f.toml", {}, {}, text=text)
    assert message in str(caught.value.problems[0])


def test_a_price_by_unit_alone_is_valid():
    """Models that bill no tokens need no rate for them."""
    text = '[[upstream]]\nurl = "http://x"\n[policy.default.prices.m]\nimages = 0.04\n'
    assert load("f.toml", {}, {}, text=text).warnings == ()

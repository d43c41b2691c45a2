"""Prices as the configuration states them: dollars per the unit that providers quote."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.core.model import Price

Rate = Annotated[float, Meta(ge=0)]


class PriceRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars. Tokens without a price of their own kind cost as `input` or `output`;
    what is billed by another unit and has no price here is free and marked in records.
    """

    input: Rate | None = None
    """Per million prompt tokens."""
    output: Rate | None = None
    """Per million completion tokens."""
    cached: Rate | None = None
    """Per million prompt tokens read from the provider's cache; absent: as `input`."""
    cache_write: Rate | None = None
    """Per million prompt tokens written to it; absent: as `input`."""
    cache_write_hour: Rate | None = None
    """The same for one hour; absent: as `cache_write`."""
    reasoning: Rate | None = None
    """Per million reasoning tokens."""
    input_audio: Rate | None = None
    """Per million audio tokens of the prompt."""
    output_audio: Rate | None = None
    """Per million audio tokens of the completion."""
    cached_audio: Rate | None = None
    """Per million audio tokens read from the cache."""
    input_image: Rate | None = None
    """Per million image tokens of the prompt."""
    output_image: Rate | None = None
    """Per million image tokens of the completion."""
    cached_image: Rate | None = None
    """Per million image tokens read from the cache."""
    input_video: Rate | None = None
    """Per million video tokens of the prompt."""
    output_video: Rate | None = None
    """Per million video tokens of the completion."""
    audio_hours: Rate | None = None
    """Per hour of audio."""
    video_seconds: Rate | None = None
    """Per second of video."""
    characters: Rate | None = None
    """Per million characters of the input."""
    images: Rate | None = None
    """Per image."""
    images_by: dict[str, Rate] = {}
    """Per image of a size, a quality, or both: `{ "1024x1792:hd" = 0.12 }`."""
    pages: Rate | None = None
    """Per thousand pages."""
    requests: Rate | None = None
    """Per thousand requests."""
    search_units: Rate | None = None
    """Per thousand search units (rerank)."""
    web_searches: Rate | None = None
    """Per thousand web searches."""
    file_searches: Rate | None = None
    """Per thousand file searches."""


class ContextPrice(PriceRates, frozen=True, kw_only=True):
    """Prices of requests with a longer prompt; an absent one is that of the model."""

    above: Annotated[int, Meta(ge=1)]
    """Prompt tokens beyond which the whole request costs this."""


class ModelPrice(PriceRates, frozen=True):
    """US dollars, with context and service tiers."""

    contexts: tuple[ContextPrice, ...] = ()
    """Prices of long prompts, the keys of this table and `above`: the prompt tokens
    beyond which the whole request costs this. An absent price is that of the model."""
    tiers: dict[str, PriceRates] = {}
    """Prices, with the keys of this table, by the service tier that the answer states:
    `flex`, `priority`, `fast`, `batch` (absent: half)."""


# Attributes of ``Price`` by key; the other keys are its units, with the factor from the quoted
# amount to dollars per million.
_TOKENS = {
    "input": "input",
    "output": "output",
    "cached": "cached",
    "cache_write": "cache_write",
    "cache_write_hour": "cache_write_1h",
}
_MILLION = 1e6
_UNITS = {
    "reasoning": ("reasoning_tokens", 1),
    "input_audio": ("input_audio_tokens", 1),
    "output_audio": ("output_audio_tokens", 1),
    "cached_audio": ("cache_audio_read_tokens", 1),
    "input_image": ("input_image_tokens", 1),
    "output_image": ("output_image_tokens", 1),
    "cached_image": ("cache_image_read_tokens", 1),
    "input_video": ("input_video_tokens", 1),
    "output_video": ("output_video_tokens", 1),
    "audio_hours": ("audio_seconds", _MILLION / 3600),
    "video_seconds": ("video_seconds", _MILLION),
    "characters": ("input_characters", 1),
    "images": ("images", _MILLION),
    "pages": ("pages", 1000),
    "requests": ("requests", 1000),
    "search_units": ("search_units", 1000),
    "web_searches": ("web_searches", 1000),
    "file_searches": ("file_searches", 1000),
}


def to_price(stated: PriceRates) -> Price:
    """A stated price; its context and service tiers are completed with its own rates."""
    own = _rates(stated)
    if not isinstance(stated, ModelPrice):
        return _price(own)
    contexts = sorted(stated.contexts, key=lambda one: one.above)
    return msgspec.structs.replace(
        _price(own),
        contexts=tuple((one.above, _price(own | _rates(one))) for one in contexts),
        tiers={
            name.lower(): _price(own | _rates(one))
            for name, one in stated.tiers.items()
        },
    )


def _rates(stated: PriceRates) -> dict[str, float]:
    """The stated rates by unit of ``Price``."""
    found: dict[str, float] = {}
    for key, attribute in _TOKENS.items():
        value = getattr(stated, key)
        if value is not None:
            found[attribute] = value
    for key, (unit, factor) in _UNITS.items():
        value = getattr(stated, key)
        if value is not None:
            found[unit] = value * factor
    for name, value in stated.images_by.items():
        found[f"images:{name.lower()}"] = value * _MILLION
    return found


def _price(rates: dict[str, float]) -> Price:
    names = _TOKENS.values()
    tokens: dict[str, Any] = {k: v for k, v in rates.items() if k in names}
    return Price(**tokens, units={k: v for k, v in rates.items() if k not in names})


def price_words(price: Price) -> str:
    """A price in the words of the configuration: ``input = 2.5, output = 10``. Changes
    with time are left out.
    """
    rates: dict[str, float] = {
        key: value
        for key, attribute in _TOKENS.items()
        if (value := getattr(price, attribute)) is not None
    }
    names = {unit: (key, factor) for key, (unit, factor) in _UNITS.items()}
    images: dict[str, float] = {}
    for unit, value in price.units.items():
        base, _, size = unit.partition(":")
        key, factor = names[base]
        if size and base != "images":  # only in the price table
            rates[f"{key}:{size}"] = value / factor
        elif size:
            images[size] = value / factor
        else:
            rates[key] = value / factor
    words = [f"{key} = {_number(value)}" for key, value in rates.items()]
    if images:
        sizes = ", ".join(
            f'"{size}" = {_number(value)}' for size, value in images.items()
        )
        words.append(f"images_by = {{ {sizes} }}")
    if price.contexts:
        more = [
            f"{{ above = {above}, {price_words(one)} }}"
            for above, one in price.contexts
        ]
        words.append(f"contexts = [{', '.join(more)}]")
    if price.tiers:
        more = [f"{k} = {{ {price_words(one)} }}" for k, one in price.tiers.items()]
        words.append(f"tiers = {{ {', '.join(more)} }}")
    return ", ".join(words)


def _number(value: float) -> str:
    """A number as TOML writes it: ``1.0``, ``0.36``."""
    text = f"{value:.12g}"
    return f"{text}.0" if text.isdigit() else text

"""Compiles the prices of genai-prices into the table that workers load.

``python -m gateway.metering.compile_prices`` writes ``prices.json`` beside this file, as
part of a release: the gateway then has dated prices without the library and without a
network. Where a newer release of the library is installed (``tidegate[prices]``), the
gateway runs this module once at its start and at a reload, in a process of its own, and
workers load the result. They never import the library: it costs 40 MB and a second.

genai-prices is licensed under the MIT licence, Copyright (c) 2025 Pydantic Services Inc.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec

from gateway.core.model import Price, TimedPrice
from gateway.metering.models import plain_name, spellings
from gateway.metering.price_book import ModelRow, PriceFile, ProviderRow, Rule

SOURCE = "genai-prices (MIT licence, https://github.com/pydantic/genai-prices)"
_MILLION = 1_000_000
_KILO = 1_000
_HOUR_S = 3_600
# Attributes of ``Price`` by the library's price keys.
_TOKENS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
}
# Units of ``Usage.units`` and the factor to dollars per million, by price key. Keys that
# are not here (text messages, annotated pages, citations) are of no unit that we count.
_UNITS = {
    "input_audio_mtok": ("input_audio_tokens", 1),
    "output_audio_mtok": ("output_audio_tokens", 1),
    "cache_audio_read_mtok": ("cache_audio_read_tokens", 1),
    "input_image_mtok": ("input_image_tokens", 1),
    "output_image_mtok": ("output_image_tokens", 1),
    "cache_image_read_mtok": ("cache_image_read_tokens", 1),
    "input_video_mtok": ("input_video_tokens", 1),
    "output_video_mtok": ("output_video_tokens", 1),
    "output_reasoning_mtok": ("reasoning_tokens", 1),
    "audio_hours": ("audio_seconds", Decimal(_MILLION) / _HOUR_S),
    "input_audio_hours": ("audio_seconds", Decimal(_MILLION) / _HOUR_S),
    "input_mchars": ("input_characters", 1),
    "input_document_kpages": ("pages", _KILO),
    "rerank_searches_kcount": ("search_units", _KILO),
    "web_searches_kcount": ("web_searches", _KILO),
    "storage_searches_kcount": ("file_searches", _KILO),
    "requests_kcount": ("requests", _KILO),
}
_OPERATORS = {
    "ClauseStartsWith": ("^", "starts_with"),
    "ClauseEndsWith": ("$", "ends_with"),
    "ClauseContains": ("~", "contains"),
    "ClauseRegex": ("r", "regex"),
    "ClauseOr": ("|", "or_"),
    "ClauseAnd": ("&", "and_"),
}
# Seconds that Groq bills at least for a transcription, as the library has it.
_LEAST_SECONDS = {
    ("groq", "whisper-large-v3"): 10.0,
    ("groq", "whisper-large-v3-turbo"): 10.0,
}
# A name without its version may be any model's ("claude-sonnet"), so it needs a digit.
# The versions of Bedrock's names are not the model's ("amazon.nova-lite-v1:0").
_DIGIT = re.compile(r"\d")
# Contexts of the library's variants that are service tiers of an answer.
_TIER_KEYS = ("processing", "service_tier", "speed")


class _SupplementFamily(msgspec.Struct):
    """What the library lacks, by ``source``: ``models`` are more models of ``provider``,
    ``also`` more units of models that the library has (dollars per million), ``vendors``
    rules of names that belong to a provider wherever they are served.
    """

    source: str
    provider: str = ""
    models: dict[str, Price] = {}
    also: dict[str, dict[str, float]] = {}
    vendors: dict[str, Rule] = {}


def supplement() -> dict[str, _SupplementFamily]:
    """Our own prices, by family."""
    text = files("gateway.metering").joinpath("supplement.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, _SupplementFamily])


def compile_table(
    providers: list[Any], release: str, dated: str, now: dt.datetime
) -> bytes:
    """The table as JSON. ``providers``: those of the library; prices that ended before
    ``now`` are left out, those that begin later are kept with their times.
    """
    prices = _Prices()
    extra = list(supplement().values())
    vendors = {name: rule for one in extra for name, rule in one.vendors.items()}
    rows = []
    for provider in providers:
        own = [family for family in extra if family.provider == provider.id]
        also = {name: units for family in own for name, units in family.also.items()}
        models = [
            ModelRow(
                model.id,
                prices.place(
                    _model_price(provider.id, model, also.get(model.id, {}), now)
                ),
                list(_rules(model.match)),
            )
            for model in provider.models
        ]
        models += [
            ModelRow(name, prices.place(price), [name])
            for family in own
            for name, price in family.models.items()
        ]
        rows.append(
            ProviderRow(
                provider.id,
                provider.api_pattern,
                models,
                _vendor_rule(provider, vendors.get(provider.id)),
                provider.fallback_model_providers or [],
            )
        )
    names = _dearest(rows, prices.found)
    file = PriceFile(SOURCE, release, dated, prices.found, rows, names)
    return msgspec.json.encode(file)


class _Prices:
    """Distinct prices by place: many models share one."""

    def __init__(self) -> None:
        self.found: list[Price] = []
        self._places: dict[bytes, int] = {}

    def place(self, price: Price) -> int:
        key = msgspec.json.encode(price, order="sorted")
        place = self._places.setdefault(key, len(self.found))
        if place == len(self.found):
            self.found.append(price)
        return place


def _rules(clause: Any) -> Iterator[Rule]:
    """The alternatives of a clause."""
    if type(clause).__name__ == "ClauseOr":
        for part in clause.or_:
            yield from _rules(part)
    else:
        yield _rule(clause)


def _rule(clause: Any) -> Rule:
    kind = type(clause).__name__
    if kind == "ClauseEquals":
        return clause.equals.lower()
    operator, attribute = _OPERATORS[kind]
    argument = getattr(clause, attribute)
    if isinstance(argument, list):
        return [operator, [_rule(part) for part in argument]]
    return [operator, argument if operator == "r" else argument.lower()]


def _vendor_rule(provider: Any, more: Rule) -> Rule:
    if provider.model_match is None:
        return more
    rule = _rule(provider.model_match)
    return rule if more is None else ["|", [rule, more]]


def _dearest(rows: list[ProviderRow], prices: list[Price]) -> dict[str, int]:
    """Every plain name of a model, with the place of its dearest price; then the same
    names without date and version, where no model is called so.
    """
    found: dict[str, int] = {}
    shorter: dict[str, int] = {}
    for row in rows:
        for model in row.models:
            names = [rule for rule in model.rules if isinstance(rule, str)]
            for name in (model.id.lower(), *names):
                _keep_dearest(found, plain_name(name), model.price, prices)
                for short in map(plain_name, spellings(name)[1:]):
                    if _DIGIT.search(short) or row.id == "aws":
                        _keep_dearest(shorter, short, model.price, prices)
    return dict(sorted((shorter | found).items()))


def _keep_dearest(
    found: dict[str, int], name: str, place: int, prices: list[Price]
) -> None:
    if _rank(prices[place]) >= _rank(prices[found.setdefault(name, place)]):
        found[name] = place


def _rank(price: Price) -> tuple[float, float]:
    return price.input + price.output, sum(price.units.values())


# -- prices --------------------------------------------------------------------------


def _model_price(
    provider: str, model: Any, also: dict[str, float], now: dt.datetime
) -> Price:
    least = _LEAST_SECONDS.get((provider, model.id), 0.0)
    edges = _edges(model, now)
    price = _price_then(model, now, also, least)
    timed = []
    for since in [now, *edges.starts]:
        later = 0.0 if since is now else since.timestamp()
        for start, end in edges.spans:
            moment = since.replace(hour=0, minute=0, second=0, microsecond=0)
            then = _price_then(model, moment + dt.timedelta(seconds=start), also, least)
            timed.append(TimedPrice(then, later, start, end))
    if not edges.starts and len(edges.spans) == 1:
        return price
    return msgspec.structs.replace(price, timed=tuple(timed))


class _Edges(NamedTuple):
    """When a model's price changes: future days, and spans of the day in seconds."""

    starts: list[dt.datetime]
    spans: list[tuple[int, int]]


def _edges(model: Any, now: dt.datetime) -> _Edges:
    listed = model.prices if isinstance(model.prices, list) else []
    starts: set[dt.datetime] = set()
    seconds: set[int] = set()
    for one in (*listed, *(model.price_variants or ())):
        constraint = one.constraint
        day = getattr(constraint, "start_date", None)
        if day is not None:
            start = dt.datetime.combine(day, dt.time(), dt.UTC)
            if start > now:
                starts.add(start)
        elif constraint is not None:
            for edge in (constraint.start_time, constraint.end_time):
                zoned = edge if edge.tzinfo else edge.replace(tzinfo=dt.UTC)
                moment = dt.datetime.combine(now.date(), zoned).astimezone(dt.UTC)
                seconds.add(moment.hour * _HOUR_S + moment.minute * 60 + moment.second)
    if not seconds:
        return _Edges(sorted(starts), [(0, 0)])
    marks = sorted(seconds)
    return _Edges(sorted(starts), list(zip(marks, marks[1:] + marks[:1], strict=True)))


def _price_then(
    model: Any, moment: dt.datetime, also: dict[str, float], least: float
) -> Price:
    """The price in force at one time, with its service tiers."""
    price = to_price(model.get_prices(moment), also, least)
    tiers = {}
    for variant in model.price_variants or ():
        key, value = next(iter(variant.when.items()))
        if len(variant.when) > 1 or key not in _TIER_KEYS or value in tiers:
            continue
        found = to_price(model.get_prices(moment, variant.when), also, least)
        # A batch without a discount is a price of its own: else it would cost half.
        if found != price or key == "processing":
            tiers[value] = found
    return msgspec.structs.replace(price, tiers=dict(sorted(tiers.items())))


def to_price(prices: Any, also: dict[str, float], least: float) -> Price:
    """A ``ModelPrice`` of the library in our form, with its context tiers."""
    found = {
        key: value
        for key, value in vars(prices).items()
        if value is not None and not key.startswith("_")
    }
    edges = {
        tier.start
        for value in found.values()
        if not isinstance(value, Decimal)
        for tier in value.tiers
    }
    whole = _flat(found, 0, also, least)
    contexts = [(edge, _flat(found, edge + 1, also, least)) for edge in sorted(edges)]
    return msgspec.structs.replace(whole, contexts=tuple(contexts))


def _flat(
    prices: dict[str, Any], prompt: int, also: dict[str, float], least: float
) -> Price:
    """The price of requests with ``prompt`` tokens."""
    tokens: dict[str, Any] = {}
    units = dict(also)
    for key, value in prices.items():
        rate = value
        if not isinstance(value, Decimal):
            rate = value.base
            for tier in value.tiers:
                if prompt > tier.start:
                    rate = tier.price
        if key in _TOKENS:
            tokens[_TOKENS[key]] = float(rate)
        elif key in _UNITS:
            unit, factor = _UNITS[key]
            units[unit] = float(rate * factor)
    return Price(**tokens, units=dict(sorted(units.items())), least_seconds=least)


# -- the program ---------------------------------------------------------------------


def compile_installed(dated: str, now: dt.datetime) -> bytes:
    """The table of the installed library. ``dated``: the day of its release; "": unknown,
    so the newest day on which one of its prices began, which is at most that day.
    Raises ImportError.
    """
    from genai_prices.data import providers  # noqa: PLC0415

    return compile_table(
        providers, version("genai-prices"), dated or _newest_day(providers, now), now
    )


def _newest_day(providers: list[Any], now: dt.datetime) -> str:
    days = [
        day
        for provider in providers
        for model in provider.models
        for one in (
            *(model.prices if isinstance(model.prices, list) else ()),
            *(model.price_variants or ()),
        )
        if (day := getattr(one.constraint, "start_date", None)) is not None
        and day <= now.date()
    ]
    return max(days).isoformat() if days else now.date().isoformat()


def main(arguments: list[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    beside = str(files("gateway.metering").joinpath("prices.json"))
    parser.add_argument("--out", default=beside)
    parser.add_argument("--dated", default="", help="day of the library's release")
    given = parser.parse_args(arguments)
    text = compile_installed(given.dated, dt.datetime.now(dt.UTC))
    with open(given.out, "wb") as file:
        file.write(text)


if __name__ == "__main__":  # pragma: no cover - the program itself
    main()

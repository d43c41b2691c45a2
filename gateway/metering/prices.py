"""Prices of models: the table of the package, which policies may override."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

import msgspec
from msgspec.structs import replace

from gateway.core.lru import Lru
from gateway.core.model import NANOS_PER_USD, Price, PriceSource, Usage
from gateway.metering.cost import (
    PLAIN_TIERS,
    is_plain,
    price_plain,
    price_usage,
    without_tools,
)
from gateway.metering.models import matches_model, plain_name, spellings
from gateway.metering.price_book import PriceBook

_CACHED_NAMES = 4096
OTHER = "other"
# A provider that states what it bills, with fees that the table does not know (searches,
# plugins, file parsers).
_ROUTER = "openrouter"
# Dollars that an answer may state as its cost.
_MOST_USD = 1e6


def packaged_prices() -> bytes:
    """The price table of this version, as JSON."""
    return files("gateway.metering").joinpath("prices.json").read_bytes()


# What an answer costs: its nano-dollars (None: its model has no price), where the price is
# from, and whether some unit or its service tier has none, so that only the rest is in the
# sum. A plain tuple: a named one costs 0.2 microseconds more for each answer.
Quote = tuple[int | None, PriceSource, bool]
_UNPRICED: Quote = (None, "", False)
# Where a price is from, the price, and whether it is plain (``cost.is_plain``);
# ("", None, False) of an unknown model.
_Found = tuple[PriceSource, Price | None, bool]


class _Provider(msgspec.Struct):
    id: str


class _Providers(msgspec.Struct):
    providers: list[_Provider]


def provider_ids() -> set[str]:
    """The names of the providers in the packaged table."""
    found = msgspec.json.decode(packaged_prices(), type=_Providers)
    return {row.id for row in found.providers}


class PriceTable:
    """Prices by model name; look-ups go through a bounded cache.

    ``book``: the price table; ``provider``: whose prices it applies ("": unknown). A
    policy's own prices take precedence: ``named`` (exact names), then ``globs`` (first
    match). ``unknown``: the price of all other models. Names and patterns are in lower
    case. ``trust_cost``: a cost that the answer states is its price.
    """

    __slots__ = (
        "_answered",
        "_found",
        "_globs",
        "_labels",
        "_named",
        "_provider",
        "_trust_cost",
        "_unknown",
        "book",
    )

    def __init__(
        self,
        book: PriceBook,
        *,
        globs: tuple[tuple[str, Price], ...] = (),
        named: Mapping[str, Price] | None = None,
        unknown: Price | None = None,
        provider: str = "",
        trust_cost: bool = False,
    ) -> None:
        self.book = book
        self._globs = globs
        self._named = named or {}
        self._unknown = unknown
        self._provider = provider
        self._trust_cost = trust_cost
        self._found: Lru[str, _Found] = Lru(_CACHED_NAMES)
        self._labels: Lru[str, str] = Lru(_CACHED_NAMES)
        self._answered: Lru[str, Price] = Lru(_CACHED_NAMES)

    @classmethod
    def parse(cls, text: bytes) -> PriceTable:
        """Decode a table from JSON. Raises msgspec.DecodeError."""
        return cls(PriceBook.parse(text))

    @property
    def dated(self) -> str:
        """The day of the table, ``2026-11-10``."""
        return self.book.file.dated

    def with_overrides(
        self,
        prices: Mapping[str, Price],
        unknown: Price | Literal["free", "deny"] = "free",
    ) -> PriceTable:
        """This table with a policy's own prices, which take precedence.

        ``prices``: by model name or glob pattern, as clients write the model.
        ``unknown``: the price of a model that is in neither; None for "free"
        and "deny", where callers count it as free or refuse it.
        """
        globs = [(k.lower(), v) for k, v in prices.items() if set(k) & set("*?[")]
        globs.sort(key=lambda pair: -len(pair[0]))
        named = {k.lower(): v for k, v in prices.items() if not set(k) & set("*?[")}
        return PriceTable(
            self.book,
            globs=tuple(globs),
            named=named,
            unknown=unknown if isinstance(unknown, Price) else None,
            provider=self._provider,
            trust_cost=self._trust_cost,
        )

    def of_upstream(self, provider: str, *, trust_cost: bool = False) -> PriceTable:
        """This table for the answers of one upstream."""
        if provider == self._provider and trust_cost == self._trust_cost:
            return self
        return PriceTable(
            self.book,
            globs=self._globs,
            named=self._named,
            unknown=self._unknown,
            provider=provider,
            trust_cost=trust_cost,
        )

    def price(self, model: str) -> Price | None:
        """Dollars per million tokens; None when unknown."""
        return self._look_up(model)[1]

    def source(self, model: str) -> PriceSource:
        """Where the price of a model is from; "" when unknown."""
        return self._look_up(model)[0]

    def knows(self, model: str) -> bool:
        """Whether the model has a price."""
        return self._look_up(model)[1] is not None

    def known_name(self, model: str) -> str:
        """The name for a metric label: a name in the table, else ``other``."""
        label = self._labels.get(model)
        if label is None:
            label = self.book.label(model) or OTHER
            self._labels.put(model, label)
        return label

    def canonical_name(self, model: str) -> str:
        """One name for all spellings of a model, by which limits count: the shortest
        that the packaged table has, else the name without prefixes.
        """
        for name in reversed(spellings(model)):
            if self.book.has_name(name):
                return name
        known = self.known_name(model)
        return plain_name(model) if known == OTHER else known

    def cost_nanos(self, model: str, usage: Usage, at: float = 0.0) -> int | None:
        """Nano-dollars of an exchange, rounded half up; None if the price is unknown.

        ``at``: when the request was made (epoch seconds).
        """
        price = self._look_up(model)[1]
        return None if price is None else price_usage(price, usage, at)[0]

    def most_nanos(self, model: str, usage: Usage, tier: str, at: float) -> int:
        """Nano-dollars that a request may cost: at the service tier that it asks for, if
        that is dearer. A model without a price, or with that of a policy's pattern, costs
        as the dearest that has answered for it (a deployment's name, a router's alias);
        without any 0.
        """
        source, price, _ = self._look_up(model)
        answered = None
        if price is None or (source == "policy" and self._globs):
            answered = self._answered.get(model)
        if price is None:
            price, answered = answered, None
        if price is None:
            return 0
        nanos = price_usage(price, usage, at)[0]
        if answered is not None:
            nanos = max(nanos, price_usage(answered, usage, at)[0])
        if tier:
            tiered = replace(usage, tier=tier)
            nanos = max(nanos, price_usage(price, tiered, at)[0])
        return nanos

    def quote(
        self, model: str, usage: Usage, at: float = 0.0, *, answered: str = ""
    ) -> Quote:
        """What an answer costs. ``model``: the request's; ``answered``: the answer's.

        In this order: the policy's price of the request's model, the cost that the
        answer states (where it is trusted), the price of the answer's model, that of the
        request's model, the policy's ``unknown_price``. A policy's pattern does not make
        another known model cheaper than it is.
        """
        found = self._found.get(model) or self._look_up(model)
        source, price, plain = found
        if source == "policy":
            if self._globs and answered and answered != model:
                other = self._other_price(model, found, answered)
                if other is not None:
                    return self._dearer(model, usage, at, price, other)
        else:
            if usage.cost_usd is not None:
                nanos = _stated_nanos(usage.cost_usd)
                if nanos is not None and self._trust_cost:
                    return nanos, "answer", False
                if nanos is not None and self._provider == _ROUTER:
                    return self._at_least(nanos, model, usage, at, answered)
            if answered and answered != model:
                other = self._found.get(answered) or self._look_up(answered)
                if other[0] in ("table", "policy"):
                    if price is None:
                        self._remember(model, other[1])
                    source, price, plain = other
        if price is None:
            return self._price_tools(usage, at) if usage.tools else _UNPRICED
        if (
            plain
            and usage.tier in PLAIN_TIERS
            and not (usage.units or usage.cache_write or usage.batch or usage.tools)
        ):
            return price_plain(price, usage), source, False
        nanos, part = self._cost(price, usage, at)
        return nanos, source, part

    def _cost(self, price: Price, usage: Usage, at: float) -> tuple[int, bool]:
        """``price_usage``, with what models of tools have used at their own prices."""
        if not usage.tools:
            return price_usage(price, usage, at)
        nanos, part = price_usage(price, without_tools(usage), at)
        for used in usage.tools:
            own = self._look_up(used.model)[1]
            billed = replace(used, batch=True) if usage.batch else used
            more, unpriced = price_usage(own or price, billed, at)
            nanos += more
            part = part or unpriced or own is None
        return nanos, part

    def _price_tools(self, usage: Usage, at: float) -> Quote:
        """What models of tools cost in an answer whose own model has no price."""
        nanos, _ = self._cost(Price(0, 0), usage, at)
        return (nanos, "table", True) if nanos else _UNPRICED

    def _at_least(
        self, stated: int, model: str, usage: Usage, at: float, answered: str
    ) -> Quote:
        """The larger of a stated cost and the price without it."""
        usage = replace(usage, cost_usd=None)
        quote = self.quote(model, usage, at, answered=answered)
        if quote[0] is not None and quote[0] >= stated:
            return quote
        return stated, "answer", False

    def _other_price(self, model: str, found: _Found, answered: str) -> _Found | None:
        """The price of an answer's model, if it is another one than a pattern of the
        policy was meant for; None where the policy's price holds.
        """
        other = self._look_up(answered)
        if other[1] is found[1] or other[0] not in ("table", "policy"):
            return None
        if any(name in self._named for name in _names(model)):
            return None
        same = self.canonical_name(answered) == self.canonical_name(model)
        return None if same else other

    def _dearer(
        self, model: str, usage: Usage, at: float, price: Price | None, other: _Found
    ) -> Quote:
        """The higher of two prices: a policy's pattern, and the answer's model (or its
        stated cost, where that is trusted).
        """
        assert price is not None
        assert other[1] is not None
        self._remember(model, other[1])
        nanos, part = self._cost(price, usage, at)
        mine: Quote = (nanos, "policy", part)
        stated = _stated_nanos(usage.cost_usd) if self._trust_cost else None
        if stated is not None:
            return max(mine, (stated, "answer", False), key=_nanos_of)
        nanos, part = self._cost(other[1], usage, at)
        return max(mine, (nanos, other[0], part), key=_nanos_of)

    def _remember(self, model: str, price: Price | None) -> None:
        """Keep the dearest price that answered for a model without one of its own."""
        known = self._answered.get(model)
        if price is not None and (known is None or _rank(price) > _rank(known)):
            self._answered.put(model, price)

    def _look_up(self, model: str) -> _Found:
        found = self._found.get(model)
        if found is None:
            found = self._resolve(model)
            self._found.put(model, found)
        return found

    def _resolve(self, model: str) -> _Found:
        names = _names(model)
        for name in names:
            if name in self._named:
                price = self._named[name]
                return "policy", price, is_plain(price)
        for pattern, price in self._globs:
            if matches_model((pattern,), names):
                return "policy", price, is_plain(price)
        found = self.book.find(model, self._provider)
        if found is not None:
            return "table", found[1], is_plain(found[1])
        if self._unknown is None:
            return "", None, False
        return "unknown_price", self._unknown, is_plain(self._unknown)


def _names(model: str) -> tuple[str, ...]:
    """The names by which a policy's prices are looked up, most literal first."""
    return tuple(dict.fromkeys((model.strip().lower(), *spellings(model))))


def _nanos_of(quote: Quote) -> int:
    return quote[0] or 0


def _rank(price: Price) -> float:
    return price.input + price.output


def _stated_nanos(usd: float | None) -> int | None:
    """Nano-dollars of a stated cost; None where none is stated or it is absurd."""
    if usd is None or not 0 <= usd <= _MOST_USD:
        return None
    return math.floor(usd * NANOS_PER_USD + 0.5)

"""Prices of models: a dated table in the package, which policies may override."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Literal

import msgspec

from gateway.core.lru import Lru
from gateway.core.model import Price, Usage
from gateway.metering.models import plain_name, spellings

# One dollar per million tokens is this many nano-dollars per token.
_NANOS_PER_TOKEN = 1000
# Of the price of single requests: OpenAI, Anthropic and Gemini alike.
BATCH_SHARE = 0.5
_CACHED_NAMES = 4096
OTHER = "other"

# What may follow a known name in a longer one. Not a bare number: another version.
_LONGER = re.compile(r"^[-:@](?!\d+(?:[-.:@]|$))")


class _PriceFamily(msgspec.Struct):
    source: str
    models: dict[str, Price]


class _PriceFile(msgspec.Struct):
    dated: str
    families: dict[str, _PriceFamily]


def packaged_prices() -> bytes:
    """The price table of this version, as JSON."""
    return files("gateway.metering").joinpath("prices.json").read_bytes()


class PriceTable:
    """Prices by model name; look-ups go through a bounded cache.

    ``models``: the packaged prices, of the date ``dated``. A policy's own prices take
    precedence: ``named`` (exact names), then ``globs`` (first match). ``unknown``: the
    price of all other models. Names and patterns are in lower case.
    """

    __slots__ = ("_found", "_globs", "_models", "_named", "_unknown", "dated")

    def __init__(
        self,
        models: Mapping[str, Price],
        dated: str = "",
        *,
        globs: tuple[tuple[str, Price], ...] = (),
        named: Mapping[str, Price] | None = None,
        unknown: Price | None = None,
    ) -> None:
        self.dated = dated
        self._models = models
        self._globs = globs
        self._named = named or {}
        self._unknown = unknown
        self._found: Lru[str, tuple[str, Price | None]] = Lru(_CACHED_NAMES)

    @classmethod
    def parse(cls, text: bytes) -> PriceTable:
        """Decode a table from JSON. Raises msgspec.ValidationError."""
        file = msgspec.json.decode(text, type=_PriceFile)
        models = {
            name.lower(): price
            for family in file.families.values()
            for name, price in family.models.items()
        }
        return cls(models, file.dated)

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
            self._models,
            self.dated,
            globs=tuple(globs),
            named=named,
            unknown=unknown if isinstance(unknown, Price) else None,
        )

    def price(self, model: str) -> Price | None:
        """Dollars per million tokens; None when unknown."""
        return self._look_up(model)[1]

    def knows(self, model: str) -> bool:
        """Whether the model has a price."""
        return self._look_up(model)[1] is not None

    def known_name(self, model: str) -> str:
        """The name for a metric label: a name in the table, else ``other``."""
        return self._look_up(model)[0]

    def canonical_name(self, model: str) -> str:
        """One name for all spellings of a model, by which limits count: the shortest
        that the packaged table has, else the name without prefixes.
        """
        names = spellings(model)
        for name in reversed(names):
            if name in self._models:
                return name
        known = self._packaged(list(names))[0]
        return plain_name(model) if known == OTHER else known

    def cost_nanos(self, model: str, usage: Usage) -> int | None:
        """Nano-dollars of an exchange, rounded half up; None if the price is unknown."""
        price = self._look_up(model)[1]
        if price is None:
            return None
        plain = max(0, usage.prompt - usage.cached - usage.cache_write)
        # Where the completion excludes reasoning, only the total includes it.
        generated = max(usage.completion, usage.total - usage.prompt)
        cost = plain * price.input + generated * price.output
        if usage.cached:
            cached = price.input if price.cached is None else price.cached
            cost += usage.cached * cached
        if usage.cache_write:
            write = price.input if price.cache_write is None else price.cache_write
            cost += usage.cache_write * write
        if usage.batch:
            cost *= BATCH_SHARE
        return math.floor(round(cost * _NANOS_PER_TOKEN, 3) + 0.5)

    def _look_up(self, model: str) -> tuple[str, Price | None]:
        found = self._found.get(model)
        if found is None:
            found = self._resolve(model)
            self._found.put(model, found)
        return found

    def _resolve(self, model: str) -> tuple[str, Price | None]:
        full = model.strip().lower()
        if full in self._named:
            return full, self._named[full]
        names = list(spellings(model))
        for name in names:
            if name in self._named:
                return name, self._named[name]
        for pattern, price in self._globs:
            if any(fnmatchcase(name, pattern) for name in (full, *names)):
                return self._packaged(names)[0], price
        name, known = self._packaged(names)
        return name, self._unknown if known is None else known

    def _packaged(self, spellings: list[str]) -> tuple[str, Price | None]:
        for name in spellings:
            price = self._models.get(name)
            if price is not None:
                return name, price
        longest = ""
        for name in self._models:
            if len(name) > len(longest) and any(
                spelling.startswith(name) and _LONGER.match(spelling[len(name) :])
                for spelling in spellings
            ):
                longest = name
        return (longest, self._models[longest]) if longest else (OTHER, None)

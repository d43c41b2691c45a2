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

# One dollar per million tokens is this many nano-dollars per token.
_NANOS_PER_TOKEN = 1000
# Of the price of single requests: OpenAI, Anthropic and Gemini alike.
BATCH_SHARE = 0.5
_NAME_CHARS = 200
_CACHED_NAMES = 4096
OTHER = "other"

_REGION = re.compile(r"^(?:us|eu|apac|jp|au|ca|global|us-gov)\.")
_VENDOR = re.compile(
    r"^(?:anthropic|amazon|meta|cohere|mistral|ai21|deepseek|openai|qwen|google|xai"
    r"|moonshotai|zai|minimax|nvidia)\."
)
# Removed from the right, one at a time, until the name is known.
_SUFFIX = re.compile(
    r"(?:-v\d+)?:\d+(?::\d+k)?$"  # Bedrock: -v1:0, :0, :0:200k
    r"|-v\d+$"
    r"|:(?:free|thinking|nitro|floor|online|extended|beta)$"  # OpenRouter
    r"|[-_@]\d{4}-?\d{2}-?\d{2}$"  # 2024-08-06, 20250514, @20250514
    r"|-(?:preview-)?\d{2}-\d{2,4}$"  # preview-05-06, 08-2024
    r"|-(?:latest|default|exp|preview)$|@(?:latest|default|\d{3})$"
    r"|-\d{3,4}$"  # -001, -0613, -2407
)
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
        if len(model) > _NAME_CHARS:
            return OTHER, self._unknown
        found = self._found.get(model)
        if found is None:
            found = self._resolve(model)
            self._found.put(model, found)
        return found

    def _resolve(self, model: str) -> tuple[str, Price | None]:
        full = model.strip().lower()
        if full in self._named:
            return full, self._named[full]
        spellings = list(_spellings(full))
        for name in spellings:
            if name in self._named:
                return name, self._named[name]
        for pattern, price in self._globs:
            if any(fnmatchcase(name, pattern) for name in (full, *spellings)):
                return self._packaged(spellings)[0], price
        name, known = self._packaged(spellings)
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


def _spellings(name: str) -> list[str]:
    """A name without provider prefixes, then with its suffixes removed one by one."""
    name = name.rpartition("/")[2]
    found = [name]
    for prefix in (_REGION, _VENDOR):
        name = prefix.sub("", name)
        found.append(name)
    while shorter := _SUFFIX.sub("", name, count=1):
        if shorter == name:
            break
        name = shorter
        found.append(name)
    return list(dict.fromkeys(found))

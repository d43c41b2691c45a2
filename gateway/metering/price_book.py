"""The price table of the package: providers, their models, and the rules by which names
match them. ``compile_prices`` writes it from genai-prices and our supplement.

Of equal names, the upstream's provider decides. Without a known provider it is the
vendor of the model (OpenAI of ``gpt-…``), else the dearest of all providers that have
this very name: money limits must not depend on a guess that is too low.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.core.model import Price
from gateway.metering.models import plain_name, spellings

# Longer names match no rule: they cost time, and no model has one.
_NAME_CHARS = 200
# Spellings of one name that are looked up. Real names have up to five; one of 40 suffixes
# would cost more than a millisecond.
_MOST_SPELLINGS = 8
# What may follow a known name in a longer one. Not a bare number: another version.
_LONGER = re.compile(r"[-:@](?!\d+(?:[-.:@]|$))")
_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")

# A rule: a text is the whole name, else [operator, argument]; of "|" and "&" the
# argument is a list of rules.
Rule = Any


class ModelRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A model of a provider: its id, the place of its price, and the rules of its names.

    ``vendor``: these names belong to this provider where the upstream's is unknown.
    """

    id: str
    price: int
    rules: list[Rule]


class ProviderRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A provider. ``api``: pattern of the start of its URLs; ``vendor``: rule of the
    names that are its own wherever they are served; ``fallback``: providers whose models
    it also serves.
    """

    id: str
    api: str
    models: list[ModelRow]
    vendor: Rule = None
    fallback: list[str] = []


class PriceFile(msgspec.Struct, frozen=True):
    """The file ``prices.json``. ``version``: of genai-prices; ``dated``: its release;
    ``names``: plain names of all models, and the place of the dearest price of each.
    """

    source: str
    version: str
    dated: str
    prices: list[Price]
    providers: list[ProviderRow]
    names: dict[str, int]


class PriceBook:
    """Prices of models by provider and name. Names are in lower case."""

    __slots__ = ("_indexes", "_names", "_prices", "_providers", "_vendors", "file")

    def __init__(self, file: PriceFile) -> None:
        self.file = file
        self._names = file.names
        self._prices = file.prices
        self._providers = {row.id: row for row in file.providers}
        # Providers in the order of the file, the first match decides.
        self._vendors = [
            (matcher(row.vendor), row.id)
            for row in file.providers
            if row.vendor is not None
        ]
        self._indexes: dict[str, _Index] = {}

    @classmethod
    def parse(cls, text: bytes) -> PriceBook:
        """Decode a file. Raises msgspec.DecodeError."""
        return cls(msgspec.json.decode(text, type=PriceFile))

    def provider_of(self, url: str) -> str:
        """The provider that serves a URL, "" if it is unknown."""
        for row in self.file.providers:
            if re.match(row.api, url):
                return row.id
        return ""

    def find(self, model: str, provider: str = "") -> tuple[str, Price] | None:
        """Id and price of a model as ``provider`` serves it; None if it is unknown."""
        names = _names_of(model)
        found = self._of_provider(names, provider) or self._of_vendor(names)
        if found is not None:
            return found
        return self._by_name(names)

    def label(self, model: str) -> str:
        """The short name of a model in metrics, "" if it is unknown. All spellings of a
        model with one price have one label, and labels are names in the table.
        """
        names = _names_of(model)
        found = self._of_vendor(names) or self._by_name(names)
        if found is None:
            return ""
        for name in sorted(map(plain_name, names), key=len):
            if name in self._names:
                same = self._of_vendor([name]) or self._by_name([name])
                if same is not None and same[1] is found[1]:
                    return name
        return plain_name(found[0])

    def has_name(self, name: str) -> bool:
        """Whether some provider has a model of this plain name."""
        return name in self._names

    def rows(self) -> Iterable[tuple[str, str, Price]]:
        """Provider, id and price of every model."""
        for row in self.file.providers:
            for model in row.models:
                yield row.id, model.id, self._prices[model.price]

    def _of_provider(self, names: list[str], provider: str) -> tuple[str, Price] | None:
        row = self._providers.get(provider)
        if row is None:
            return None
        for name in names:
            for one in (row.id, *row.fallback):
                found = self._match(one, name)
                if found is not None:
                    return found
        return None

    def _of_vendor(self, names: Iterable[str]) -> tuple[str, Price] | None:
        for name in names:
            # Open models, which other hosts sell for more than the table says here.
            if name.startswith("gpt-oss"):
                continue
            for matches, provider in self._vendors:
                if matches(name):
                    found = self._match(provider, name)
                    if found is not None:
                        return found
                    break
        return None

    def _by_name(self, names: list[str]) -> tuple[str, Price] | None:
        """A name of any provider, else the longest one that a name continues."""
        plain = list(dict.fromkeys(map(plain_name, names)))
        for name in plain:
            if name in self._names:
                return name, self._prices[self._names[name]]
        longest = ""
        for name in plain:
            for end in _LONGER.finditer(name):
                known = name[: end.start()]
                if len(known) > len(longest) and known in self._names:
                    longest = known
        if not longest:
            return None
        return self._of_vendor([longest]) or (
            longest,
            self._prices[self._names[longest]],
        )

    def _match(self, provider: str, name: str) -> tuple[str, Price] | None:
        index = self._indexes.get(provider)
        if index is None:
            index = self._indexes[provider] = _Index(self._providers[provider].models)
        row = index.find(name)
        if row is None:
            dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
            row = index.find(dashed) if dashed != name else None
        return None if row is None else (row.id, self._prices[row.price])


class _Index:
    """The models of one provider: the first one with a matching rule is found."""

    __slots__ = ("_names", "_patterns", "_rows")

    def __init__(self, rows: list[ModelRow]) -> None:
        self._rows = rows
        self._names: dict[str, int] = {}
        self._patterns: list[tuple[int, Callable[[str], bool]]] = []
        for place, row in enumerate(rows):
            for rule in row.rules:
                if isinstance(rule, str):
                    self._names.setdefault(rule, place)
                else:
                    self._patterns.append((place, matcher(rule)))

    def find(self, name: str) -> ModelRow | None:
        best = self._names.get(name, len(self._rows))
        for place, matches in self._patterns:
            if place >= best:
                break
            if matches(name):
                best = place
                break
        return self._rows[best] if best < len(self._rows) else None


def matcher(rule: Rule) -> Callable[[str], bool]:
    """A function that tells whether a name in lower case matches a rule."""
    if isinstance(rule, str):
        return lambda name: name == rule
    operator, argument = rule
    if operator == "^":
        return lambda name: name.startswith(argument)
    if operator == "$":
        return lambda name: name.endswith(argument)
    if operator == "~":
        return lambda name: argument in name
    if operator == "r":
        pattern = re.compile(argument)
        return lambda name: pattern.search(name) is not None
    parts = [matcher(part) for part in argument]
    if operator == "&":
        return lambda name: all(part(name) for part in parts)
    return lambda name: any(part(name) for part in parts)


def _names_of(model: str) -> list[str]:
    """The whole name in lower case, then its spellings, longest first."""
    full = model.strip().lower()
    if not full or len(full) > _NAME_CHARS:
        return []
    return list(dict.fromkeys((full, *spellings(model)[:_MOST_SPELLINGS])))

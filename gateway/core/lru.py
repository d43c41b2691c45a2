"""A bounded map that approximates least-recently-used eviction at one look-up per hit.

Two plain dicts, young and old. A hit in the young one is a single look-up; a hit in the
old one moves the entry to the young one. When the young dict holds half of the capacity,
it becomes the old one, and the entries left in the former old one are dropped. An exact
order would need a write at every hit.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most ``capacity`` entries; ``evictions`` counts those dropped for new ones."""

    __slots__ = ("_half", "_old", "_young", "evictions")

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self.evictions = 0

    def get(self, key: K) -> V | None:
        """The value of ``key``, which is marked as used; None if absent."""
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Set the value of ``key``."""
        young = self._young
        if len(young) >= self._half and key not in young:
            self.evictions += len(self._old)
            self._old = young
            young = self._young = {}
        young[key] = value
        if self._old:
            self._old.pop(key, None)

    def pop(self, key: K) -> V | None:
        """Remove one entry and return its value; None if absent."""
        found = self._young.pop(key, None)
        return self._old.pop(key, None) if found is None else found

    def clear(self) -> None:
        """Remove all entries."""
        self._young = {}
        self._old = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

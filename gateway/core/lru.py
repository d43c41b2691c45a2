"""A bounded map that forgets what was not used lately, cheap enough for each request.

Two plain dicts, a young and an old one. A hit in the young one is a single look-up; a
hit in the old one moves the entry over. When the young dict holds half of the capacity
it becomes the old one, and whoever was not asked for since the last turn is forgotten.
An exact least-recently-used order would have to write at every hit.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most ``capacity`` entries; ``evictions`` counts those pushed out by others."""

    __slots__ = ("_half", "_old", "_young", "evictions")

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self.evictions = 0

    def get(self, key: K) -> V | None:
        """The value of ``key``, which now counts as used; None when unknown."""
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Remember ``value``, in place of what ``key`` had before."""
        young = self._young
        if len(young) >= self._half and key not in young:
            self.evictions += len(self._old)
            self._old = young
            young = self._young = {}
        young[key] = value
        if self._old:
            self._old.pop(key, None)

    def pop(self, key: K) -> V | None:
        """Forget one entry and return it."""
        found = self._young.pop(key, None)
        return self._old.pop(key, None) if found is None else found

    def clear(self) -> None:
        """Forget everything."""
        self._young = {}
        self._old = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

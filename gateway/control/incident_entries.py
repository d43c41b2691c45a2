"""Entries of the block list by the incident that they belong to, oldest first.

An attack from very many addresses makes an entry for each. So that it cannot fill the
list, one incident has a bounded number of entries, and in a full list the incident with
the most entries makes room for others.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.control.blocks import Key

# Entries of one incident; further ones replace its oldest.
MAX_ENTRIES = 10_000


class IncidentEntries:
    """Which entries belong to which incident. Entries that expired stay until ``keep``."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[Key, None]] = {}
        self._incidents: dict[Key, str] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._incidents

    def add(self, key: Key, incident: str) -> None:
        """Note an entry; it is the newest of its incident."""
        self.remove(key)
        self._keys.setdefault(incident, {})[key] = None
        self._incidents[key] = incident

    def remove(self, key: Key) -> None:
        """Forget an entry, if it is here."""
        incident = self._incidents.pop(key, None)
        if incident is None:
            return
        keys = self._keys[incident]
        del keys[key]
        if not keys:
            del self._keys[incident]

    def oldest_to_replace(self, incident: str, *, full: bool) -> Key | None:
        """The entry that makes room for one more of an incident: its own oldest at the
        bound of an incident, else in a ``full`` list the oldest of the largest incident,
        if that is larger. None: there is none.
        """
        own = self._keys.get(incident, {})
        if len(own) >= MAX_ENTRIES:
            return next(iter(own))
        if not full or not self._keys:
            return None
        largest = max(self._keys.values(), key=len)
        return next(iter(largest)) if len(largest) > len(own) + 1 else None

    def keep(self, keys: Iterable[Key]) -> None:
        """Forget all other entries."""
        for key in self._incidents.keys() - set(keys):
            self.remove(key)

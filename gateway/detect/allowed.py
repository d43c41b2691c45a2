"""Whom a policy lets do anything: subjects by name, and addresses by network."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.identity.cidr import Networks, normal_client_ip, parse_address


class Allowed:
    """``kind:id`` entries as policies write them; ``network:`` holds addresses."""

    __slots__ = ("_ids", "_networks")

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises ValueError for what is not a network."""
        self._ids: set[str] = set()
        networks = []
        for entry in entries:
            kind, _, id_ = entry.partition(":")
            if kind == "network":
                networks.append(id_)
            elif kind == "client_ip":
                self._ids.add(f"client_ip:{normal_client_ip(id_)}")
            else:
                self._ids.add(entry)
        self._networks = Networks(networks) if networks else None

    def holds(self, tenant: str, kind: str, id_: str) -> bool:
        """Whether nothing is done to this subject of a tenant."""
        ids = self._ids
        if ids and (f"{kind}:{id_}" in ids or f"tenant:{tenant}" in ids):
            return True
        if self._networks is None or kind != "client_ip":
            return False
        # An IPv6 client is its /64.
        address = parse_address(id_.partition("/")[0])
        return address is not None and self._networks.contains(address)

"""The allow list of a policy: subjects that are never limited, scored or blocked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from gateway.identity.cidr import (
    Networks,
    normal_client_ip,
    parse_address,
    parse_network,
)

if TYPE_CHECKING:
    from gateway.identity.hops import RemoteAddress

_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
# Kinds of allow-list entries, written ``kind:id``.
ALLOW_KINDS: Final = ("client_ip", "network", "user", "tenant")


def split_allow_entry(entry: str) -> tuple[str, str]:
    """Kind and id of an allow-list entry; a bare address or network gets its kind.

    Raises ValueError for an unknown kind, and for a bare entry that is no network. Of
    an entry with a kind, the id is not checked.
    """
    kind, colon, id_ = entry.partition(":")
    if colon and kind in ALLOW_KINDS:
        return kind, id_
    # The first group of an IPv6 address consists of hexadecimal digits.
    if colon and kind.isidentifier() and not _HEX_DIGITS.issuperset(kind):
        expected = ":, ".join(ALLOW_KINDS) + ":"
        raise ValueError(f"{kind!r} is not a kind of subject: expected {expected}")
    parse_network(entry)
    return "network" if "/" in entry else "client_ip", entry


class AllowList:
    """The subjects that a policy never limits, scores or blocks."""

    __slots__ = ("_ips", "_networks", "_tenants", "_users")

    def __init__(self, entries: Iterable[str]) -> None:
        """Read the entries. Raises ValueError for unknown kinds and bad networks."""
        ids: dict[str, set[str]] = {kind: set() for kind in ALLOW_KINDS}
        for entry in entries:
            kind, id_ = split_allow_entry(entry)
            ids[kind].add(id_)
        self._ips = {normal_client_ip(id_) for id_ in ids["client_ip"]}
        self._networks = Networks(ids["network"])
        self._users = ids["user"]
        self._tenants = ids["tenant"]

    def holds_address(self, remote: RemoteAddress, tenant: str) -> bool:
        """Whether all requests from this address or of this tenant are allowed."""
        return (
            remote.client_ip in self._ips
            or tenant in self._tenants
            or self._networks.contains(remote.address)
        )

    def holds_user(self, user: str) -> bool:
        """Whether all requests of this user are allowed, from any address."""
        return user in self._users

    def holds_subject(self, tenant: str, kind: str, id_: str) -> bool:
        """Whether this subject of a tenant, as detection names it, is on the list."""
        if tenant in self._tenants:
            return True
        if kind == "client_ip":
            if id_ in self._ips:
                return True
            # An IPv6 client is counted by its /64: look up the network's first address.
            address = parse_address(id_.partition("/")[0])
            return address is not None and self._networks.contains(address)
        return (kind == "user" and id_ in self._users) or (
            kind == "tenant" and id_ in self._tenants
        )

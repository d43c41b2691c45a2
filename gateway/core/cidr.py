"""Addresses and networks: how a client_ip is written, and who is in which network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# A client gets at least a /64 from its provider and may use every address in it.
IPV6_SUBJECT_BITS = 64
# What a peer on a Unix socket is called, as client_ip and in lists of networks.
UNIX = "unix"
# Longest text of an address with brackets, zone and port; longer is junk.
_MAX_TEXT = 96
# Prefix lengths that still mean one client, by IP version.
_WHOLE_CLIENT = {4: ("", "32"), 6: ("", "128", str(IPV6_SUBJECT_BITS))}


def parse_address(text: str) -> Address | None:
    """Read one address, None for junk.

    Brackets, a port, a zone (``fe80::1%eth0``) and the IPv4-mapped form
    (``::ffff:192.0.2.1``) are taken off.
    """
    text = text.strip()
    if not text or len(text) > _MAX_TEXT:
        return None
    if text[0] == "[":
        text, closed, port = text[1:].partition("]")
        if not closed or not _is_port(port):
            return None
    elif text.count(":") == 1:
        text, _, digits = text.partition(":")
        if not _is_port(":" + digits):
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_port(text: str) -> bool:
    """Nothing, or a colon and a port. RFC 7239 also allows names such as ``:_x``."""
    return not text or (text[0] == ":" and len(text) <= len(":65535"))


def subject_of(address: Address) -> str:
    """How an address is counted: IPv4 as it is, IPv6 as its /64."""
    if address.version == 4:
        return str(address)
    spare = 128 - IPV6_SUBJECT_BITS
    head = ipaddress.IPv6Address(int(address) >> spare << spare)
    return f"{head}/{IPV6_SUBJECT_BITS}"


def normal_client_ip(text: str) -> str:
    """The client_ip that an operator means, however the address was written.

    Junk is returned as it came: it names nobody.
    """
    bare, _, bits = text.partition("/")
    address = parse_address(bare)
    if address is None or bits not in _WHOLE_CLIENT[address.version]:
        return text
    return subject_of(address)


class Networks:
    """A set of networks; asking costs one look-up for each prefix length in use.

    The word ``unix`` stands for peers on a Unix socket.
    """

    __slots__ = ("_by_bits", "unix")

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        """Read the list. Raises ValueError for what is not a network."""
        self.unix = False
        # (version, bits right of the prefix) -> the prefixes themselves
        self._by_bits: dict[tuple[int, int], set[int]] = {}
        for cidr in cidrs:
            self._add(cidr.strip())

    def _add(self, cidr: str) -> None:
        if cidr == UNIX:
            self.unix = True
            return
        network = ipaddress.ip_network(cidr, strict=False)
        base, spare = network.network_address, network.max_prefixlen - network.prefixlen
        version, number = base.version, int(base)
        mapped = getattr(base, "ipv4_mapped", None)
        if mapped is not None and spare <= 32:
            # Clients are IPv4 by then, so the network has to be as well.
            version, number = 4, int(mapped)
        self._by_bits.setdefault((version, spare), set()).add(number >> spare)

    def contains(self, address: Address | None) -> bool:
        """Whether a network holds ``address``; None is a peer on a Unix socket."""
        if address is None:
            return self.unix
        version, number = address.version, int(address)
        return any(
            version == of_version and number >> spare in prefixes
            for (of_version, spare), prefixes in self._by_bits.items()
        )

    def __bool__(self) -> bool:
        return self.unix or bool(self._by_bits)

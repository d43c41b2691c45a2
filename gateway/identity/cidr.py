"""IP addresses, networks, and the client_ip by which an address is counted."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T")

# An IPv6 client gets at least a /64 from its provider and may use every address in it.
IPV6_SUBJECT_BITS = 64
IPV6_SITE_BITS = 48
# The client_ip of peers on Unix sockets, and their name in lists of networks.
UNIX = "unix"
# Longest text of an address with brackets, zone and port; longer ones are not parsed.
_MAX_TEXT = 96
_IPV4_BITS = 32
# Prefixes of translators (NAT64): the well-known one holds an IPv4 address in its last 32
# bits (RFC 6052); behind the local one every address is another client (RFC 8215).
_NAT64 = int(ipaddress.IPv6Address("64:ff9b::")) >> _IPV4_BITS
_LOCAL_NAT64 = int(ipaddress.IPv6Address("64:ff9b:1::")) >> 80
# Prefix lengths that denote one client, by IP version.
_WHOLE_CLIENT = {4: ("", "32"), 6: ("", "128", str(IPV6_SUBJECT_BITS))}


def parse_address(text: str) -> Address | None:
    """Parse one address; None if it is not one.

    Brackets, a port and a zone (``fe80::1%eth0``) are removed; the IPv4-mapped form
    (``::ffff:192.0.2.1``) and NAT64 (``64:ff9b::192.0.2.1``) become IPv4.
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
    return _embedded_ipv4(address) or address


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address of the IPv4-mapped form and of the well-known NAT64 prefix."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if int(address) >> _IPV4_BITS == _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped


def _is_port(text: str) -> bool:
    """Whether ``text`` is empty, or a colon and a port.

    The text after an address. Ports may be names such as ``:_x`` (RFC 7239 section 6.2),
    so only the length is checked.
    """
    return not text or (text[0] == ":" and len(text) <= len(":65535"))


def subject_of(address: Address) -> str:
    """The client_ip of an address: IPv4 as it is, IPv6 as its /64 (behind a local NAT64
    prefix the whole address).
    """
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if int(address) >> 80 == _LOCAL_NAT64:
        return f"{address}/128"
    spare = 128 - IPV6_SUBJECT_BITS
    head = ipaddress.IPv6Address(int(address) >> spare << spare)
    return f"{head}/{IPV6_SUBJECT_BITS}"


def site_of(address: Address | None) -> str:
    """The /48 of an IPv6 address: what a provider gives one site at most (RFC 6177), so
    one client may use all of its /64. "" for other addresses.
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return ""
    spare = 128 - IPV6_SITE_BITS
    head = int(address) >> spare
    if head == _LOCAL_NAT64:
        return ""
    return f"{ipaddress.IPv6Address(head << spare)}/{IPV6_SITE_BITS}"


def normal_client_ip(text: str) -> str:
    """The canonical client_ip of an address in any notation.

    Text that is not one client's address is returned unchanged, and matches no client.
    """
    bare, _, bits = text.partition("/")
    address = parse_address(bare)
    if address is None or bits not in _WHOLE_CLIENT[address.version]:
        return text
    return subject_of(address)


class Prefix(NamedTuple):
    """A network as numbers: the address shifted right by ``spare`` bits is ``head``."""

    version: int
    spare: int
    head: int


# The network of all peers on Unix sockets.
_UNIX_PREFIX = Prefix(0, 0, 0)


def parse_network(text: str) -> Prefix:
    """Parse a CIDR network, a single address or ``unix``.

    Bits right of the prefix are ignored. Raises ValueError for anything else.
    """
    text = text.strip()
    if text == UNIX:
        return _UNIX_PREFIX
    network = ipaddress.ip_network(text, strict=False)
    base, spare = network.network_address, network.max_prefixlen - network.prefixlen
    mapped = _embedded_ipv4(base)
    if mapped is not None and spare <= _IPV4_BITS:
        # Such client addresses become IPv4 (``parse_address``): so does the network.
        base = mapped
    return Prefix(base.version, spare, int(base) >> spare)


class NetworkMap(Generic[T]):
    """A map from networks to values; a look-up costs one dict get per prefix length."""

    __slots__ = ("_by_length",)

    def __init__(self) -> None:
        self._by_length: dict[tuple[int, int], dict[int, T]] = {}

    def put(self, prefix: Prefix, value: T) -> None:
        """Set the value of a network."""
        by_head = self._by_length.setdefault((prefix.version, prefix.spare), {})
        by_head[prefix.head] = value

    def get(self, prefix: Prefix) -> T | None:
        """The value of exactly this network."""
        return self._by_length.get((prefix.version, prefix.spare), {}).get(prefix.head)

    def pop(self, prefix: Prefix) -> None:
        """Remove a network."""
        length = (prefix.version, prefix.spare)
        by_head = self._by_length.get(length, {})
        if by_head.pop(prefix.head, None) is not None and not by_head:
            del self._by_length[length]

    def holding(self, address: Address | None) -> list[T]:
        """The values of all networks that hold ``address`` (None: a Unix peer)."""
        version, number = (0, 0) if address is None else (address.version, int(address))
        return [
            by_head[number >> spare]
            for (of_version, spare), by_head in self._by_length.items()
            if of_version == version and number >> spare in by_head
        ]

    def clear(self) -> None:
        """Remove all networks."""
        self._by_length.clear()

    def __bool__(self) -> bool:
        return bool(self._by_length)


class Networks:
    """A set of networks."""

    __slots__ = ("_map",)

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        """Parse the list. Raises ValueError for an entry that is not a network."""
        self._map: NetworkMap[bool] = NetworkMap()
        for cidr in cidrs:
            self._map.put(parse_network(cidr), True)

    def contains(self, address: Address | None) -> bool:
        """Whether a network holds ``address`` (None: a peer on a Unix socket)."""
        return bool(self._map.holding(address))

"""Who the client is when proxies stand in between: X-Forwarded-For and Forwarded.

Only what a trusted peer says is believed, and of that only the right-most hop that is
not itself trusted: everything left of it was written by someone we do not know.

When a message carries both fields, X-Forwarded-For counts and Forwarded (RFC 7239) is
not looked at. Proxies that write X-Forwarded-For often pass a client's own Forwarded on
untouched; one that writes only Forwarded has to remove the other field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.identity.cidr import UNIX, Address, Networks, parse_address, subject_of

XFF = b"x-forwarded-for"
FORWARDED = b"forwarded"
# Longer chains of our own proxies do not exist; more hops only cost time.
MAX_HOPS = 32


class RemoteAddress:
    """Where a message comes from. ``address`` None: a peer on a Unix socket."""

    __slots__ = ("address", "client_ip", "trusted")

    def __init__(self, address: Address | None, *, trusted: bool) -> None:
        self.address = address
        self.client_ip = UNIX if address is None else subject_of(address)
        self.trusted = trusted  # may name the client and the tenant for us


def peer_address(peer: str, trusted: Networks) -> RemoteAddress:
    """The socket's own peer; "" or a path is the peer of a Unix socket."""
    address = parse_address(peer)
    return RemoteAddress(address, trusted=trusted.contains(address))


def forwarded_address(
    peer: RemoteAddress, fields: Mapping[bytes, bytes], trusted: Networks
) -> RemoteAddress:
    """The client behind a trusted peer; the last good hop where the chain is junk."""
    source = peer
    for text in _hops(fields):
        if not source.trusted:
            break
        address = parse_address(text)
        if address is None:
            break
        source = RemoteAddress(address, trusted=trusted.contains(address))
    return source


def client_ip(peer: str, fields: Mapping[bytes, bytes], trusted: Networks) -> str:
    """The client_ip of a message: IPv4, ``prefix/64`` for IPv6, or ``unix``."""
    source = peer_address(peer, trusted)
    return forwarded_address(source, fields, trusted).client_ip


def _hops(fields: Mapping[bytes, bytes]) -> Iterator[str]:
    """The hops from right to left, at most MAX_HOPS of them."""
    chain = fields.get(XFF)
    if chain is not None:
        hops = chain.decode("latin-1").rsplit(",", MAX_HOPS)
        yield from reversed(hops[-MAX_HOPS:])
        return
    elements = fields.get(FORWARDED, b"").decode("latin-1").rsplit(",", MAX_HOPS)
    # A comma inside a quoted string tears its element apart; the pieces name no
    # address, so the walk ends there, on the safe side.
    for element in reversed(elements[-MAX_HOPS:]):
        yield _for_node(element)


def _for_node(element: str) -> str:
    """The ``for`` of one element of Forwarded, "" when it names none."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            return value[1:-1] if quoted else value
    return ""

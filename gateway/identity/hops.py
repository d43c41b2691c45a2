"""The client address behind trusted proxies: X-Forwarded-For and Forwarded.

The fields count only from a trusted peer, and of the hops only the right-most one that
is not trusted itself: everything left of it may be forged.

When a message carries both fields, X-Forwarded-For counts and Forwarded (RFC 7239) is
ignored. Proxies that write X-Forwarded-For often pass a client's own Forwarded on
unchanged; a proxy that writes only Forwarded has to remove the other field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.identity.cidr import UNIX, Address, Networks, parse_address, subject_of

XFF = b"x-forwarded-for"
FORWARDED = b"forwarded"
# Hops read from the right: far more than any deployment has proxies.
MAX_HOPS = 32


class RemoteAddress:
    """The sender of a message. ``address`` None: a peer on a Unix socket.

    ``trusted``: a configured proxy, which may name the client and the tenant.
    """

    __slots__ = ("address", "client_ip", "trusted")

    def __init__(self, address: Address | None, *, trusted: bool) -> None:
        self.address = address
        self.client_ip = UNIX if address is None else subject_of(address)
        self.trusted = trusted


def peer_address(peer: str, trusted: Networks) -> RemoteAddress:
    """The peer of the socket; "" or a path denotes a Unix socket."""
    address = parse_address(peer)
    return RemoteAddress(address, trusted=trusted.contains(address))


def forwarded_address(
    peer: RemoteAddress, fields: Mapping[bytes, bytes], trusted: Networks
) -> RemoteAddress:
    """The right-most hop that is not trusted, or the left-most if all are.

    If a hop cannot be parsed before that, the one right of it; without hops, ``peer``.
    """
    remote = peer
    for text in _hops(fields):
        if not remote.trusted:
            break
        address = parse_address(text)
        if address is None:
            break
        remote = RemoteAddress(address, trusted=trusted.contains(address))
    return remote


def client_ip(peer: str, fields: Mapping[bytes, bytes], trusted: Networks) -> str:
    """The client_ip of a message: IPv4, ``prefix/64`` for IPv6, or ``unix``."""
    remote = peer_address(peer, trusted)
    return forwarded_address(remote, fields, trusted).client_ip


def _hops(fields: Mapping[bytes, bytes]) -> Iterator[str]:
    """The hops from right to left, at most MAX_HOPS of them."""
    chain = fields.get(XFF)
    if chain is not None:
        hops = chain.decode("latin-1").rsplit(",", MAX_HOPS)
        yield from reversed(hops[-MAX_HOPS:])
        return
    elements = fields.get(FORWARDED, b"").decode("latin-1").rsplit(",", MAX_HOPS)
    # A comma inside a quoted string splits its element; the pieces name no address, so
    # reading ends there, which is safe.
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

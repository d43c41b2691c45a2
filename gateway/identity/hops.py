"""The client address behind trusted proxies: X-Forwarded-For and Forwarded.

The fields count only from a trusted peer, and of the hops only the right-most one that
is not trusted itself: everything left of it may be forged.

When a message carries both X-Forwarded-For and Forwarded (RFC 7239), both must lead to
the same client: a proxy that writes only one of them may pass the client's own other one
on unchanged. Where that is so, the operator names the one that counts
(``server.client_ip_header``).
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
    ``disputed``: two fields of the message name different clients.
    """

    __slots__ = ("address", "client_ip", "disputed", "trusted")

    def __init__(
        self, address: Address | None, *, trusted: bool, disputed: bool = False
    ) -> None:
        self.address = address
        self.client_ip = UNIX if address is None else subject_of(address)
        self.trusted = trusted
        self.disputed = disputed


def peer_address(peer: str, trusted: Networks) -> RemoteAddress:
    """The peer of the socket; "" or a path denotes a Unix socket."""
    address = parse_address(peer)
    return RemoteAddress(address, trusted=trusted.contains(address))


def forwarded_address(
    peer: RemoteAddress,
    fields: Mapping[bytes, bytes],
    trusted: Networks,
    header: bytes | None = None,
) -> RemoteAddress:
    """The client behind a trusted peer, or the last hop before one that is unreadable.

    ``header``: the one field that counts; None: either, and both if both are there.
    """
    names = (XFF, FORWARDED) if header is None else (header,)
    found = [
        _walk(peer, _hops(fields[name], name), trusted)
        for name in names
        if fields.get(name)
    ]
    if not found:
        return peer
    if any(remote.address != found[0].address for remote in found):
        return RemoteAddress(peer.address, trusted=False, disputed=True)
    return found[0]


def _walk(peer: RemoteAddress, hops: Iterator[str], trusted: Networks) -> RemoteAddress:
    remote = peer
    for text in hops:
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


def _hops(value: bytes, name: bytes) -> Iterator[str]:
    """The hops from right to left, at most MAX_HOPS of them."""
    elements = value.decode("latin-1").rsplit(",", MAX_HOPS)
    # A comma inside a quoted string splits its element; the pieces name no address, so
    # the walk ends there, which is safe.
    for element in reversed(elements[-MAX_HOPS:]):
        yield element if name == XFF else _for_node(element)


def _for_node(element: str) -> str:
    """The ``for`` of one element of Forwarded, "" when it names none."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            return value[1:-1] if quoted else value
    return ""

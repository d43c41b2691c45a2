"""Reservation of the listening addresses by the supervisor.

Every worker listens on the same address with SO_REUSEPORT, so a second gateway on the
same port would not fail but take half of the connections. The supervisor therefore
first binds each address without SO_REUSEPORT, then keeps it bound with SO_REUSEPORT
(never listening). This also reserves the port while workers restart.
"""

from __future__ import annotations

import errno
import socket

Address = tuple[str, int]


class AddressTaken(Exception):  # noqa: N818 - names the state of an address
    """The address is in use, or it is not an address of this machine."""


class HeldAddress:
    """An address that is kept bound; ``address`` has the actual port. Raises
    AddressTaken.
    """

    def __init__(self, host: str, port: int) -> None:
        family, target = _resolve(host, port)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(probe, target, host)
            target = (target[0], probe.getsockname()[1])
        self.address: Address = (host, target[1])
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(self._socket, target, host)
        # Off again: another program with SO_REUSEADDR could bind while no worker listens.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def close(self) -> None:
        """Release the address."""
        self._socket.close()


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        msg = f"cannot listen on {host}: {error.strerror}"
        raise AddressTaken(msg) from error
    family, _, _, _, target = found[0]
    return family, (str(target[0]), port)


def _bind(sock: socket.socket, target: Address, host: str) -> None:
    try:
        sock.bind(target)
    except OSError as error:
        shown = format_address(host, target[1])
        why = error.strerror
        if error.errno == errno.EADDRINUSE:
            why = "the address is in use by another program; set another one (--listen, --admin)"
        msg = f"cannot listen on {shown}: {why}"
        raise AddressTaken(msg) from error


def format_address(host: str, port: int) -> str:
    """``host:port`` as in a URL: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

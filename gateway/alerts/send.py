"""One attempt to deliver, by HTTP, to public addresses unless more is allowed.

The address is checked when the socket is made, after every name was resolved: a name
that points elsewhere the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
import msgspec

from gateway.alerts import formats
from gateway.alerts.formats import Post
from gateway.alerts.model import AlertMessage
from gateway.alerts.retry import parse_retry_after

TIMEOUT_S = 15.0
_SUCCESS = range(200, 300)
_REDIRECT = range(300, 400)
_GONE = 410
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Outside of it IPv6 has nothing public, but further dresses of IPv4 addresses.
_UNICAST = ipaddress.ip_network("2000::/3")


class Answer(msgspec.Struct, frozen=True):
    """What came of an attempt. ``error`` "": it was delivered."""

    error: str = ""
    retry_after_s: float = 0.0
    gone: bool = False


class Sender(Protocol):
    """Delivers to one receiver."""

    async def send(self, message: AlertMessage, now: float) -> Answer:
        """Never raises for what a receiver or the network does."""
        ...

    async def close(self) -> None:
        """Let connections go."""
        ...


def is_private(address: str) -> bool:
    """Whether an address is not one of the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_private(str(inner))
        if found not in _UNICAST:
            return True
    return not found.is_global or found.is_multicast


class PrivateAddress(OSError):  # noqa: N818 - what the address is
    """The receiver is at an address that may not be reached."""


def check_address(address: str, *, allow_private: bool) -> None:
    """Raises PrivateAddress."""
    if not allow_private and is_private(address):
        raise PrivateAddress(f"{address} is private (allow_private)")


class HttpSender:
    """``build`` makes the request of a message."""

    def __init__(
        self, build: Callable[[AlertMessage, float], Post], *, allow_private: bool
    ) -> None:
        self._build = build
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=2, use_dns_cache=False, socket_factory=self._socket
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                headers={"User-Agent": formats.SOURCE},
            )
        return self._session

    def _socket(self, info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        check_address(str(address[0]), allow_private=self._allow_private)
        return socket.socket(family, kind, proto)

    async def send(self, message: AlertMessage, now: float) -> Answer:
        """POST; of the answer only its head is read."""
        try:
            post = self._build(message, now)
            async with self._open().post(
                post.url,
                data=post.body,
                headers={"Content-Type": "application/json"} | post.headers,
                allow_redirects=False,
            ) as answer:
                return _judge(answer, now)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(_why(error))

    async def close(self) -> None:
        """Of its session."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _judge(answer: aiohttp.ClientResponse, now: float) -> Answer:
    status = answer.status
    if status in _SUCCESS:
        return Answer()
    wait_s = parse_retry_after(answer.headers.get("Retry-After", ""), now)
    what = " (redirects are not followed)" if status in _REDIRECT else ""
    return Answer(f"answered {status}{what}", wait_s, gone=status == _GONE)


def _why(error: BaseException) -> str:
    """Its sentence, without the address of anything secret: URLs may hold tokens."""
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PrivateAddress):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        return f"cannot connect: {inner.strerror or type(inner).__name__}"
    return type(error).__name__

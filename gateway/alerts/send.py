"""One delivery attempt by HTTP, to public addresses unless private ones are allowed.

The address is checked when the socket is created, after name resolution, which defeats
DNS rebinding.
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
# Global unicast. Outside of it are no public addresses, but other prefixes that embed
# IPv4 addresses.
_UNICAST = ipaddress.ip_network("2000::/3")


class Answer(msgspec.Struct, frozen=True):
    """Result of an attempt. ``error`` "": delivered; ``gone``: answered 410."""

    error: str = ""
    retry_after_s: float = 0.0
    gone: bool = False


class Sender(Protocol):
    """Sends messages to one receiver."""

    async def send(self, message: AlertMessage, now: float) -> Answer:
        """Make one attempt; failures of receiver and network are in the result."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


def is_private(address: str) -> bool:
    """Whether an address is not public, embedded IPv4 addresses included."""
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
    """The receiver's address is private and ``allow_private`` is not set."""


def check_address(address: str, *, allow_private: bool) -> None:
    """Raise PrivateAddress for a private address unless they are allowed."""
    if not allow_private and is_private(address):
        raise PrivateAddress(f"{address} is private (allow_private)")


class HttpSender:
    """Sends by HTTP POST; ``build`` makes the request of a message."""

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
        """Send one POST; of the response only the head is read."""
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
        """Close the session."""
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
    """A sentence for an error, without the URL, which may hold a token."""
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

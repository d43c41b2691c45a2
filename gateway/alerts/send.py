"""One attempt to deliver: HTTP or SMTP, to public addresses unless more is allowed.

The address is checked when the socket is made, after every name was resolved: a name
that points elsewhere the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import smtplib
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec

from gateway.alerts import formats
from gateway.alerts.formats import Post
from gateway.alerts.model import Message
from gateway.alerts.retry import parse_retry_after

TIMEOUT_S = 15.0
_ANSWER_BYTES = 2_048
_SUCCESS = range(200, 300)
_REDIRECT = range(300, 400)
_GONE = 410
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Answer(msgspec.Struct, frozen=True):
    """What came of an attempt. ``error`` "": it was delivered."""

    error: str = ""
    retry_after_s: float = 0.0
    gone: bool = False


class Sender(Protocol):
    """Delivers to one receiver."""

    async def send(self, message: Message, now: float) -> Answer:
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
        self, build: Callable[[Message, float], Post], *, allow_private: bool
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

    async def send(self, message: Message, now: float) -> Answer:
        """POST, and read what comes back."""
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


class MailSender:
    """A letter a message. ``url`` is ``smtp://user@host:587`` or ``smtps://…:465``."""

    def __init__(
        self,
        url: str,
        password: str,
        sender: str,
        to: tuple[str, ...],
        *,
        allow_private: bool,
    ) -> None:
        parts = urlsplit(url)
        self._tls = parts.scheme == "smtps"
        self._host = parts.hostname or ""
        self._port = parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username or "")
        self._password = password
        self._from, self._to = sender, to
        self._allow_private = allow_private

    async def send(self, message: Message, now: float) -> Answer:
        """In a thread: the library blocks."""
        letter = self._letter(message, now)
        try:
            async with asyncio.timeout(TIMEOUT_S * 2):
                await asyncio.to_thread(self._deliver, letter)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            if isinstance(error, PrivateAddress):
                return Answer(str(error))
            return Answer(f"mail: {type(error).__name__}")
        return Answer()

    def _letter(self, message: Message, now: float) -> EmailMessage:
        letter = EmailMessage()
        subject, text = formats.email(message)
        letter["Subject"], letter["From"] = subject, self._from
        letter["To"] = ", ".join(self._to)
        letter["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
        domain = self._from.rpartition("@")[2] or formats.SOURCE
        letter["Message-ID"] = f"<{message.id}@{domain}>"
        thread = f"<{message.topic.replace(':', '.')}@{domain}>"
        letter["References"] = thread
        letter.set_content(text)
        return letter

    def _deliver(self, letter: EmailMessage) -> None:
        context = ssl.create_default_context()
        kind = _checked(smtplib.SMTP_SSL if self._tls else smtplib.SMTP)
        options: dict[str, Any] = {"context": context} if self._tls else {}
        server = kind(timeout=TIMEOUT_S, **options)
        server.allow_private = self._allow_private
        # What SMTP.__init__ would have set before the handshake of TLS.
        server._host = self._host  # noqa: SLF001
        server.connect(self._host, self._port)
        with server:
            server.ehlo()
            if not self._tls and (self._user or server.has_extn("starttls")):
                server.starttls(context=context)
                server.ehlo()
            if self._user:
                server.login(self._user, self._password)
            server.send_message(letter)

    async def close(self) -> None:
        """Nothing is kept open."""


def _checked(kind: Any) -> Any:
    """The class, connecting only to addresses that were looked at."""

    class Checked(kind):  # type: ignore[misc]
        allow_private = False

        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            address = str(found[0][4][0])
            check_address(address, allow_private=self.allow_private)
            plain = socket.create_connection((address, port), timeout)
            if kind is smtplib.SMTP_SSL:
                wrapped: socket.socket = self.context.wrap_socket(
                    plain, server_hostname=host
                )
                return wrapped
            return plain

    return Checked

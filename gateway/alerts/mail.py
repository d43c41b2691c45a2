"""One attempt to deliver by e-mail. The standard library's SMTP client blocks, so it runs
in a thread, which ends when its connection is shut down.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from gateway.alerts import formats
from gateway.alerts.model import AlertMessage
from gateway.alerts.send import TIMEOUT_S, Answer, PrivateAddress, check_address

# Longest delivery, seconds: an e-mail takes about six round trips.
DELIVERY_S = 2 * TIMEOUT_S


class MailSender:
    """One e-mail per message. ``url`` is ``smtp://user@host:587`` or ``smtps://…:465``."""

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

    async def send(self, message: AlertMessage, now: float) -> Answer:
        """Deliver in a thread, for at most DELIVERY_S. The answer has the error text, which
        is empty on success.
        """
        handle = _ConnectionHandle()
        try:
            mail = self._build(message, now)
            async with asyncio.timeout(DELIVERY_S):
                await asyncio.to_thread(self._deliver, mail, handle)
        except PrivateAddress as error:
            return Answer(str(error))
        except TimeoutError:
            return Answer(f"mail: no answer within {DELIVERY_S:g} s")
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Answer(f"mail: {type(error).__name__}")
        finally:
            handle.cut()  # a server that sends slowly would hold the thread
        return Answer()

    def _build(self, message: AlertMessage, now: float) -> EmailMessage:
        mail = EmailMessage()
        subject, text = formats.email(message)
        mail["Subject"], mail["From"] = subject, self._from
        mail["To"] = ", ".join(self._to)
        mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
        domain = self._from.rpartition("@")[2] or formats.SOURCE
        mail["Message-ID"] = f"<{message.id}@{domain}>"
        thread = f"<{message.topic.replace(':', '.')}@{domain}>"
        mail["References"] = thread
        mail.set_content(text)
        return mail

    def _deliver(self, mail: EmailMessage, handle: _ConnectionHandle) -> None:
        context = ssl.create_default_context()
        kind = _checked(smtplib.SMTP_SSL if self._tls else smtplib.SMTP)
        options: dict[str, Any] = {"context": context} if self._tls else {}
        server = kind(timeout=TIMEOUT_S, **options)
        server.allow_private, server.handle = self._allow_private, handle
        # SMTP.__init__ sets it when it connects; the TLS handshake needs it.
        server._host = self._host  # noqa: SLF001
        server.connect(self._host, self._port)
        with server:
            server.ehlo()
            if not self._tls and (self._user or server.has_extn("starttls")):
                server.starttls(context=context)
                server.ehlo()
            if self._user:
                server.login(self._user, self._password)
            server.send_message(mail)

    async def close(self) -> None:
        """Nothing is kept open."""


class _ConnectionHandle:
    """A duplicate of the connection's descriptor: shuts the connection down even after
    TLS has wrapped it, and while the thread waits on it.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._is_cut = False

    def take(self, connection: socket.socket) -> None:
        """Duplicate ``connection``; called in the thread, once. Raises OSError if ``cut``
        was called before.
        """
        self._socket = connection.dup()
        if self._is_cut:
            self.cut()
            raise OSError("the delivery was ended")

    def cut(self) -> None:
        """Shut the connection down, which ends all reads."""
        self._is_cut = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


def _checked(kind: Any) -> Any:
    """A subclass of ``kind`` that connects only to addresses that were checked."""

    class Checked(kind):  # type: ignore[misc]
        allow_private = False
        handle: _ConnectionHandle

        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = [str(one[4][0]) for one in found]
            for address in addresses:
                check_address(address, allow_private=self.allow_private)
            plain = _connect(addresses, port, timeout)
            self.handle.take(plain)
            if kind is smtplib.SMTP_SSL:
                wrapped: socket.socket = self.context.wrap_socket(
                    plain, server_hostname=host
                )
                return wrapped
            return plain

    return Checked


def _connect(addresses: list[str], port: int, timeout_s: float) -> socket.socket:
    """Connect to the first address that accepts."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), timeout_s)
    return socket.create_connection((addresses[-1], port), timeout_s)

"""Decoding of compressed request bodies: in threads, within bounds, never for nobody."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from gateway.metering.inflate import InflateError, Inflater

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from gateway.http.handler import ClientSide
    from gateway.proxy.tables import DataSettings

# Bodies that are decoded or wait for it. A thread decodes 200 MB a second.
PENDING_MAX = 64
THREADS = 2
BUSY = InflateError("too many compressed bodies are being decoded", 503)
_LEFT = InflateError("the client left")


class BodyOwner(Protocol):
    """What waits for a decoded body (``Exchange``)."""

    client: ClientSide | None

    def on_decoded(self, plain: bytes | InflateError) -> None:
        """Take the body, or why there is none."""


class BodyDecoder:
    """Decodes bodies off the loop: a few kilobytes may become tens of megabytes.

    ``refused`` counts the bodies beyond PENDING_MAX.
    """

    __slots__ = ("_loop", "_pending", "_threads", "refused")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._threads: ThreadPoolExecutor | None = None
        self._pending = 0
        self.refused = 0

    def decode(
        self, coding: bytes, body: bytes, settings: DataSettings, owner: BodyOwner
    ) -> None:
        """Give the decoded body to ``owner``."""
        if self._pending >= PENDING_MAX:
            self.refused += 1
            owner.on_decoded(BUSY)
            return
        self._pending += 1
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "decode")

        def decoded(future: Future[bytes | InflateError]) -> None:
            self._pending -= 1
            owner.on_decoded(future.result())

        self._loop.run_in_executor(
            self._threads,
            inflate,
            coding.decode("latin-1"),
            body,
            settings,
            owner,
        ).add_done_callback(decoded)

    def close(self) -> None:
        """Forget the bodies that wait."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def inflate(
    coding: str, body: bytes, settings: DataSettings, owner: BodyOwner
) -> bytes | InflateError:
    """The decoded body, or why there is none. Runs in a thread; ends early when the
    owner's client has left.
    """
    plain: list[bytes] = []
    try:
        inflater = Inflater(coding, settings.max_inflate, settings.max_inflate_ratio)
        for piece in inflater.pieces(body):
            plain.append(piece)
            if owner.client is None:
                return _LEFT
    except InflateError as error:
        return error
    if not inflater.finished:
        return InflateError("the compressed body is cut short")
    return b"".join(plain)

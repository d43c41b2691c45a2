"""What the two wire sides call: implemented by ``proxy``, known here by shape only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.http.client import ClientConnection
    from gateway.http.heads import Changing, KnownHead
    from gateway.http.response import AnswerHead
    from gateway.http.upstream import UpstreamConnection


class Service(Protocol):
    """Opens an exchange for every request head, and writes refusals of the wire."""

    def open(
        self,
        conn: ClientConnection,
        known: KnownHead,
        changing: Changing,
    ) -> Handler | None:
        """Take a request. None: answered already, the body is not wanted."""
        ...

    def refuse_wire(
        self, conn: ClientConnection, status: int, reason: str
    ) -> tuple[bytes, bytes]:
        """Head fields and body of an answer to something that is no request."""
        ...


class Handler(Protocol):
    """One exchange, as the client's side of the wire sees it."""

    # Bytes of body to hold before ``on_body``; 0: pieces come as they arrive.
    hold: int

    def on_body(self, body: bytes) -> None:
        """Take the whole body (``hold``), or one piece of it."""
        ...

    def on_body_end(self) -> None:
        """Know that a body that came in pieces has ended."""
        ...

    def on_body_refused(self, status: int, reason: str) -> None:
        """Give up: the body is too large, too slow, or malformed."""
        ...

    def on_client_gone(self) -> None: ...

    def on_client_writable(self, writable: bool) -> None: ...

    def on_deadline(self, now: float) -> None:
        """Look at the time limits; ``now`` is the loop's clock."""
        ...


class AnswerSink(Protocol):
    """One exchange, as the upstream's side of the wire sees it."""

    def on_connected(self, up: UpstreamConnection) -> None: ...

    def on_connect_failed(self, status: int, reason: str) -> None: ...

    def on_interim(self, status: int, lines: bytes) -> None:
        """Pass on 103 and the like; ``lines`` are complete header lines."""
        ...

    def on_answer_head(self, answer: AnswerHead) -> None: ...

    def on_answer_body(self, data: bytes) -> None: ...

    def on_answer_end(self, complete: bool) -> None: ...

    def on_answer_flush(self) -> None:
        """One read has been taken in whole: write what it gave."""
        ...

    def on_upgraded(self, leftover: bytes) -> None: ...

    def on_upstream_lost(self, status: int, reason: str, *, retry: bool) -> None:
        """The connection died before the answer's head was whole."""
        ...

    def on_upstream_writable(self, writable: bool) -> None: ...

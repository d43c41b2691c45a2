"""A request body that is passed on as it arrives, with back-pressure both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.http.handler import ClientSide, UpstreamSide

# Buffered until the upstream is connected; beyond it the client is not read.
MAX_HELD_BYTES = 64 * 1024


class Upload:
    """Streams a body that is passed on unread.

    ``length`` is the body's length in bytes, or ``CHUNKED``.
    """

    __slots__ = (
        "conn",
        "done",
        "held",
        "held_bytes",
        "length",
        "stalled_at",
        "up",
    )

    def __init__(self, conn: ClientSide, length: int) -> None:
        self.conn: ClientSide | None = conn
        self.length = length
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.up: UpstreamSide | None = None
        self.done = False
        # When the upstream's write buffer became full, on the loop's clock; 0: it is not.
        self.stalled_at = 0.0

    def take(self, data: bytes) -> None:
        """Send one piece, or hold it until the upstream is connected."""
        if self.up is not None:
            self.up.write_body(data)
            return
        self.held.append(data)
        self.held_bytes += len(data)
        if self.held_bytes > MAX_HELD_BYTES and self.conn is not None:
            self.conn.pause_reading()

    def end(self) -> None:
        """Take the end of the body."""
        self.done = True
        if self.conn is not None:
            self.conn.resume_reading()  # a paused socket does not report a disconnect
        if self.up is not None:
            self.up.end_body()

    def connected(self, up: UpstreamSide) -> None:
        """Send the held pieces; the request's head has been sent."""
        self.up = up
        for piece in self.held:
            up.write_body(piece)
        self.held = []
        self.held_bytes = 0
        if self.done:
            up.end_body()
        if up.writable and self.conn is not None:
            self.conn.resume_reading()

    def upstream_writable(self, now: float, *, writable: bool) -> None:
        """Pause the client while the upstream's write buffer is full; ``now``: the loop's
        clock. ``time_limits.answer_limit`` says how long an upload may stall.
        """
        conn = self.conn
        if conn is None or self.done:
            return
        if writable:
            self.stalled_at = 0.0
            conn.resume_reading()
        else:
            self.stalled_at = now
            conn.deadline = min(conn.deadline, now + conn.write_timeout_s)
            conn.pause_reading()

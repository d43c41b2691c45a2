"""A request body that is passed on as it comes, with back-pressure both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.http.handler import ClientSide, UpstreamSide

# Held until the upstream is connected; beyond it the client is no longer read.
MAX_HELD_BYTES = 64 * 1024


class Upload:
    """Sends the body of a request that need not be read before it is admitted."""

    __slots__ = (
        "chunked",
        "conn",
        "done",
        "framing",
        "held",
        "held_bytes",
        "stalled_at",
        "up",
    )

    def __init__(self, conn: ClientSide, length: int | None) -> None:
        self.conn: ClientSide | None = conn
        self.chunked = length is None
        self.framing = (
            b"Transfer-Encoding: chunked\r\n"
            if length is None
            else b"Content-Length: %d\r\n" % length
        )
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.up: UpstreamSide | None = None
        self.done = False
        # Since when the upstream has taken nothing (the loop's clock); 0: it takes.
        self.stalled_at = 0.0

    def take(self, data: bytes) -> None:
        if self.chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self.up is not None:
            self.up.write(data)
            return
        self.held.append(data)
        self.held_bytes += len(data)
        if self.held_bytes > MAX_HELD_BYTES and self.conn is not None:
            self.conn.pause_reading()

    def end(self) -> None:
        self.done = True
        if self.conn is not None:
            self.conn.resume_reading()  # to see it leave
        if self.chunked:
            last = b"0\r\n\r\n"
            if self.up is not None:
                self.up.write(last)
            else:
                self.held.append(last)

    def connected(self, up: UpstreamSide) -> None:
        """The head is sent: what was held follows, the rest as it comes."""
        self.up = up
        if self.held:
            up.transport.writelines(self.held)
            self.held = []
            self.held_bytes = 0
        if up.writable and self.conn is not None:
            self.conn.resume_reading()

    def upstream_writable(self, now: float, *, writable: bool) -> None:
        conn = self.conn
        if conn is None or self.done:
            return
        if writable:
            self.stalled_at = 0.0
            conn.resume_reading()
        else:
            self.stalled_at = now
            longest = conn.write_timeout_s
            conn.deadline = min(conn.deadline, now + longest)
            conn.pause_reading()

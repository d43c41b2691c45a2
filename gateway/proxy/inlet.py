"""What a client sends into a WebSocket session: its pace, and what has to wait.

Messages are passed on whole. A message that may not pass yet is held with all that
follows it, in order; control frames and ``response.cancel`` pass beside them, so that a
client can keep its connection alive and stop the answer that it waits for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.metering.realtime import ClientMessage, RealtimeMeter

# Frames that are read of one client: so many a second, and so many at once.
FRAMES_PER_S, FRAMES_AT_ONCE = 1000, 500
PAUSE_S = 0.05
# The client is not read while more than this is held.
HELD_BYTES = 1024 * 1024


class Inlet:
    """Reads one client's messages and passes on those that ``admit`` lets through.

    ``pass_up`` sends bytes to the upstream; ``hold`` stops and continues reading the
    client; ``on_pause`` is called when it sends too many frames.
    """

    __slots__ = (
        "_admit",
        "_closed",
        "_frames",
        "_frames_at",
        "_going_on",
        "_held",
        "_loop",
        "_meter",
        "_paused",
        "_queue",
        "hold",
        "on_pause",
        "pass_up",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        meter: RealtimeMeter,
        admit: Callable[[ClientMessage], bool],
        on_pause: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._meter = meter
        self._admit = admit
        self.on_pause = on_pause
        self.pass_up: Callable[[bytes], None] = _ignore
        self.hold: Callable[[bool], None] = _ignore
        self._queue: deque[ClientMessage] = deque()
        self._held = 0  # bytes in the queue
        self._frames = float(FRAMES_AT_ONCE)  # that may be read now
        self._frames_at = loop.time()
        self._paused: asyncio.TimerHandle | None = None
        self._going_on = self._closed = False

    @property
    def waits(self) -> bool:
        """Whether a message waits for its turn."""
        return bool(self._queue)

    def feed(self, data: bytes) -> None:
        """Read what the client sent, as fast as it may send."""
        now = self._loop.time()
        more = (now - self._frames_at) * FRAMES_PER_S
        self._frames = min(FRAMES_AT_ONCE, self._frames + more)
        self._frames_at = now
        out: list[bytes] = []
        for message in self._meter.client_messages(data, int(self._frames)):
            event = message.event
            if message.control or (event is not None and event.cancels):
                out.append(message.raw)
            elif self._queue or not self._admit(message):
                self._queue.append(message)
                self._held += len(message.raw)
            else:
                out.append(message.raw)
            if self._closed:
                return
        self._frames -= self._meter.frames
        if self._meter.stopped and self._paused is None:
            self.on_pause()
            self._paused = self._loop.call_later(PAUSE_S, self._read_on)
        self._send(out)

    def _read_on(self) -> None:
        self._paused = None
        self.feed(b"")

    def go_on(self) -> None:
        """Pass on what waited, as far as it is admitted now."""
        if self._going_on or not self._queue:
            return
        self._going_on = True
        out: list[bytes] = []
        while self._queue and self._admit(self._queue[0]) and not self._closed:
            raw = self._queue.popleft().raw
            self._held -= len(raw)
            out.append(raw)
        self._going_on = False
        self._send(out)

    def _send(self, out: list[bytes]) -> None:
        if self._closed:
            return
        if out:
            self.pass_up(out[0] if len(out) == 1 else b"".join(out))
        self.hold(self._paused is not None or self._held > HELD_BYTES)

    def close(self) -> None:
        """Pass nothing on any more."""
        self._closed = True
        self._queue.clear()
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None


def _ignore(_value: object) -> None:
    """Stand in until the tunnel is there."""

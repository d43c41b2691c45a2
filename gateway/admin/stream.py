"""The live stream: server-sent events for open consoles.

Detector outputs and operator actions have ids and are kept for clients that reconnect
with ``Last-Event-ID``. Counters are sent every second and not kept. A subscriber that
falls behind is disconnected; its browser reconnects and gets the missed events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from gateway.admin.errors import AdminError

KEPT = 1000
MAX_SUBSCRIBERS = 64
# Queued events per subscriber before it is disconnected.
MAX_QUEUED = 256
TICK_S = 1.0
_RETRY = b"retry: 1000\n\n"


class LiveStream:
    """Distributes events. ``generation`` prefixes ids and differs for each process;
    ``counters`` is called once a second while there are subscribers.
    """

    def __init__(self, generation: int, counters: Callable[[], dict[str, Any]]) -> None:
        self._generation = generation
        self._counters = counters
        self._count = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._subscribers: set[StreamSubscriber] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._subscribers)

    def publish(self, event: str, content: Any) -> None:
        """Send an event and keep it for reconnecting subscribers."""
        self._count += 1
        id_ = f"{self._generation}-{self._count}"
        text = encode_event(event, content, id_)
        self._kept.append((self._count, text))
        self._send(text)

    def _send(self, text: bytes) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber.put(text)

    async def run(self) -> None:
        """Send counters once a second until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._subscribers:
                self._send(encode_event("counters", self._counters()))

    def subscribe(self, last_id: str | None) -> StreamSubscriber:
        """Add a subscriber, first with the events after ``last_id``. Raises AdminError."""
        if len(self._subscribers) >= MAX_SUBSCRIBERS or self._closed:
            raise AdminError(503, "too_many_streams", "too many open live streams")
        subscriber = StreamSubscriber()
        subscriber.put(_RETRY)
        for text in self._missed(last_id):
            subscriber.put(text)
        subscriber.put(encode_event("counters", self._counters()))
        self._subscribers.add(subscriber)
        return subscriber

    def _missed(self, last_id: str | None) -> list[bytes]:
        """Events after ``last_id``, or a ``reset`` if they are not all kept."""
        if not last_id:
            return []
        generation, _, number = last_id.partition("-")
        seen = int(number) if number.isascii() and number.isdigit() else -1
        oldest = self._kept[0][0] if self._kept else self._count + 1
        if generation != str(self._generation) or not oldest - 1 <= seen <= self._count:
            return [encode_event("reset", {})]
        missed = [text for count, text in self._kept if count > seen]
        # More than the queue should hold: the console reloads its state instead.
        room = MAX_QUEUED // 2
        return missed if len(missed) <= room else [encode_event("reset", {})]

    def unsubscribe(self, subscriber: StreamSubscriber) -> None:
        """Remove a subscriber."""
        self._subscribers.discard(subscriber)

    def close_all(self) -> None:
        """Disconnect all subscribers at shutdown."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.stop()


class StreamSubscriber:
    """The event queue of one console."""

    __slots__ = ("_queue", "_ready", "ended")

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._queue: deque[bytes] = deque()
        self.ended = False

    def put(self, text: bytes) -> None:
        """Queue an event; a full queue ends the subscriber."""
        if len(self._queue) >= MAX_QUEUED:
            self.ended = True
        else:
            self._queue.append(text)
        self._ready.set()

    def stop(self) -> None:
        """End the stream."""
        self.ended = True
        self._ready.set()

    async def next_batch(self) -> bytes:
        """Wait for events; returns all queued ones."""
        await self._ready.wait()
        self._ready.clear()
        text = b"".join(self._queue)
        self._queue.clear()
        return text


def encode_event(event: str, content: Any, id_: str = "") -> bytes:
    """Encode a server-sent event; the JSON contains no line breaks."""
    head = f"id: {id_}\n" if id_ else ""
    return b"%sevent: %s\ndata: %s\n\n" % (
        head.encode(),
        event.encode(),
        msgspec.json.encode(content),
    )


async def stream(
    request: web.Request, live: LiveStream, *, still_allowed: Callable[[], bool]
) -> web.StreamResponse:
    """Serve ``GET /api/v1/stream`` until the client leaves or its session ends."""
    last_id = request.headers.get("Last-Event-ID") or request.query.get("last")
    subscriber = live.subscribe(last_id)
    answer = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
            hdrs.CACHE_CONTROL: "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    try:
        await answer.prepare(request)
        while not subscriber.ended and still_allowed():
            await answer.write(await subscriber.next_batch())
    except ConnectionError:
        pass  # the client disconnected
    finally:
        live.unsubscribe(subscriber)
    return answer

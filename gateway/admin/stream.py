"""Live events to every open console: encoded once, sent to all.

What the detector says has ids and is kept for those who come back (``Last-Event-ID``);
counters come every second and are worth nothing a second later. A reader who does not
keep up is let go: its browser comes back and asks for what it missed.
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
MOST_SUBSCRIBERS = 64
# Events that may wait for one reader: half a minute of counters, or a storm's start.
MOST_WAITING = 256
TICK_S = 1.0
_RETRY = b"retry: 1000\n\n"


class LiveStream:
    """``counters`` is asked once a second, while anybody listens."""

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
        """Something that must not be missed."""
        self._count += 1
        id_ = f"{self._generation}-{self._count}"
        text = encode_event(event, content, id_)
        self._kept.append((self._count, text))
        self._send(text)

    def _send(self, text: bytes) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber.put(text)

    async def run(self) -> None:
        """Counters, once a second."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._subscribers:
                self._send(encode_event("counters", self._counters()))

    def subscribe(self, last_id: str | None) -> StreamSubscriber:
        """A reader with what it missed. Raises Refused."""
        if len(self._subscribers) >= MOST_SUBSCRIBERS or self._closed:
            raise AdminError(503, "too_many_streams", "too many consoles are open")
        subscriber = StreamSubscriber()
        subscriber.put(_RETRY)
        for text in self._missed(last_id):
            subscriber.put(text)
        subscriber.put(encode_event("counters", self._counters()))
        self._subscribers.add(subscriber)
        return subscriber

    def _missed(self, last_id: str | None) -> list[bytes]:
        """Events after ``last_id``; ``reset`` where that cannot be told."""
        if not last_id:
            return []
        generation, _, number = last_id.partition("-")
        seen = int(number) if number.isascii() and number.isdigit() else -1
        oldest = self._kept[0][0] if self._kept else self._count + 1
        if generation != str(self._generation) or not oldest - 1 <= seen <= self._count:
            return [encode_event("reset", {})]
        missed = [text for count, text in self._kept if count > seen]
        # More than a reader may have waiting: it asks for the state anew.
        room = MOST_WAITING // 2
        return missed if len(missed) <= room else [encode_event("reset", {})]

    def unsubscribe(self, subscriber: StreamSubscriber) -> None:
        """It left."""
        self._subscribers.discard(subscriber)

    def close_all(self) -> None:
        """Let everybody go: this process ends."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.stop()


class StreamSubscriber:
    """What waits for one console."""

    __slots__ = ("_due", "_waiting", "ended")

    def __init__(self) -> None:
        self._due = asyncio.Event()
        self._waiting: deque[bytes] = deque()
        self.ended = False

    def put(self, text: bytes) -> None:
        """One more event, or the end of a reader that does not keep up."""
        if len(self._waiting) >= MOST_WAITING:
            self.ended = True
        else:
            self._waiting.append(text)
        self._due.set()

    def stop(self) -> None:
        """No more."""
        self.ended = True
        self._due.set()

    async def next_batch(self) -> bytes:
        """All that waits, as soon as there is something."""
        await self._due.wait()
        self._due.clear()
        text = b"".join(self._waiting)
        self._waiting.clear()
        return text


def encode_event(event: str, content: Any, id_: str = "") -> bytes:
    """One server-sent event; JSON has no line ends of its own."""
    head = f"id: {id_}\n" if id_ else ""
    return b"%sevent: %s\ndata: %s\n\n" % (
        head.encode(),
        event.encode(),
        msgspec.json.encode(content),
    )


async def stream(
    request: web.Request, live: LiveStream, *, still_allowed: Callable[[], bool]
) -> web.StreamResponse:
    """``GET /api/v1/stream`` until the reader leaves, or its session ends."""
    asked = request.headers.get("Last-Event-ID") or request.query.get("last")
    subscriber = live.subscribe(asked)
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
        pass  # the console was closed
    finally:
        live.unsubscribe(subscriber)
    return answer

"""The workers as control sees them: connection, readiness, statistics, calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from gateway.admin.metrics import Metrics
from gateway.serve.link import LinkServer, Message, Peer

# Limit of a call to one or all workers, seconds.
CALL_TIMEOUT_S = 5.0


class CallError(Exception):
    """A worker did not answer in time, or could not carry out the call."""


class WorkerState:
    """State of the worker with one index."""

    __slots__ = ("connected", "generation", "incarnation", "pid", "ready", "stats")

    def __init__(self) -> None:
        self.pid = 0
        self.incarnation = 0  # restarts of this index since the supervisor started
        self.connected = False
        self.ready = False
        self.generation = 0
        self.stats: Message = {}


class WorkerRegistry:
    """Registry of the connected workers. ``greeting`` returns the messages for a worker
    that connects; ``on_event`` is called with ``event`` messages.
    """

    def __init__(
        self,
        path: str,
        count: int,
        metrics: Metrics,
        greeting: Callable[[], Iterable[Message]],
        on_event: Callable[[int, Message], None],
    ) -> None:
        self._link = LinkServer(path, self._on_message, self._on_disconnect)
        self._metrics = metrics
        self._greeting = greeting
        self._on_event = on_event
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_id = 0
        self._was_ready = False
        self.workers = [WorkerState() for _ in range(count)]
        self.on_ready: Callable[[], None] = lambda: None
        """Called once, when all workers are ready for the first time."""
        self.on_stats: Callable[[int, Message], None] = lambda _index, _stats: None
        """Called with each worker's statistics, in the order of its messages."""

    async def start(self) -> None:
        await self._link.start()

    async def close(self) -> None:
        await self._link.close()

    def broadcast(self, message: Message) -> None:
        """Send to every connected worker; others get the state when they connect."""
        self._link.broadcast(message)

    def not_ready(self) -> list[str]:
        """Reasons by worker. Once all were ready, one ready worker is enough."""
        waiting = [
            f"worker {index} is not ready"
            for index, worker in enumerate(self.workers)
            if not worker.ready
        ]
        if self._was_ready and len(waiting) < len(self.workers):
            return []
        return waiting

    def public(self) -> list[dict[str, Any]]:
        """State of each worker for the status page."""
        return [
            {
                "index": index,
                "pid": worker.pid,
                "restarts": worker.incarnation,
                "connected": worker.connected,
                "ready": worker.ready,
                "stats": {k: v for k, v in worker.stats.items() if k != "type"},
            }
            for index, worker in enumerate(self.workers)
        ]

    async def call_one(self, method: str, args: Message) -> Any:
        """Result of a call to one ready worker. Raises CallError."""
        peers = self._link.workers.items()
        able = [peer for index, peer in peers if self.workers[index].ready]
        (result,) = await self._call(able[:1], method, args)
        return result

    async def call_all(self, method: str, args: Message) -> list[Any]:
        """Results of a call to every connected worker. Raises CallError."""
        return await self._call(list(self._link.workers.values()), method, args)

    async def _call(
        self, peers: Sequence[Peer], method: str, args: Message
    ) -> list[Any]:
        asked = [self._ask(peer, method, args) for peer in peers]
        if not asked:
            msg = "no worker is connected"
            raise CallError(msg)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return list(await asyncio.gather(*asked))
        except TimeoutError as error:
            msg = f"a worker did not answer within {CALL_TIMEOUT_S:g} s"
            raise CallError(msg) from error
        finally:
            for future in asked:
                future.cancel()

    def _ask(self, peer: Peer, method: str, args: Message) -> asyncio.Future[Any]:
        self._call_id += 1
        number = self._call_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        future.add_done_callback(lambda _: self._calls.pop(number, None))
        peer.send({"type": "call", "id": number, "method": method, "args": args})
        return future

    def _on_message(self, peer: Peer, message: Message) -> None:
        if not 0 <= peer.index < len(self.workers):
            peer.close()
            return
        worker = self.workers[peer.index]
        match message["type"]:
            case "hello":
                self._on_hello(peer, worker, message)
            case "ready":
                worker.ready = True
                self._check_ready()
            case "stats":
                worker.stats = message
                stats = self._metrics.stats_of(peer.index)
                stats.update(worker.incarnation, message)
                self.on_stats(peer.index, message)
            case "event":
                self._on_event(peer.index, message)
            case "answer":
                self._on_answer(message)
            case _:
                pass  # unknown message of a newer version

    def _on_hello(self, peer: Peer, worker: WorkerState, message: Message) -> None:
        """A worker connected, for the first time or again: send it the present state. It
        is not ready until its next ``ready``.
        """
        worker.pid = message.get("pid", 0)
        worker.incarnation = message.get("incarnation", 0)
        worker.connected = True
        worker.ready = False
        for state in self._greeting():
            peer.send(state)

    def _check_ready(self) -> None:
        if not self._was_ready and all(worker.ready for worker in self.workers):
            self._was_ready = True
            self.on_ready()

    def _on_answer(self, message: Message) -> None:
        future = self._calls.get(message.get("id", 0))
        if future is None or future.done():
            return
        if message.get("error"):
            future.set_exception(CallError(str(message["error"])))
        else:
            future.set_result(message.get("result"))

    def _on_disconnect(self, peer: Peer) -> None:
        if 0 <= peer.index < len(self.workers):
            worker = self.workers[peer.index]
            worker.connected = worker.ready = False
            self._metrics.stats_of(peer.index).on_exit()


def read_sums(result: Any) -> list[int]:
    """Decode a worker's answer to ``peek``. Raises CallError."""
    try:
        return msgspec.convert(result or [], list[int])
    except msgspec.ValidationError as error:
        raise CallError(str(error)) from error

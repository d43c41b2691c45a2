"""The Unix socket between control (server) and its workers (clients).

Frames are a 4-byte big-endian length and a MessagePack map with a ``type``. The link
carries commands, statistics and events: a few messages a second. Records go through
``ring`` instead.

Neither side waits for the other. A worker keeps serving while control is down,
reconnects until it succeeds, and sends ``hello`` (and ``ready``, once it was) each
time. Messages that cannot be sent are dropped and counted, so a peer that does not read
costs a bounded buffer.

Control to worker:
``config``  ``generation`` and ``snapshot`` (``runtime.Snapshot``)
``blocks``  ``full``, or ``add`` (Blocks) and ``remove`` (kind, id, tenant or nil)
``forget``  ``keys`` of counters that were reset on some machine
``secret``  ``value``, ``shared`` (it is the store's); ``jwks``: ``url`` and ``keys``; ``drain``
``baselines`` ``subjects`` (tenant, kind, id, requests a minute) and ``busy`` by tenant
``settled`` ``tenants``: hashes of established clients, by tenant under attack
``spared``  ``tenants``: hashes of users that entries on addresses do not apply to
``call``    ``id``, ``method`` (``peek`` or ``reset``), ``args`` with ``cells``

Worker to control: ``hello``, ``ready``, ``stats`` (keys: ``admin.metrics``),
``event`` with a ``name``, ``answer`` with ``id`` and ``result`` or ``error``.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import msgspec

Message = dict[str, Any]

# A full block list (100,000 entries) is about 15 MB; nothing legitimate is larger.
MAX_FRAME_BYTES = 64 * 1024 * 1024
# Unread bytes after which further messages to a peer are dropped.
MAX_BACKLOG_BYTES = 64 * 1024 * 1024
# Events and answers (never statistics) that are kept while control is down.
MAX_WAITING = 256
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0

_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class LinkError(Exception):
    """The peer does not follow this protocol; the connection is closed."""


def encode_frame(message: Message) -> bytes:
    """One message as a frame."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Incremental parser: bytes in at any split, whole messages out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Message]:
        """Messages completed by ``chunk``. Raises LinkError."""
        buffer = self._buffer
        buffer += chunk
        messages: list[Message] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, at)
            if size > MAX_FRAME_BYTES:
                msg = f"frame of {size} bytes"
                raise LinkError(msg)
            end = at + _LENGTH.size + size
            if len(buffer) < end:
                break
            messages.append(_decode_map(bytes(buffer[at + _LENGTH.size : end])))
            at = end
        del buffer[:at]
        return messages


def _decode_map(body: bytes) -> Message:
    try:
        message = _decode(body)
    except msgspec.DecodeError as error:
        msg = f"not a message: {error}"
        raise LinkError(msg) from error
    if not isinstance(message.get("type"), str):
        msg = "message without a type"
        raise LinkError(msg)
    return message


class Peer(asyncio.Protocol):
    """One end of a connection, with a bounded send buffer."""

    def __init__(
        self,
        on_message: Callable[[Peer, Message], None],
        on_open: Callable[[Peer], None],
        on_close: Callable[[Peer], None],
    ) -> None:
        self._on_message = on_message
        self._on_open = on_open
        self._on_close = on_close
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.index = -1
        """Index of the worker, known after its ``hello`` (control's side only)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not a subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._on_open(self)

    def data_received(self, chunk: bytes) -> None:
        try:
            messages = self._reader.feed(chunk)
        except LinkError:
            self.close()
            return
        for message in messages:
            self._on_message(self, message)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._on_close(self)

    def send(self, message: Message) -> bool:
        """Queue a message; False if the peer is gone or does not read."""
        return self.send_frame(encode_frame(message))

    def send_frame(self, frame: bytes) -> bool:
        """Queue a frame that was encoded once for many peers."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            return False
        transport.write(frame)
        return True

    def close(self) -> None:
        """Close the connection after the queued frames are sent."""
        if self._transport is not None:
            self._transport.close()


class WorkerLink:
    """A worker's end: reconnects until it succeeds and sends ``hello`` each time.

    ``on_message`` receives each message of control, in order, on the loop.
    """

    def __init__(
        self,
        path: str,
        index: int,
        incarnation: int,
        on_message: Callable[[Message], None],
    ) -> None:
        self._path = path
        self._hello: Message = {
            "type": "hello",
            "index": index,
            "incarnation": incarnation,
            "pid": os.getpid(),
        }
        self._on_message = on_message
        self.on_connect: Callable[[], Message | None] = lambda: None
        """Returns a message for a control that has just connected; None: no message."""
        self._peer: Peer | None = None
        self._lost = asyncio.Event()
        self._ready = False
        self._waiting: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Messages dropped since the start."""

    @property
    def connected(self) -> bool:
        return self._peer is not None

    async def start(self) -> None:
        """Connect in the background; returns at once, control may be down."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._keep_connected(), name="link")

    async def close(self) -> None:
        """Send the queued messages and close."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._peer is not None:
            self._lost.clear()
            self._peer.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), 1.0)

    def send(self, message: Message) -> None:
        """Send or queue a message; never waits, never raises. While control is down,
        statistics are dropped (the next ones replace them) and other messages kept, up
        to MAX_WAITING.
        """
        if message["type"] == "ready":
            self._ready = True
        peer = self._peer
        if peer is not None:
            if not peer.send(message):
                self.dropped += 1
        elif message["type"] not in ("ready", "stats"):
            self._keep(encode_frame(message))

    def _keep(self, frame: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(frame)

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        retry_s = FIRST_RETRY_S
        while True:
            self._lost.clear()
            try:
                await loop.create_unix_connection(self._new_peer, self._path)
            except OSError:
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, LAST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            await self._lost.wait()
            await asyncio.sleep(FIRST_RETRY_S)

    def _new_peer(self) -> Peer:
        return Peer(self._received, self._opened, self._closed)

    def _opened(self, peer: Peer) -> None:
        self._peer = peer
        peer.send(self._hello)
        if self._ready:
            peer.send({"type": "ready"})
        while self._waiting:
            peer.send_frame(self._waiting.popleft())
        state = self.on_connect()
        if state is not None:
            peer.send(state)

    def _received(self, _peer: Peer, message: Message) -> None:
        self._on_message(message)

    def _closed(self, _peer: Peer) -> None:
        self._peer = None
        self._lost.set()


class LinkServer:
    """Control's end: the connected workers by index.

    ``on_message`` is called with each message of a peer from its ``hello`` on,
    ``on_disconnect`` when a worker is lost for which no other connection has replaced it.
    """

    def __init__(
        self,
        path: str,
        on_message: Callable[[Peer, Message], None],
        on_disconnect: Callable[[Peer], None],
    ) -> None:
        self._path = path
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._server: asyncio.AbstractServer | None = None
        self._all: set[Peer] = set()  # with those that have not sent ``hello``
        self.workers: dict[int, Peer] = {}
        self.dropped = 0
        """Broadcast messages that a worker did not get."""

    async def start(self) -> None:
        """Listen; replaces the socket of a killed predecessor."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._new_peer, self._path)
        os.chmod(self._path, 0o600)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            self._server.close()
        for peer in tuple(self._all):
            peer.close()
        if self._server is not None:
            await self._server.wait_closed()

    def broadcast(self, message: Message) -> None:
        """Send a message to every worker that has sent ``hello``."""
        frame = encode_frame(message)
        for peer in self.workers.values():
            if not peer.send_frame(frame):
                self.dropped += 1

    def _new_peer(self) -> Peer:
        return Peer(self._received, self._all.add, self._closed)

    def _received(self, peer: Peer, message: Message) -> None:
        if message["type"] == "hello":
            peer.index = int(message["index"])
            self.workers[peer.index] = peer
        if peer.index >= 0:
            self._on_message(peer, message)

    def _closed(self, peer: Peer) -> None:
        self._all.discard(peer)
        # A restarted worker may connect before its predecessor's connection is lost.
        if self.workers.get(peer.index) is peer:
            del self.workers[peer.index]
            self._on_disconnect(peer)

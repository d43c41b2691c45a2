"""Frames of a WebSocket (RFC 6455): whole messages of a stream of bytes.

The proxy removes ``permessage-deflate`` from the handshake, so a reserved bit means that
the frames cannot be read.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
# In place of an opcode: bytes of a message that is too large to read.
UNREAD = -1
MESSAGE_BYTES = 1024 * 1024
_CONTROL_BYTES = 125
# What is kept of a server's message that is too large to read.
HEAD_BYTES, TAIL_BYTES = 4 * 1024, 64 * 1024


class FrameScanError(Exception):
    """The bytes are not readable frames: metering has to stop."""


class UnmaskedError(FrameScanError):
    """A client's frame is not masked: the connection must be closed (section 5.1)."""


class FrameScanner:
    """Extracts whole messages from one direction of a WebSocket.

    ``max_message``: larger messages (audio) are skipped; of a server's, which come as
    UNREAD, their end and in place of their bytes their beginning is kept. ``client``:
    frames must be masked, and messages come with their bytes, so that they can be passed
    on.
    """

    __slots__ = (
        "_buffer",
        "_client",
        "_discards",
        "_ending",
        "_head",
        "_kind",
        "_max",
        "_parts",
        "_raw",
        "_size",
        "_skip",
        "_tail",
        "frames",
        "skipped",
        "stopped",
    )

    def __init__(
        self, max_message: int = MESSAGE_BYTES, *, client: bool = False
    ) -> None:
        self._client = client
        self._max = max_message
        self._buffer = bytearray()
        self._skip = 0
        # Of the message that is being read: opcode, payload, bytes, size; and whether it
        # is too large.
        self._kind = 0
        self._parts = bytearray()
        self._raw = bytearray()
        self._size = 0
        self._discards = False
        # Of a server's message that is too large: its first and last bytes, and whether
        # its last frame has begun.
        self._head = bytearray()
        self._tail = bytearray()
        self._ending = False
        self.skipped = 0
        # Frames that the last ``feed`` has read, and whether it has left some.
        self.frames = 0
        self.stopped = False

    @property
    def between_messages(self) -> bool:
        """Whether another message could be inserted at this place."""
        return not (self._buffer or self._skip or self._kind)

    def feed(
        self, data: bytes, most: int = sys.maxsize
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """(opcode, payload, bytes) of every message that ``data`` completes; of a
        server's messages without their bytes.

        ``most``: read so many frames, and the rest when called again. Raises
        FrameScanError.
        """
        buffer, client = self._buffer, self._client
        self.frames = 0
        self.stopped = False
        if self._skip and data:
            unread, data = data[: self._skip], data[self._skip :]
            self._skip -= len(unread)
            yield from self._unread(unread, unread)
        buffer += data
        at = 0
        try:
            while (head := _frame_head(buffer, at)) is not None:
                first, start, length, mask = head
                if client and not mask:
                    raise UnmaskedError("a frame of a client is not masked")
                if self.frames >= most:
                    self.stopped = True
                    break
                begin, end = at, start + length
                if not first & CLOSE and self._is_too_large(first, end - begin):
                    self.frames += 1
                    at = min(end, len(buffer))
                    self._skip = end - at
                    payload = bytes(self._parts + buffer[start:at])
                    self._ending = bool(first & 0x80)
                    unread = self._pass_over(first, buffer[begin:at])
                    yield from self._unread(unread, payload)
                    continue
                if end > len(buffer):
                    break
                self.frames += 1
                at = end
                payload = _unmask(bytes(buffer[start:end]), mask)
                raw = buffer[begin:end] if client else b""
                if first & CLOSE:
                    yield first & 0x0F, payload, bytes(raw)
                elif (message := self._take(first, payload, raw)) is not None:
                    yield message
        finally:
            del buffer[:at]

    def rest(self) -> bytes:
        """The bytes that no message was made of, once they cannot be read."""
        rest = bytes(self._raw + self._buffer)
        self._raw.clear()
        self._buffer.clear()
        return rest

    def _is_too_large(self, first: int, size: int) -> bool:
        """Whether a data frame belongs to a message too large to buffer."""
        if self._discards:
            return not first & 0x0F
        return self._size + size > self._max

    def _continue(self, opcode: int) -> None:
        """Check the order of fragments (RFC 6455 section 5.4)."""
        if opcode and self._kind:
            raise FrameScanError("a new message inside a fragmented one")
        if not opcode and not self._kind:
            raise FrameScanError("a continuation frame without a message")

    def _pass_over(self, first: int, raw: bytearray) -> bytes:
        """Skip a message too large to buffer, with all its later frames."""
        self._continue(first & 0x0F)
        unread = bytes(self._raw + raw)
        self._forget()
        self._kind, self._discards = first & 0x0F or TEXT, True
        if first & 0x80:
            self._kind, self._discards = 0, False
            self.skipped += 1
        return unread

    def _unread(self, raw: bytes, payload: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """A piece of a message that is too large; of a server's, what is kept of it once
        it is complete.
        """
        if self._client:
            yield UNREAD, b"", raw
            return
        self._head += payload[: max(0, HEAD_BYTES - len(self._head))]
        self._tail += payload[-TAIL_BYTES:]
        del self._tail[:-TAIL_BYTES]
        if self._ending and not self._skip:
            self._ending = False
            yield UNREAD, bytes(self._tail), bytes(self._head)
            self._head.clear()
            self._tail.clear()

    def _forget(self) -> None:
        self._kind = self._size = 0
        self._parts.clear()
        self._raw.clear()

    def _take(
        self, first: int, payload: bytes, raw: bytes | bytearray
    ) -> tuple[int, bytes, bytes] | None:
        """Add a frame to its message; returns the message if the frame was its last.

        Empty fragments in the middle say nothing: they are not kept.
        """
        opcode = first & 0x0F
        self._continue(opcode)
        if first & 0x80 and not self._kind:
            return opcode, payload, bytes(raw)
        self._kind = opcode or self._kind
        if payload or opcode or first & 0x80:
            self._parts += payload
            self._raw += raw
            self._size += len(payload) + _HEAD_BYTES
        if not first & 0x80:
            return None
        message = self._kind, bytes(self._parts), bytes(self._raw)
        self._forget()
        return message


# The largest head of a client's frame.
_HEAD_BYTES = 14


def _frame_head(buffer: bytearray, at: int) -> tuple[int, int, int, bytes] | None:
    """(first byte, payload start, length, mask); None: the head is incomplete."""
    have = len(buffer) - at
    if have < 2:  # noqa: PLR2004
        return None
    first, second = buffer[at], buffer[at + 1]
    if first & 0x70:
        raise FrameScanError("reserved bits are set: compressed or unknown")
    length = second & 0x7F
    size = {126: 2, 127: 8}.get(length, 0)
    masked = 4 if second & 0x80 else 0
    if have < 2 + size + masked:
        return None
    start = at + 2 + size
    if size:
        length = int.from_bytes(buffer[at + 2 : start], "big")
    if first & 0x08 and (length > _CONTROL_BYTES or not first & 0x80):
        raise FrameScanError("control frame too long or fragmented")
    return first, start + masked, length, bytes(buffer[start : start + masked])


def _unmask(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def server_frame(opcode: int, payload: bytes) -> bytes:
    """One unmasked frame, as servers send it; ``payload`` is at most 64 KiB long."""
    size = len(payload)
    head = bytes([0x80 | opcode])
    if size <= _CONTROL_BYTES:
        return head + bytes([size]) + payload
    return head + b"\x7e" + size.to_bytes(2, "big") + payload

"""Realtime over WebSocket: reads passing frames and sums the usage of all responses.

Frames are not changed. The proxy removes ``permessage-deflate`` from the handshake, so
a reserved bit means that the frames cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.core.model import Usage
from gateway.metering.dialects.fields import UsageEnvelope, UsageTally, decode_envelope
from gateway.metering.dialects.loose import loose_envelope

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MESSAGE_BYTES = 1024 * 1024
_CONTROL_BYTES = 125
_DISCARDED = -1


class FrameScanError(Exception):
    """The bytes are not readable frames: metering has to stop."""


class FrameScanner:
    """Extracts whole messages from one direction of a WebSocket (RFC 6455).

    ``max_message``: larger messages (audio) are skipped unread.
    """

    __slots__ = ("_buffer", "_kind", "_max", "_parts", "_size", "_skip", "skipped")

    def __init__(self, max_message: int = MESSAGE_BYTES) -> None:
        self._max = max_message
        self._buffer = bytearray()
        self._skip = 0
        self._kind = 0
        self._parts: list[bytes] = []
        self._size = 0
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of every message that ``data`` completes.

        Raises FrameScanError.
        """
        if self._skip:
            cut = min(self._skip, len(data))
            self._skip -= cut
            data = data[cut:]
        buffer = self._buffer
        buffer += data
        at = 0
        while True:
            head = _frame_head(buffer, at)
            if head is None:
                break
            first, start, length, mask = head
            opcode = first & 0x0F
            if opcode < CLOSE and self._is_too_large(opcode, length):
                self._pass_over(first)
                at = start + length
                if at > len(buffer):
                    self._skip = at - len(buffer)
                    at = len(buffer)
                continue
            if len(buffer) - start < length:
                break
            at = start + length
            payload = _unmask(bytes(buffer[start:at]), mask)
            if opcode >= CLOSE:
                yield opcode, payload
            else:
                message = self._take(first, payload)
                if message is not None:
                    yield message
        del buffer[:at]

    def _is_too_large(self, opcode: int, length: int) -> bool:
        """Whether a data frame belongs to a message too large to buffer."""
        if self._kind == _DISCARDED:
            return opcode == 0
        return self._size + length > self._max

    def _continue(self, opcode: int) -> None:
        """Check the order of fragments (RFC 6455 section 5.4)."""
        if opcode and self._kind:
            raise FrameScanError("a new message inside a fragmented one")
        if not opcode and not self._kind:
            raise FrameScanError("a continuation frame without a message")

    def _pass_over(self, first: int) -> None:
        """Skip a message too large to buffer, with all its later frames."""
        self._continue(first & 0x0F)
        self._parts = []
        self._size = 0
        self._kind = _DISCARDED
        if first & 0x80:
            self._kind = 0
            self.skipped += 1

    def _take(self, first: int, payload: bytes) -> tuple[int, bytes] | None:
        """Add a frame to its message; returns the message if the frame was its last."""
        opcode = first & 0x0F
        self._continue(opcode)
        self._kind = opcode or self._kind
        self._parts.append(payload)
        self._size += len(payload)
        if not first & 0x80:
            return None
        message = self._kind, b"".join(self._parts)
        self._kind, self._parts, self._size = 0, [], 0
        return message


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


class RealtimeMeter:
    """Usage of one realtime session, read from both directions."""

    __slots__ = (
        "_down",
        "_up",
        "client_events",
        "lost",
        "model",
        "responses",
        "total",
    )

    def __init__(self, max_message: int = MESSAGE_BYTES) -> None:
        self._up: FrameScanner | None = FrameScanner(max_message)
        self._down: FrameScanner | None = FrameScanner(max_message)
        self.client_events = 0
        self.responses = 0
        self.model = ""
        # A direction could not be read, or not to its end.
        self.lost = False
        self.total = Usage()

    def feed_client(self, data: bytes) -> int:
        """Scan bytes from the client; returns the number of events they complete."""
        count = sum(kind in (TEXT, BINARY) for kind, _ in self._scan(data, up=True))
        self.client_events += count
        return count

    def feed_upstream(self, data: bytes) -> list[Usage]:
        """Scan bytes from the upstream; returns the usage of each completed response."""
        found = []
        for kind, payload in self._scan(data, up=False):
            if kind != TEXT:
                continue
            usage = response_usage(payload)
            if usage is not None:
                self.responses += 1
                self._add(usage)
                found.append(usage)
        return found

    def _scan(self, data: bytes, *, up: bool) -> list[tuple[int, bytes]]:
        scanner = self._up if up else self._down
        if scanner is None:
            return []
        try:
            return list(scanner.feed(data))
        except FrameScanError:
            self.lost = True
            if up:
                self._up = None
            else:
                self._down = None
            return []

    def _add(self, usage: Usage) -> None:
        total = self.total
        self.total = Usage(
            total.prompt + usage.prompt,
            total.completion + usage.completion,
            total.total + usage.total,
            total.cached + usage.cached,
            total.reasoning + usage.reasoning,
            total.cache_write + usage.cache_write,
            "upstream",
        )


def response_usage(event: bytes) -> Usage | None:
    """Usage in an event (OpenAI: ``response.done``); None if it states none."""
    if b'"usage' not in event:
        return None
    envelope: UsageEnvelope | None
    try:
        envelope = decode_envelope(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        envelope = loose_envelope(event)
    if envelope is None:
        return None
    tally = UsageTally()
    tally.take(envelope)
    return tally.usage() if tally.seen else None

"""Sessions over WebSocket: reads passing frames and sums the usage of all answers.

Frames are not changed. The proxy removes ``permessage-deflate`` from the handshake, so
a reserved bit means that the frames cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.model import Usage
from gateway.metering.session_events import client_event, server_event

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
        self._parts = bytearray()
        self._size = 0
        self.skipped = 0

    @property
    def between_messages(self) -> bool:
        """Whether another message could be inserted at this place."""
        return not (self._buffer or self._skip or self._kind)

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
        self._parts.clear()
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
        self._parts += payload
        self._size += len(payload)
        if not first & 0x80:
            return None
        message = self._kind, bytes(self._parts)
        self._parts.clear()
        self._kind = self._size = 0
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
    """Usage and model of one session, read from both directions.

    ``model``: what the upstream states. ``asked_model``: what the client's events name.
    ``answering``: an answer has begun whose usage is not stated yet. ``asking``: the
    client has sent what begins one; ``pass_on`` says that it was passed on.
    """

    __slots__ = (
        "_down",
        "_up",
        "answering",
        "asked_model",
        "asking",
        "begun",
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
        self.begun = False  # the upstream has stated a model, or begun an answer
        self.model = self.asked_model = ""
        self.answering = self.asking = False
        # A direction could not be read, or not to its end.
        self.lost = False
        self.total = Usage()

    @property
    def between_messages(self) -> bool:
        """Whether a message to the client could be inserted here."""
        return self._down is not None and self._down.between_messages

    @property
    def skipped(self) -> int:
        """Messages of the upstream that were too large to read."""
        return 0 if self._down is None else self._down.skipped

    def feed_client(self, data: bytes) -> int:
        """Scan bytes from the client; returns the number of events they complete."""
        count = 0
        for kind, payload in self._scan(data, up=True):
            if kind not in (TEXT, BINARY):
                continue
            count += 1
            # An empty message says nothing; a flood of them must cost little.
            event = client_event(payload) if payload else None
            if event is None:
                continue
            self.asking = self.asking or event.opens
            self.asked_model = event.model or self.asked_model
        self.client_events += count
        return count

    def pass_on(self) -> None:
        """Note that the upstream gets what was scanned of the client."""
        self.answering = self.answering or self.asking
        self.asking = False

    def feed_upstream(self, data: bytes) -> list[Usage]:
        """Scan bytes from the upstream; returns the usage of each completed answer."""
        found = []
        for kind, payload in self._scan(data, up=False):
            # Gemini Live sends its JSON in binary messages.
            if kind not in (TEXT, BINARY):
                continue
            event = server_event(payload)
            if event is None:
                continue
            if event.opens or event.model or event.usage is not None:
                self.begun = True
            self.model = event.model or self.model
            self.answering = event.opens or (self.answering and not event.closes)
            if event.usage is not None:
                self.responses += 1
                self.total = sum_usage(self.total, event.usage)
                found.append(event.usage)
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


def sum_usage(one: Usage, other: Usage) -> Usage:
    """The sum of two usages, with the source and the names of the second."""
    units = dict(one.units)
    for unit, amount in other.units:
        units[unit] = units.get(unit, 0) + amount
    costs = [cost for cost in (one.cost_usd, other.cost_usd) if cost is not None]
    return Usage(
        one.prompt + other.prompt,
        one.completion + other.completion,
        one.total + other.total,
        one.cached + other.cached,
        one.reasoning + other.reasoning,
        one.cache_write + other.cache_write,
        other.source,
        units=tuple(units.items()),
        model=other.model or one.model,
        tier=other.tier or one.tier,
        cost_usd=sum(costs) if costs else None,
    )


def server_frame(opcode: int, payload: bytes) -> bytes:
    """One unmasked frame, as servers send it; ``payload`` is at most 64 KiB long."""
    size = len(payload)
    head = bytes([0x80 | opcode])
    if size <= _CONTROL_BYTES:
        return head + bytes([size]) + payload
    return head + b"\x7e" + size.to_bytes(2, "big") + payload

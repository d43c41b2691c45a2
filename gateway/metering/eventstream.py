"""AWS event stream (``application/vnd.amazon.eventstream``), read incrementally.

A message consists of: total length and header length (u32 big-endian each), CRC-32 of
those eight bytes, headers, payload, CRC-32 of everything before. Only the first CRC is
checked, because the framing depends on it; the relay does not change the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

PRELUDE_BYTES = 12
_TRAILER_BYTES = 4
# AWS allows 24 MiB a message. Payloads with usage are far below this bound; larger
# messages are skipped without being buffered.
PAYLOAD_BYTES = 1024 * 1024
# Header value types; byte arrays and strings carry their length in two bytes.
_BYTES, _STRING = 6, 7
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class EventStreamError(Exception):
    """The bytes are not an AWS event stream, or the framing is lost."""


class EventStreamReader:
    """Yields ``(event type, payload)`` of every whole message, for any split of bytes."""

    __slots__ = ("_buffer", "_skip")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Messages completed by ``data``. Raises EventStreamError if
        framing is lost.
        """
        buffer = self._buffer
        if self._skip:
            cut = min(self._skip, len(data))
            self._skip -= cut
            data = data[cut:]
        buffer += data
        at = 0
        while len(buffer) - at >= PRELUDE_BYTES:
            total, head = _prelude(buffer, at)
            if total > PAYLOAD_BYTES:
                self._skip = max(0, at + total - len(buffer))
                at = min(len(buffer), at + total)
                continue
            if len(buffer) - at < total:
                break
            start = at + PRELUDE_BYTES
            kind = event_type(bytes(buffer[start : start + head]))
            yield kind, bytes(buffer[start + head : at + total - _TRAILER_BYTES])
            at += total
        del buffer[:at]


def _prelude(buffer: bytearray, at: int) -> tuple[int, int]:
    total = int.from_bytes(buffer[at : at + 4], "big")
    head = int.from_bytes(buffer[at + 4 : at + 8], "big")
    check = int.from_bytes(buffer[at + 8 : at + 12], "big")
    if crc32(buffer[at : at + 8]) != check:
        raise EventStreamError("prelude checksum does not match")
    if total < PRELUDE_BYTES + head + _TRAILER_BYTES:
        raise EventStreamError("message shorter than its headers")
    return total, head


def event_type(headers: bytes) -> str:
    """The ``:event-type`` (or ``:exception-type``) of a header block, "" without one."""
    at = 0
    while at + 2 <= len(headers):
        name_end = at + 1 + headers[at]
        name = headers[at + 1 : name_end]
        kind = headers[name_end] if name_end < len(headers) else -1
        at = name_end + 1
        if kind in (_BYTES, _STRING):
            size = int.from_bytes(headers[at : at + 2], "big")
            value = headers[at + 2 : at + 2 + size]
            if kind == _STRING and name in (b":event-type", b":exception-type"):
                return value.decode("utf-8", "replace")
            at += 2 + size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            return ""
    return ""

"""Removes from a stream the usage chunk that only the gateway asked for."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from gateway.metering.dialects.base import UsageMeter
from gateway.metering.dialects.meters import (
    BLANK_LINE,
    EVENT_BYTES,
    USAGE_HIT,
    NullMeter,
    StreamMeter,
)
from gateway.metering.dialects.texts import sse_payload


class _Chunk(msgspec.Struct):
    choices: list[Raw] | None = None
    # Not ``Raw | None``: msgspec decodes a Raw in a union only from null.
    usage: Raw = Raw()


_decode = msgspec.json.Decoder(_Chunk).decode


def is_usage_only(event: bytes) -> bool:
    """Whether an event has a usage object and no choices.

    Azure's first chunk has no choices either, but no usage: it is kept.
    """
    if not USAGE_HIT(event):
        return False
    try:
        chunk = _decode(sse_payload(event))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    # A Raw may include the white space before its value.
    return chunk.choices == [] and bytes(chunk.usage).lstrip()[:1] == b"{"


class UsageFilter:
    """Buffers each event of a stream until it is complete, and drops the usage-only one.

    All other bytes pass unchanged. The filter also feeds the meter, with all bytes.
    """

    __slots__ = ("_buffer", "_from", "_keep", "_meter", "_passing")

    def __init__(self, meter: UsageMeter) -> None:
        self._meter = meter
        # Filter and meter have empty buffers at the same times, so that one search for
        # usage serves both.
        self._keep = meter.keep if isinstance(meter, StreamMeter) else meter.feed
        self._buffer = bytearray()
        self._from = 0
        # Inside an event too large to buffer: its rest passes unread.
        self._passing = False

    def feed(self, data: bytes) -> bytes:
        """Take answer bytes; returns those that may be forwarded now."""
        if not self._buffer and data.endswith(b"\n\n") and not USAGE_HIT(data):
            self._passing = False
            self._keep(data)
            return data
        self._meter.feed(data)
        return self._feed_slow_path(data)

    def stop_metering(self) -> None:
        """Go on without the meter, which has failed."""
        self._meter = NullMeter()
        self._keep = self._meter.feed

    def _feed_slow_path(self, data: bytes) -> bytes:
        buffer = self._buffer
        buffer += data
        passed = bytearray()
        start = 0
        for found in BLANK_LINE.finditer(buffer, self._from):
            end = found.end()
            if end == len(buffer) and buffer[-1:] == b"\r":
                break  # a line feed that belongs to this line end may follow
            event = bytes(buffer[start:end])
            if self._passing or not is_usage_only(event):
                passed += event
            self._passing = False
            start = end
        del buffer[:start]
        self._from = max(0, len(buffer) - 3)
        if len(buffer) > EVENT_BYTES:
            self._passing = True
            passed += buffer[: self._from]
            del buffer[: self._from]
            self._from = 0
        return bytes(passed)

    def flush(self) -> bytes:
        """The buffered rest at the end of the answer."""
        event = bytes(self._buffer)
        self._buffer.clear()
        self._from = 0
        whole = event.rstrip(b"\r\n") != event
        if whole and not self._passing and is_usage_only(event):
            return b""
        return event

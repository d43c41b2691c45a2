"""Removing the usage chunk that we asked for and the client did not."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from gateway.metering.dialects.base import UsageMeter
from gateway.metering.dialects.meters import (
    BLANK_LINE,
    EVENT_BYTES,
    USAGE_HIT,
    StreamMeter,
)
from gateway.metering.dialects.texts import sse_payload


class _Chunk(msgspec.Struct):
    choices: list[Raw] | None = None
    # Not ``Raw | None``: msgspec reads a Raw in a union as null only.
    usage: Raw = Raw()


_decode = msgspec.json.Decoder(_Chunk).decode


def is_usage_only(event: bytes) -> bool:
    """Whether an event has a usage object and no choices.

    Azure's first chunk has no choices either, but no usage: it stays.
    """
    if not USAGE_HIT(event):
        return False
    try:
        chunk = _decode(sse_payload(event))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    # A Raw may keep the white space before its value.
    return chunk.choices == [] and bytes(chunk.usage).lstrip()[:1] == b"{"


class UsageFilter:
    """Holds each event of a stream until it is whole, drops the usage-only one.

    All other bytes pass as they came. It feeds the meter itself: with everything.
    """

    __slots__ = ("_from", "_held", "_keep", "_meter", "_passing")

    def __init__(self, meter: UsageMeter) -> None:
        self._meter = meter
        # Both hold nothing at the same times, so one search serves both.
        self._keep = meter.keep if isinstance(meter, StreamMeter) else meter.feed
        self._held = bytearray()
        self._from = 0
        # The rest of an event too large to hold goes through unread.
        self._passing = False

    def feed(self, data: bytes) -> bytes:
        """What may pass on now."""
        if not self._held and data.endswith(b"\n\n") and not USAGE_HIT(data):
            self._passing = False
            self._keep(data)
            return data
        self._meter.feed(data)
        return self._feed_slowly(data)

    def _feed_slowly(self, data: bytes) -> bytes:
        held = self._held
        held += data
        passed = bytearray()
        start = 0
        for found in BLANK_LINE.finditer(held, self._from):
            end = found.end()
            if end == len(held) and held[-1:] == b"\r":
                break  # the line feed of this line end may be still to come
            event = bytes(held[start:end])
            if self._passing or not is_usage_only(event):
                passed += event
            self._passing = False
            start = end
        del held[:start]
        self._from = max(0, len(held) - 3)
        if len(held) > EVENT_BYTES:
            self._passing = True
            passed += held[: self._from]
            del held[: self._from]
            self._from = 0
        return bytes(passed)

    def flush(self) -> bytes:
        """What is still held, at the end of the answer."""
        event = bytes(self._held)
        self._held.clear()
        self._from = 0
        whole = event.rstrip(b"\r\n") != event
        if whole and not self._passing and is_usage_only(event):
            return b""
        return event

"""AWS event streams, whole and in pieces."""

from zlib import crc32

import pytest

from gateway.metering.eventstream import (
    PAYLOAD_BYTES,
    EventStreamError,
    EventStreamReader,
    event_type,
)
from tests.awsevents import encode_message


def messages(reader, data):
    return list(reader.feed(data))


def test_any_split():
    """Messages are complete for any split of the bytes."""
    body = encode_message("a", b"1") + encode_message("b", b"")
    assert messages(EventStreamReader(), body) == [("a", b"1"), ("b", b"")]
    reader = EventStreamReader()
    found = [m for at in range(len(body)) for m in reader.feed(body[at : at + 1])]
    assert found == [("a", b"1"), ("b", b"")]


def test_large_messages_are_skipped():
    """A message too large to buffer is skipped, also in pieces."""
    big = encode_message("big", b"x" * PAYLOAD_BYTES)
    body = big + encode_message("b", b"2")
    assert messages(EventStreamReader(), body) == [("b", b"2")]
    reader = EventStreamReader()
    pieces = [body[at : at + 300_000] for at in range(0, len(body), 300_000)]
    assert [m for piece in pieces for m in reader.feed(piece)] == [("b", b"2")]


def test_broken_framing():
    """A wrong checksum or an impossible length raises an error."""
    with pytest.raises(EventStreamError, match="checksum"):
        messages(EventStreamReader(), b"\0" * 11 + b"\1")
    prelude = (4).to_bytes(4, "big") + bytes(4)
    with pytest.raises(EventStreamError, match="shorter"):
        messages(EventStreamReader(), prelude + crc32(prelude).to_bytes(4, "big"))


def header(name: bytes, kind: int, value: bytes) -> bytes:
    return bytes([len(name)]) + name + bytes([kind]) + value


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        (b"", ""),
        (header(b":event-type", 7, b"\0\1x"), "x"),
        (header(b"flag", 0, b"") + header(b":exception-type", 7, b"\0\1y"), "y"),
        (header(b"n", 4, b"1234") + header(b"b", 6, b"\0\1z"), ""),
        (header(b"odd", 99, b""), ""),
        (b"\x05:ev", ""),
    ],
)
def test_event_types(headers, kind):
    """The event type is found among headers of every type; invalid ones give none."""
    assert event_type(headers) == kind

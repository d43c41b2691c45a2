"""The writing side of AWS event streams, for tests of their reader."""

from __future__ import annotations

from zlib import crc32

_PRELUDE_BYTES = 12
_TRAILER_BYTES = 4


def encode_message(event: str, payload: bytes) -> bytes:
    """Encode one event message."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + len(value).to_bytes(2, "big") + value
        for name, value in (
            (b":message-type", b"event"),
            (b":event-type", event.encode()),
            (b":content-type", b"application/json"),
        )
    )
    total = _PRELUDE_BYTES + len(headers) + len(payload) + _TRAILER_BYTES
    prelude = total.to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + crc32(prelude).to_bytes(4, "big") + headers + payload
    return message + crc32(message).to_bytes(4, "big")

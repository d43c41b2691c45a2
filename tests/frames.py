"""Frames of a WebSocket, as either side writes them."""

from __future__ import annotations

from gateway.metering.frames import TEXT


def frame(
    payload: bytes, opcode: int = TEXT, *, final: bool = True, mask: bytes = b""
) -> bytes:
    """One frame."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(c ^ mask[i % 4] for i, c in enumerate(payload))
    return head + mask + payload

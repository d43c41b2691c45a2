"""The format of learned baselines in files and in the store.

Magic bytes, a header (schema number, length and digest of the state), then the
detector's state compressed by zlib. The state is opaque here. The magic bytes reject
other files before decompression; length and digest reveal truncation and corruption.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Final

SCHEMA: Final = 2
# Schema 1 has fewer fields of templates; those have defaults.
_READABLE: Final = (1, SCHEMA)
MAGIC: Final = b"tidegate-baselines\n"
# The largest detector (every subject kept, a week each) needs less than half of it.
MAX_STATE_BYTES: Final = 1 << 30
# Level 1 takes half the time of the default level and is within 10 % of its size.
_LEVEL: Final = 1
_DIGEST_BYTES: Final = 16
_HEAD: Final = struct.Struct(f">HQ{_DIGEST_BYTES}s")  # schema, length, digest


class BaselinesError(ValueError):
    """Baselines that cannot be used; the message says why."""


def is_packed(content: bytes) -> bool:
    """Whether ``content`` starts with the magic bytes."""
    return content.startswith(MAGIC)


def pack_baselines(state: bytes) -> bytes:
    """Pack a detector's state. Raises BaselinesError when it is too large."""
    if len(state) > MAX_STATE_BYTES:
        raise BaselinesError(
            f"baselines of {len(state)} bytes are larger than the limit of"
            f" {MAX_STATE_BYTES}"
        )
    digest = hashlib.blake2b(state, digest_size=_DIGEST_BYTES).digest()
    head = _HEAD.pack(SCHEMA, len(state), digest)
    return MAGIC + head + zlib.compress(state, _LEVEL)


def unpack_baselines(packed: bytes) -> bytes:
    """The packed state. Raises BaselinesError for bad input, and beyond
    MAX_STATE_BYTES before it is decompressed.
    """
    if not is_packed(packed):
        raise BaselinesError("these are no baselines")
    start = len(MAGIC) + _HEAD.size
    if len(packed) < start:
        raise BaselinesError("the baselines are truncated")
    schema, length, digest = _HEAD.unpack_from(packed, len(MAGIC))
    if schema not in _READABLE:
        raise BaselinesError(
            f"the baselines have schema {schema}, this version reads {SCHEMA}:"
            " learn them again"
        )
    if length > MAX_STATE_BYTES:
        raise BaselinesError("the baselines are larger than any detector's")
    state = _inflate(memoryview(packed)[start:], length)
    if hashlib.blake2b(state, digest_size=_DIGEST_BYTES).digest() != digest:
        raise BaselinesError("the baselines are damaged: wrong checksum")
    return state


def _inflate(content: memoryview, length: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        state = inflater.decompress(content, length + 1)
    except zlib.error as error:
        raise BaselinesError(f"the baselines are damaged: {error}") from None
    if len(state) != length or not inflater.eof:
        raise BaselinesError("the baselines are truncated")
    return state

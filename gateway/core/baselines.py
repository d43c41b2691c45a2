"""How learned baselines travel, in files and in the store: versioned, checked, small.

A detector's state is opaque here. What is packed starts with a magic word, so that a
file of something else is told apart before it is taken apart; lengths and a checksum
find what was cut off or changed on its way.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Final

SCHEMA: Final = 1
MAGIC: Final = b"tidegate-baselines\n"
# The largest detector (every subject remembered, a week each) stays under half of it.
MAX_STATE_BYTES: Final = 1 << 30
# Level 1 halves the work of the default and packs within a tenth of its size.
_LEVEL: Final = 1
_DIGEST_BYTES: Final = 16
_HEAD: Final = struct.Struct(f">HQ{_DIGEST_BYTES}s")  # schema, length, digest


class BaselinesError(ValueError):
    """These are no baselines that can be used; the text says why."""


def is_packed(content: bytes) -> bool:
    """Whether it claims to be packed baselines."""
    return content.startswith(MAGIC)


def pack_baselines(state: bytes) -> bytes:
    """A detector's state, ready to be kept. Raises BaselinesError when too large."""
    if len(state) > MAX_STATE_BYTES:
        raise BaselinesError(
            f"baselines of {len(state)} bytes are larger than the limit of"
            f" {MAX_STATE_BYTES}"
        )
    digest = hashlib.blake2b(state, digest_size=_DIGEST_BYTES).digest()
    head = _HEAD.pack(SCHEMA, len(state), digest)
    return MAGIC + head + zlib.compress(state, _LEVEL)


def unpack_baselines(packed: bytes) -> bytes:
    """The state that was packed, never more than MAX_STATE_BYTES of it.

    Raises BaselinesError.
    """
    if not is_packed(packed):
        raise BaselinesError("these are no baselines")
    start = len(MAGIC) + _HEAD.size
    if len(packed) < start:
        raise BaselinesError("the baselines are cut off")
    schema, length, digest = _HEAD.unpack_from(packed, len(MAGIC))
    if schema != SCHEMA:
        raise BaselinesError(
            f"the baselines have schema {schema}, this version reads {SCHEMA}:"
            " learn them again"
        )
    if length > MAX_STATE_BYTES:
        raise BaselinesError("the baselines are larger than any detector's")
    state = _inflate(memoryview(packed)[start:], length)
    if hashlib.blake2b(state, digest_size=_DIGEST_BYTES).digest() != digest:
        raise BaselinesError("the baselines were changed on their way")
    return state


def _inflate(content: memoryview, length: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        state = inflater.decompress(content, length + 1)
    except zlib.error as error:
        raise BaselinesError(f"the baselines are damaged: {error}") from None
    if len(state) != length or not inflater.eof:
        raise BaselinesError("the baselines are cut off")
    return state

"""Learned baselines in the store, read by every gateway at its start.

``<prefix>1:{detect}:baselines`` is a manifest: the current generation and its parts.
The generation is stored in parts of at most 1 MiB, so that no single call blocks the
store for long. A new generation is written beside the old one and the manifest switches
to it atomically; the old one expires after a minute, for readers in progress. The hash
tag keeps all keys on one node of a cluster.

The client is redis-py's (asyncio). Both functions raise RedisError and OSError if the
store is unavailable.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from gateway.detect.packed_baselines import (
    SCHEMA,
    BaselinesError,
    pack_baselines,
    unpack_baselines,
)

PART_BYTES: Final = 1 << 20
# Packed size; a detector with full tables has about 30 MiB.
MAX_PACKED_BYTES: Final = 128 << 20
# Expiry of parts while they are written, so that a writer's crash leaves none, and of
# replaced parts.
_WRITING_S: Final = 600
_READING_S: Final = 60


class Manifest(msgspec.Struct, frozen=True):
    """The current generation. ``saved_at``: epoch seconds, by the writer's clock."""

    schema: int
    generation: str
    parts: int
    size_bytes: int
    saved_at: float


_encode = msgspec.msgpack.encode
_decode_manifest = msgspec.msgpack.Decoder(Manifest).decode


def baselines_key(prefix: str) -> str:
    """Key of the manifest; ``prefix`` as configured."""
    return f"{prefix}1:{{detect}}:baselines"


async def save_baselines(
    client: Redis, prefix: str, state: bytes, saved_at: float
) -> int:
    """Replace the stored state by ``state``; return its packed size in bytes.

    Raises BaselinesError if it is too large; nothing has changed then.
    """
    packed = await asyncio.to_thread(pack_baselines, state)
    if len(packed) > MAX_PACKED_BYTES:
        raise BaselinesError(
            f"packed baselines of {len(packed)} bytes are larger than the limit of"
            f" {MAX_PACKED_BYTES}"
        )
    asked: Any = client  # redis-py's annotations are too loose
    key = baselines_key(prefix)
    parts = range(0, len(packed), PART_BYTES)
    manifest = Manifest(
        schema=SCHEMA,
        generation=secrets.token_hex(8),
        parts=len(parts),
        size_bytes=len(packed),
        saved_at=saved_at,
    )
    names = _part_keys(key, manifest)
    for name, start in zip(names, parts, strict=True):
        await asked.set(name, packed[start : start + PART_BYTES], ex=_WRITING_S)
    await _swap(asked, key, manifest)
    return len(packed)


async def _swap(client: Any, key: str, manifest: Manifest) -> None:
    """Switch to the next generation, in one transaction."""
    old = _read_manifest(await client.get(key))
    turn = client.pipeline(transaction=True)
    for name in _part_keys(key, manifest):
        turn.persist(name)
    turn.set(key, _encode(manifest))
    for name in _part_keys(key, old) if old is not None else ():
        turn.expire(name, _READING_S)
    await turn.execute()


async def load_baselines(client: Redis, prefix: str) -> bytes | None:
    """The stored detector state; None if there is none.

    Raises BaselinesError if it cannot be used.
    """
    asked: Any = client
    key = baselines_key(prefix)
    # A second time if another gateway replaced the generation while it was read.
    for _ in range(2):
        encoded = await asked.get(key)
        if encoded is None:
            return None
        manifest = _read_manifest(encoded)
        if manifest is None:
            raise BaselinesError("the store's baselines are of another version")
        packed = await _read_parts(asked, key, manifest)
        if len(packed) == manifest.size_bytes:
            return await asyncio.to_thread(unpack_baselines, packed)
    raise BaselinesError("parts of the store's baselines are missing")


async def _read_parts(client: Any, key: str, manifest: Manifest) -> bytes:
    """The joined parts of a generation; b"" if it claims more than the limit."""
    if manifest.size_bytes > MAX_PACKED_BYTES:
        return b""
    found = [await client.get(name) or b"" for name in _part_keys(key, manifest)]
    return b"".join(found)


def _part_keys(key: str, manifest: Manifest) -> list[str]:
    return [f"{key}:{manifest.generation}:{n}" for n in range(manifest.parts)]


def _read_manifest(encoded: bytes | None) -> Manifest | None:
    """The manifest; None if absent or of another version."""
    try:
        found = _decode_manifest(encoded or b"")
    except msgspec.DecodeError:
        return None
    most = -(-MAX_PACKED_BYTES // PART_BYTES)
    return found if found.schema == SCHEMA and 0 < found.parts <= most else None

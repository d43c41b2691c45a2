"""Counters shared by every worker and machine, and what stands in while they are away.

``redis`` is the store, ``lua/gate.lua`` its arithmetic, ``memory`` the same within one
process, ``embedded`` the engine that ships along.
"""

from __future__ import annotations

import asyncio

from gateway.core.ports import Store
from gateway.store.channel import StoreUnavailable
from gateway.store.embedded import (
    EmbeddedEngine,
    EngineBusy,
    EngineFailed,
    EngineMissing,
)
from gateway.store.fallback import WhenDown
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.store.url import StoreUrl, StoreUrlError, check_eviction, parse_store_url

__all__ = [
    "EmbeddedEngine",
    "EngineBusy",
    "EngineFailed",
    "EngineMissing",
    "MemoryStore",
    "RedisStore",
    "StoreUnavailable",
    "StoreUrl",
    "StoreUrlError",
    "check_eviction",
    "open_store",
    "parse_store_url",
]


def open_store(
    url: str,
    *,
    prefix: bytes = b"tidegate:",
    when_down: WhenDown = "local",
    timeout_s: float = 0.05,
    replicas: int = 1,
    runtime_dir: str | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Store:
    """The store of an address, not yet started; raises StoreUrlError.

    For ``embedded:`` it connects to the engine that the supervisor runs
    (``runtime_dir`` as given to EmbeddedEngine).
    """
    address = parse_store_url(url)
    if address.kind == "memory":
        running = loop or asyncio.get_running_loop()
        return MemoryStore(monotonic=running.time)
    if address.kind == "embedded":
        engine = EmbeddedEngine(address.path, runtime_dir)
        address = StoreUrl(kind="unix", path=engine.socket_path)
    return RedisStore(
        address,
        prefix=prefix,
        when_down=when_down,
        timeout_s=timeout_s,
        loop=loop,
        replicas=replicas,
    )

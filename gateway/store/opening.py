"""From an address to a store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.limits.plans import DEFAULT_PREFIX
from gateway.store.embedded import EmbeddedEngine
from gateway.store.fallback import WhenDown
from gateway.store.memory import MemoryStore
from gateway.store.redis import DEFAULT_TIMEOUT_S, RedisStore
from gateway.store.url import StoreUrl, parse_store_url

if TYPE_CHECKING:
    from gateway.limits.ports import Store


def open_store(
    url: str,
    *,
    prefix: bytes = DEFAULT_PREFIX,
    when_down: WhenDown = "local",
    timeout_s: float = DEFAULT_TIMEOUT_S,
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

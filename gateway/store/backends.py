"""The kinds of store: in memory, the embedded engine, and a Redis or Valkey server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from gateway.store.backend import LimiterOptions, StoreBackend
from gateway.store.embedded import EmbeddedEngine
from gateway.store.url import (
    RedisAddress,
    StoreLogin,
    StoreUrlError,
    complete_redis_url,
    parse_redis_url,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.limits.ports import Store


class MemoryBackend(StoreBackend):
    """``memory:``: counters of one process, lost at its end."""

    schemes: ClassVar[tuple[str, ...]] = ("memory",)
    forms = "memory:"
    is_shared = False
    is_persistent = False

    def __init__(self, url: str) -> None:
        if url.partition(":")[2] not in ("", "//"):
            msg = f"write memory: and nothing behind it, not {url!r}"
            raise StoreUrlError(msg)

    def open_limiter(
        self, options: LimiterOptions, loop: asyncio.AbstractEventLoop | None = None
    ) -> Store:
        from gateway.store.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore(monotonic=(loop or asyncio.get_running_loop()).time)

    def open_client(self) -> Redis | None:
        return None


class RedisBackend(StoreBackend):
    """A Redis or Valkey server, directly, by Unix socket or through Sentinel."""

    schemes: ClassVar[tuple[str, ...]] = (
        "redis", "rediss", "valkey", "valkeys", "unix",
        "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
    )  # fmt: skip
    forms = "redis://, rediss://, unix://, redis+sentinel://"

    def __init__(self, url: str) -> None:
        self.address: RedisAddress = parse_redis_url(url)

    @classmethod
    def complete(cls, url: str, login: StoreLogin) -> str:
        return complete_redis_url(url, login)

    def open_limiter(
        self, options: LimiterOptions, loop: asyncio.AbstractEventLoop | None = None
    ) -> Store:
        from gateway.store.redis import RedisStore  # noqa: PLC0415

        return RedisStore(
            self.address,
            prefix=options.prefix,
            when_down=options.when_down,
            timeout_s=options.timeout_s,
            loop=loop,
            replicas=options.replicas,
        )

    def open_client(self) -> Redis | None:
        from gateway.store.client import open_redis  # noqa: PLC0415

        return open_redis(self.address)


class EmbeddedBackend(RedisBackend):
    """``embedded:DIR``: the engine that the gateway itself runs on a data directory."""

    schemes: ClassVar[tuple[str, ...]] = ("embedded",)
    forms = "embedded:DIR"

    def __init__(self, url: str) -> None:
        self._directory = self.directory_in(url)
        if not self._directory:
            msg = "embedded: needs a directory, for example embedded:./data"
            raise StoreUrlError(msg)
        self.address = RedisAddress("unix", path=self.engine("").socket_path)

    @classmethod
    def directory_in(cls, url: str) -> str:
        rest = url.partition(":")[2]
        return rest.removeprefix("//") if rest.startswith("///") else rest

    @classmethod
    def complete(cls, url: str, login: StoreLogin) -> str:  # noqa: ARG003 - the engine has no login
        return url

    def engine(self, runtime_dir: str) -> EmbeddedEngine:
        return EmbeddedEngine(self._directory, runtime_dir)

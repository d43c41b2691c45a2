"""How many workers share the store: each of them limits for its share without it.

Every control notes its gateway in one sorted set, by the store's clock, and counts who
is there. While the store is away the last count stands.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from gateway.serve.link import Message

BEAT_S = 5.0
# Three beats missed: that gateway is gone.
GONE_S = 15.0
KEY_TTL_S = 3600


class Replicas:
    """Counts workers of all gateways on one store; tells when the count changes."""

    def __init__(
        self,
        redis: Redis,
        prefix: str,
        me: str,
        workers: int,
        tell: Callable[[Message], None],
    ) -> None:
        self._redis = redis
        self._key = f"{prefix}1:gateways"
        self._me = f"{me}:{workers}"
        self._tell = tell
        self.count = workers

    def message(self) -> Message:
        """For the workers."""
        return {"type": "replicas", "count": self.count}

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            # The breaker of each worker tells of a store that is away.
            with suppress(RedisError, OSError):
                await self._beat()
            await asyncio.sleep(BEAT_S)

    async def leave(self) -> None:
        """This gateway ends: the others' shares grow at once. Raises RedisError."""
        await self._redis.zrem(self._key, self._me)

    async def _beat(self) -> None:
        seconds, _ = await self._redis.time()
        redis: Any = self._redis
        await redis.zadd(self._key, {self._me: seconds})
        await redis.zremrangebyscore(self._key, "-inf", seconds - GONE_S)
        await redis.expire(self._key, KEY_TTL_S)
        members = await redis.zrange(self._key, 0, -1)
        count = sum(map(_workers_of, members))
        if count and count != self.count:
            self.count = count
            self._tell(self.message())


def _workers_of(member: bytes | str) -> int:
    text = member.decode() if isinstance(member, bytes) else member
    count = text.rpartition(":")[2]
    return int(count) if count.isdecimal() else 0

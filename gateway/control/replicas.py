"""Count the workers that share the store; each takes its share of limits when it is down.

Every control process adds its gateway to one sorted set, scored by the store's clock,
and sums the workers of its members. While the store is down the last count is kept.
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

# Interval of heartbeats, seconds.
BEAT_S = 5.0
# A gateway without a heartbeat for this long (three of them) is removed, seconds.
GONE_S = 15.0
KEY_TTL_S = 3600


class Replicas:
    """Count of the workers of all gateways on one store. ``on_change`` gets the message
    for this gateway's workers when it changes.
    """

    def __init__(
        self,
        redis: Redis,
        prefix: str,
        gateway: str,
        workers: int,
        on_change: Callable[[Message], None],
    ) -> None:
        self._redis = redis
        self._key = f"{prefix}1:gateways"
        self._member = f"{gateway}:{workers}"
        self._on_change = on_change
        self.count = workers

    def message(self) -> Message:
        """The count as a message to workers."""
        return {"type": "replicas", "count": self.count}

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            # Each worker's circuit breaker reports a store that is down.
            with suppress(RedisError, OSError):
                await self._beat()
            await asyncio.sleep(BEAT_S)

    async def leave(self) -> None:
        """Remove this gateway, so that other shares grow at once. Raises RedisError."""
        await self._redis.zrem(self._key, self._member)

    async def _beat(self) -> None:
        seconds, _ = await self._redis.time()
        redis: Any = self._redis
        await redis.zadd(self._key, {self._member: seconds})
        await redis.zremrangebyscore(self._key, "-inf", seconds - GONE_S)
        await redis.expire(self._key, KEY_TTL_S)
        members = await redis.zrange(self._key, 0, -1)
        count = sum(map(_workers_of, members))
        if count and count != self.count:
            self.count = count
            self._on_change(self.message())


def _workers_of(member: bytes | str) -> int:
    text = member.decode() if isinstance(member, bytes) else member
    count = text.rpartition(":")[2]
    return int(count) if count.isdecimal() else 0

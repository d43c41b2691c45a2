"""Load and save the cost of the last 30 days: in the store, else in a file.

``<prefix>1:{spend}:<day>`` is a hash of gateway -> day (see ``gateway.admin.spend``).
Each gateway rewrites its own field every few seconds while it changes and reads those of
the others, so the console shows the sum over all gateways. A day's hash expires after a
month.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from gateway.admin.spend import DAY_S, DAYS, GatewayDay, SpendHistory
from gateway.serve.runtime import write_private

if TYPE_CHECKING:
    from redis.asyncio import Redis

# Interval of saving and of reading other gateways, seconds.
KEEP_S = 5.0
# Limit of one access to the store, seconds.
LOAD_S = 3.0
# Life of a day's hash, seconds.
_KEPT_S = (DAYS + 1) * DAY_S
# Days that other gateways may still change: today, and yesterday around midnight.
_LIVE_DAYS = 2

_encode = msgspec.msgpack.encode
_decode_page = msgspec.msgpack.Decoder(GatewayDay).decode
_decode_pages = msgspec.msgpack.Decoder(dict[int, GatewayDay]).decode


class Spending:
    """Persistence of ``spend``. ``gateway``: name of this gateway, stable over restarts;
    ``client`` None: no store.
    """

    def __init__(  # noqa: PLR0917 - one caller
        self,
        spend: SpendHistory,
        client: Redis | None,
        prefix: str,
        runtime_dir: str,
        gateway: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history = spend
        self._client: Any = client
        self._prefix = prefix
        # Next to the runtime directory, which is removed at a regular end.
        self._path = f"{runtime_dir}.spend"
        self._gateway = gateway.encode()
        self._clock = clock
        self._loaded = False

    async def load(self) -> None:
        """Load the saved days. Raises RedisError, OSError, TimeoutError."""
        if self._loaded:
            return
        async with asyncio.timeout(LOAD_S):
            own = await self._read()
        self._loaded = True
        self._history.restore(own)

    async def _read(self) -> dict[int, GatewayDay]:
        today = int(self._clock()) // DAY_S
        if self._client is not None:
            return await self._fetch(range(today - DAYS + 1, today + 1))
        return _read_file(self._path)

    async def _fetch(self, days: range) -> dict[int, GatewayDay]:
        """This gateway's own days; days of other gateways go to the history."""
        turn = self._client.pipeline(transaction=False)
        for day in days:
            turn.hgetall(self._key(day))
        own, others = {}, {}
        for day, found in zip(days, await turn.execute(), strict=True):
            mine = _decode_day(found.pop(self._gateway, b""))
            if mine is not None:
                own[day] = mine
            read = map(_decode_day, found.values())
            others[day] = [one for one in read if one is not None]
        self._history.set_others(others)
        return own

    def _key(self, day: int) -> str:
        return f"{self._prefix}1:{{spend}}:{day}"

    async def save(self) -> None:
        """Write changed days. Loads first, so that saved days are never overwritten
        unread. Raises RedisError, OSError, TimeoutError.
        """
        await self.load()
        days = sorted(self._history.changed)
        if not days:
            return
        self._history.changed.clear()
        try:
            await self._write(days)
        except BaseException:
            self._history.changed.update(days)
            raise

    async def _write(self, days: list[int]) -> None:
        own_days = {day: page for day in days if (page := self._history.own_day(day))}
        if self._client is None:
            write_private(self._path, _encode(self._history.own_days()))
            return
        turn = self._client.pipeline(transaction=True)
        for day, page in own_days.items():
            turn.hset(self._key(day), self._gateway, _encode(page))
            turn.expire(self._key(day), _KEPT_S)
        async with asyncio.timeout(LOAD_S):
            await turn.execute()

    async def follow(self) -> None:
        """Read the days of other gateways. Raises the errors of ``save``."""
        if self._client is None:
            return
        today = int(self._clock()) // DAY_S
        async with asyncio.timeout(LOAD_S):
            await self._fetch(range(today - _LIVE_DAYS + 1, today + 1))

    async def run(self) -> None:
        """Save and read until cancelled; errors of the store are retried, nothing is lost."""
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                await self.save()
                await self.follow()
            await asyncio.sleep(KEEP_S)


def _decode_day(body: bytes) -> GatewayDay | None:
    """Decode one day; None if it is missing or from a newer version."""
    try:
        return _decode_page(body)
    except msgspec.DecodeError:
        return None


def _read_file(path: str) -> dict[int, GatewayDay]:
    with suppress(FileNotFoundError, msgspec.DecodeError), open(path, "rb") as file:
        return _decode_pages(file.read())
    return {}

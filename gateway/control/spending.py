"""Money of the last 30 days, over restarts: in the store, else in a file.

``<prefix>1:{spend}:<day>`` is a hash of gateway -> page (see ``gateway.admin.spend``).
Each gateway writes its own page whole, every few seconds while it changes, and reads
those of the others: what is shown is of all gateways of the store. A day's hash goes by
itself when it is older than a month.
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

KEEP_S = 5.0
LOAD_S = 3.0
_KEPT_S = (DAYS + 1) * DAY_S
# The days that other gateways still change: today's, and the last of it at midnight.
_LIVE_DAYS = 2

_encode = msgspec.msgpack.encode
_decode_page = msgspec.msgpack.Decoder(GatewayDay).decode
_decode_pages = msgspec.msgpack.Decoder(dict[int, GatewayDay]).decode


class Spending:
    """Keeps what ``history`` counts; ``me`` names this gateway over its restarts,
    ``client`` None: no store.
    """

    def __init__(  # noqa: PLR0917 - one caller
        self,
        spend: SpendHistory,
        client: Redis | None,
        prefix: str,
        runtime_dir: str,
        me: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history = spend
        self._client: Any = client
        self._prefix = prefix
        # Beside the runtime directory, which a clean end removes.
        self._path = f"{runtime_dir}.spend"
        self._me = me.encode()
        self._clock = clock
        self._loaded = False

    async def load(self) -> None:
        """Take up what was counted before. Raises RedisError, OSError, TimeoutError."""
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
        """This gateway's own pages; the others' go to the history."""
        turn = self._client.pipeline(transaction=False)
        for day in days:
            turn.hgetall(self._key(day))
        own, others = {}, {}
        for day, found in zip(days, await turn.execute(), strict=True):
            mine = _page(found.pop(self._me, b""))
            if mine is not None:
                own[day] = mine
            read = map(_page, found.values())
            others[day] = [one for one in read if one is not None]
        self._history.set_others(others)
        return own

    def _key(self, day: int) -> str:
        return f"{self._prefix}1:{{spend}}:{day}"

    async def save(self) -> None:
        """Write what has changed. Raises RedisError, OSError, TimeoutError; nothing is
        written over what was not read yet.
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
            turn.hset(self._key(day), self._me, _encode(page))
            turn.expire(self._key(day), _KEPT_S)
        async with asyncio.timeout(LOAD_S):
            await turn.execute()

    async def follow(self) -> None:
        """What the other gateways count. Raises as ``save``."""
        if self._client is None:
            return
        today = int(self._clock()) // DAY_S
        async with asyncio.timeout(LOAD_S):
            await self._fetch(range(today - _LIVE_DAYS + 1, today + 1))

    async def run(self) -> None:
        """Until cancelled. A store that is away is asked again: nothing is lost."""
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                await self.save()
                await self.follow()
            await asyncio.sleep(KEEP_S)


def _page(body: bytes) -> GatewayDay | None:
    """None where there is none that this version understands."""
    try:
        return _decode_page(body)
    except msgspec.DecodeError:
        return None


def _read_file(path: str) -> dict[int, GatewayDay]:
    with suppress(FileNotFoundError, msgspec.DecodeError), open(path, "rb") as file:
        return _decode_pages(file.read())
    return {}

"""What detection has learned, over restarts: in the store, else in the runtime directory.

Saved every few minutes and at the end. All gateways of a store share one memory: each
sees its part of the same traffic, and the last one to save stands for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from gateway.control.detection import Detection
from gateway.detect.packed_baselines import (
    BaselinesError,
    pack_baselines,
    unpack_baselines,
)
from gateway.serve.runtime import write_private
from gateway.store.baselines import load_baselines, save_baselines

if TYPE_CHECKING:
    from redis.asyncio import Redis

SAVE_S = 300.0
# A young gateway has more to lose.
FIRST_SAVES_S = 30.0
# The start does not wait longer for a store that is away.
LOAD_S = 3.0
SAVING_S = 10.0


class BaselinePersistence:
    """Loads and saves the state of ``Detection``; ``client`` None: no store."""

    def __init__(
        self,
        detecting: Detection,
        client: Redis | None,
        prefix: str,
        runtime_dir: str,
    ) -> None:
        self._detecting = detecting
        self._client = client
        self._prefix = prefix
        self._path = f"{runtime_dir}/baselines"
        self._saved = 0

    async def load(self) -> bool:
        """Take up what there is; False: nothing. Raises BaselinesError, RedisError,
        OSError, TimeoutError.
        """
        async with asyncio.timeout(LOAD_S):
            state = await self._read()
        if state is None:
            return False
        self._detecting.load(state)
        self._saved = self._detecting.learned
        return True

    async def _read(self) -> bytes | None:
        if self._client is not None:
            return await load_baselines(self._client, self._prefix)
        packed = await asyncio.to_thread(_read_file, self._path)
        return None if packed is None else unpack_baselines(packed)

    async def save(self) -> None:
        """Write what was learned since; raises as ``load``."""
        if self._detecting.learned == self._saved:
            return
        learned, state = self._detecting.learned, self._detecting.state()
        if state is None:
            return
        async with asyncio.timeout(SAVING_S):
            if self._client is None:
                packed = await asyncio.to_thread(pack_baselines, state)
                write_private(self._path, packed)
            else:
                await save_baselines(self._client, self._prefix, state, time.time())
        self._saved = learned

    async def run(self, on_state: Callable[[str], None]) -> None:
        """Save now and then; ``on_state`` hears "" (again well) or what is wrong."""
        problem = ""
        wait_s = FIRST_SAVES_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(SAVE_S, wait_s * 2)
            try:
                await self.save()
                now = ""
            except (BaselinesError, RedisError, OSError, TimeoutError) as error:
                now = str(error) or type(error).__name__
            if now != problem:
                problem = now
                on_state(problem)


def _read_file(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None

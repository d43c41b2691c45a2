"""Load and save the learned state of detection: in the store, else in a file.

Saved every few minutes and at the end of the process. All gateways of a store share one
saved state: each sees a part of the same traffic, and the last to save overwrites.
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

# Interval of saving, seconds.
SAVE_S = 300.0
# First interval after the start, when the state changes fastest; doubles up to SAVE_S.
FIRST_SAVES_S = 30.0
# Longest wait for the store at the start, seconds.
LOAD_S = 3.0
# Limit of one save, seconds.
SAVING_S = 10.0


class BaselinePersistence:
    """Load and save the state of ``Detection``. ``client`` None: in ``runtime_dir``."""

    def __init__(
        self,
        detection: Detection,
        client: Redis | None,
        prefix: str,
        runtime_dir: str,
    ) -> None:
        self._detection = detection
        self._client = client
        self._prefix = prefix
        self._path = f"{runtime_dir}/baselines"
        self._saved = 0

    async def load(self) -> bool:
        """Load the saved state; False if there is none. Raises BaselinesError,
        RedisError, OSError, TimeoutError.
        """
        async with asyncio.timeout(LOAD_S):
            state = await self._read()
        if state is None:
            return False
        self._detection.load(state)
        self._saved = self._detection.learned
        return True

    async def _read(self) -> bytes | None:
        if self._client is not None:
            return await load_baselines(self._client, self._prefix)
        packed = await asyncio.to_thread(_read_file, self._path)
        return None if packed is None else unpack_baselines(packed)

    async def save(self) -> None:
        """Save the state if it has changed. Raises the errors of ``load``."""
        if self._detection.learned == self._saved:
            return
        learned, state = self._detection.learned, self._detection.state()
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
        """Save periodically. Calls ``on_state`` with an error text, and "" on recovery."""
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

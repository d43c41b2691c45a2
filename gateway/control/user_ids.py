"""User ids are the same in all workers and gateways: all hold the store's secret.

It is read before workers start, and again every few seconds and when the store is back:
a store that was emptied gets it back, one that was restored with another secret replaces
ours. Workers report which secret they use; one with another gets it again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from gateway.control.baselines import LOAD_S
from gateway.serve.logs import log_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis
    from structlog.typing import FilteringBoundLogger

    from gateway.serve.link import Message
    from gateway.serve.secret import SecretKeeper

# Interval of reads until the first success, seconds.
RETRY_S = 1.0
# Interval of later reads, seconds: one GET each. For so long two gateways may differ
# after their store was replaced by another one.
CHECK_S = 5.0


class UserIds:
    """The secret of user ids, from the store to this gateway's workers."""

    def __init__(
        self,
        keeper: SecretKeeper,
        redis: Redis | None,
        send: Callable[[Message], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._keeper = keeper
        self._redis = redis
        self._send = send
        self._log = log
        self._wake = asyncio.Event()
        self._problem = ""
        # Workers that reported another secret, by index.
        self._others: dict[int, str] = {}

    @property
    def _shared(self) -> bool:
        return self._redis is None or self._keeper.shared

    @property
    def agree(self) -> bool:
        """Whether all workers use the secret that all gateways of the store use."""
        return self._shared and not self._others

    def message(self) -> Message:
        """The secret for a worker. One that is not ``shared`` (the store has not been
        reached) does not replace the secret that a worker already uses.
        """
        self._keeper.used = True
        return {"type": "secret", "value": self._keeper.value, "shared": self._shared}

    def public(self) -> dict[str, Any]:
        """For the status page: to compare gateways, and whether ids may still change."""
        return {
            "secret_id": self._keeper.id,
            "shared": self._shared,
            "workers_differ": sorted(self._others),
        }

    def take_stats(self, index: int, secret_id: str) -> None:
        """Which secret a worker uses."""
        if not secret_id or secret_id == self._keeper.id:
            self._others.pop(index, None)
        elif self._others.get(index) != secret_id:
            self._others[index] = secret_id
            self._wake.set()

    def check_soon(self) -> None:
        """Read the secret now: the store was away and may be another one."""
        self._wake.set()

    async def load(self) -> None:
        """Read the secret before workers start, if the store answers in time."""
        if self._redis is None:
            self._keeper.keep_copy()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LOAD_S):
                await self._fetch(self._redis)
        if not self._keeper.shared:
            # Kept, so that a restarted control process does not make another one.
            self._keeper.keep_copy()
            why = (
                "the store has not been reached; ids change when it has another secret"
            )
            self._log.warning("user_ids_not_shared", why=why)

    async def run(self) -> None:
        """Read it again until cancelled."""
        redis = self._redis
        if redis is None:
            return
        while True:
            if await self._fetch(redis) or self._others:
                self._send(self.message())
            self._wake.clear()
            wait_s = CHECK_S if self._keeper.shared else RETRY_S
            # No sooner: a worker that cannot take it would keep this loop busy.
            await asyncio.sleep(RETRY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s - RETRY_S)

    async def _fetch(self, redis: Redis) -> bool:
        """Whether workers must be told: the secret changed, or is the store's now."""
        keeper = self._keeper
        before, used, was_shared = keeper.id, keeper.used, keeper.shared
        try:
            changed = await keeper.fetch(redis)
        except (RedisError, OSError) as error:
            self._note(str(error) or type(error).__name__)
            return False
        self._note("")
        if changed and used:
            self._log.warning("user_ids_changed", before=before, now=keeper.id)
        return changed or not was_shared

    def _note(self, problem: str) -> None:
        if bool(problem) != bool(self._problem):
            log_state(
                self._log, problem, failing="secret_not_read", working="secret_read"
            )
        self._problem = problem

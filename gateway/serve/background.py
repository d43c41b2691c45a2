"""Background tasks of a process: referenced, and their failures reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

# Interval at which ``close`` repeats the cancellation, seconds.
CANCEL_AGAIN_S = 0.1


class Background:
    """Keeps a reference to every task and reports each that ends with an exception."""

    def __init__(self, on_failure: Callable[[str, BaseException], None]) -> None:
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> Callable[[], object]:
        """Run ``work`` until it ends or ``close``; returns a function that cancels it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task.cancel

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._on_failure(task.get_name(), error)

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended.

        Repeats the cancellation: before Python 3.12, ``asyncio.wait_for`` (in
        libraries) loses one that arrives in the same loop iteration as its result.
        """
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN_S)

"""Watch a file for changes: inotify, and polling as well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

# Changes within this time count as one: editors write in steps.
SETTLE_MS = 200
# Poll as well: inotify misses replaced directories and network file systems.
POLL_S = 5.0


async def changes(
    path: str, on_state: Callable[[str], None] = lambda _problem: None
) -> AsyncIterator[None]:
    """Yield when ``path`` may have changed, and every POLL_S. Watches its directory,
    because editors replace files and orchestrators replace symbolic links. ``on_state``
    is called with the reason when watching fails: no watches left, or no directory.
    """
    from watchfiles import awatch  # noqa: PLC0415 - not needed without a file

    problem = ""
    while True:
        try:
            async for _ in awatch(
                os.path.dirname(path),
                step=SETTLE_MS,
                rust_timeout=round(POLL_S * 1000),
                yield_on_timeout=True,
                recursive=False,
            ):
                yield
        except (OSError, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            if reason != problem:
                on_state(reason)
            problem = reason
        await asyncio.sleep(POLL_S)
        yield

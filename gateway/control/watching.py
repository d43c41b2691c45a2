"""Moments at which a file may have changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

# Changes within this time are one change (editors write in steps).
SETTLE_MS = 200
# Nobody may tell: a directory that was made anew is another, some file systems are mute.
POLL_S = 5.0


async def changes(
    path: str, on_state: Callable[[str], None] = lambda _problem: None
) -> AsyncIterator[None]:
    """For ever, and every POLL_S. Its directory is watched: editors replace files, and
    orchestrators exchange links. ``on_state`` hears why that cannot be: no watches are
    left, or the directory is gone.
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
            said = str(error) or type(error).__name__
            if said != problem:
                on_state(said)
            problem = said
        await asyncio.sleep(POLL_S)
        yield

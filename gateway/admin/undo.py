"""Blocks that operators removed recently, kept for a restore."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from gateway.core.model import Block

# 15 minutes, as the API documents.
KEPT_S = 900.0
MAX_BLOCKS = 50_000
Name = tuple[str, str]  # ("incident", id), or kind and id of one subject


class UndoLog:
    """Removed blocks by the operation that removed them; evicts the oldest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: OrderedDict[Name, tuple[float, tuple[Block, ...]]] = (
            OrderedDict()
        )
        self._count = 0

    def remember(self, name: Name, blocks: Sequence[Block]) -> None:
        """Keep blocks that were removed now."""
        if not blocks:
            return
        self._forget(name)
        self._entries[name] = (self._clock(), tuple(blocks))
        self._count += len(blocks)
        while self._count > MAX_BLOCKS and len(self._entries) > 1:
            self._forget(next(iter(self._entries)))

    def pop(self, name: Name) -> list[Block]:
        """Take the blocks to restore, without expired ones."""
        now = self._clock()
        at, blocks = self._forget(name)
        if now - at > KEPT_S:
            return []
        return [
            msgspec.structs.replace(block, created_at=now)
            for block in blocks
            if block.until is None or block.until > now
        ]

    def _forget(self, name: Name) -> tuple[float, tuple[Block, ...]]:
        found = self._entries.pop(name, (0.0, ()))
        self._count -= len(found[1])
        return found

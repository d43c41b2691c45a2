"""What was spent while the store was away, kept until it can be charged."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gateway.core.model import SUB_BUCKETS, CellKind
from gateway.limits.ports import Cell, Plan, Reserved
from gateway.store import wire

# A worker that was idle for longer may simply have outlived its record in the store
# (which lasts a day): that is not a loss.
_LAPSE_S = 3600.0
# Beyond this many sums (about 300 bytes each) they are added up per counter alone.
FOLD_AT = 100_000


class Journal:
    """Settled costs by counter and bucket: bounded, and no token is ever lost.

    ``noted`` is the number of exchanges that went in since it was last empty.
    """

    __slots__ = ("_coarse", "_fold_at", "_sums", "noted")

    def __init__(self, fold_at: int = FOLD_AT) -> None:
        self.noted = 0
        self._fold_at = fold_at
        self._coarse = False
        # (key, bucket) -> cell, sum, newest time in it (store microseconds).
        self._sums: dict[tuple[bytes, int], tuple[Cell, int, int]] = {}

    def __len__(self) -> int:
        """How many sums wait."""
        return len(self._sums)

    def add(self, plan: Plan, actual: Sequence[int], at_us: int) -> None:
        """Note what one exchange really cost, and when it was admitted."""
        self.noted += 1
        keys: set[bytes] = set()
        for cell, cost in zip(plan.cells, actual, strict=True):
            if cost and cell.kind is not CellKind.CONCURRENT and cell.key not in keys:
                keys.add(cell.key)
                self._put(cell, cost, at_us)
        if len(self._sums) > self._fold_at and not self._coarse:
            self._fold()

    def _put(self, cell: Cell, cost: int, at_us: int) -> None:
        width_us = max(1, cell.window_us // SUB_BUCKETS)
        fine = cell.kind is CellKind.SLIDING and not self._coarse
        place = cell.key, at_us // width_us if fine else 0
        _, before, newest_us = self._sums.get(place, (cell, 0, 0))
        self._sums[place] = (cell, before + cost, max(newest_us, at_us))

    def _fold(self) -> None:
        sums, self._sums, self._coarse = self._sums, {}, True
        for cell, cost, at_us in sums.values():
            self._put(cell, cost, at_us)

    def take(self, most: int) -> list[wire.Op]:
        """Remove up to ``most`` sums, as operations that charge them."""
        ops: list[wire.Op] = []
        while self._sums and len(ops) < most:
            _, (cell, cost, at_us) = self._sums.popitem()
            reserved = Reserved(Plan((cell,)), (cost,))
            reserved.at_us = at_us
            ops.append((wire.CHARGE, reserved, None))
        if not self._sums:
            self.noted = 0
            self._coarse = False
        return ops


class Recents:
    """The calls of the last seconds, packed as they were sent.

    A store that was killed or failed over may forget what it had answered: its log is
    written behind, its replicas follow behind. The numbers of calls show it, and what
    it forgot is told again. Bytes, because thousands of objects kept for seconds would
    cost the collector more than the calls cost themselves.
    """

    __slots__ = ("_calls", "_keep_s", "_most_bytes", "_size")

    def __init__(self, keep_s: float = 3.0, most_bytes: int = 4 << 20) -> None:
        self._keep_s = keep_s
        self._most_bytes = most_bytes
        self._size = 0
        # Number, loop time, packed call, store time, reserves that were refused.
        self._calls: deque[tuple[int, float, bytes, int, tuple[int, ...]]] = deque()

    def add(
        self, seq: int, at_s: float, packed: bytes, at_us: int, refused: tuple[int, ...]
    ) -> None:
        """Remember an answered call; forget what is old."""
        calls = self._calls
        calls.append((seq, at_s, packed, at_us, refused))
        self._size += len(packed)
        while calls[0][1] < at_s - self._keep_s or self._size > self._most_bytes:
            self._size -= len(calls.popleft()[2])
            if not calls:
                break

    def take_after(self, seq: int, now_s: float) -> list[bytes]:
        """Remove the calls after ``seq``, as they are to be made again."""
        lost: list[bytes] = []
        while self._calls and self._calls[-1][0] > seq:
            _, at_s, packed, at_us, refused = self._calls.pop()
            self._size -= len(packed)
            if at_s > now_s - _LAPSE_S:
                lost.append(wire.tell_again(packed, at_us, refused))
        return [call for call in reversed(lost) if call]

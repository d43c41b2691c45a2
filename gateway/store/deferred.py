"""Charges of an outage, kept until the store can take them."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.model import SUB_BUCKETS, CellKind
from gateway.limits.ports import Cell, Plan, Reserved
from gateway.store import wire

# Beyond this many sums (about 300 bytes each) there is one sum per counter, without
# its buckets.
FOLD_AT = 100_000


class DeferredCharges:
    """Settled costs, summed by counter and bucket: bounded, without losing a token.

    ``exchanges``: number of exchanges added since it was last empty.
    """

    __slots__ = ("_coarse", "_fold_at", "_sums", "exchanges")

    def __init__(self, fold_at: int = FOLD_AT) -> None:
        self.exchanges = 0
        self._fold_at = fold_at
        self._coarse = False
        # (key, bucket) -> cell, sum, newest time in it (store microseconds).
        self._sums: dict[tuple[bytes, int], tuple[Cell, int, int]] = {}

    def __len__(self) -> int:
        """Number of sums that wait."""
        return len(self._sums)

    def add(self, plan: Plan, actual: Sequence[int], at_us: int) -> None:
        """Add the actual cost of one exchange, admitted at ``at_us``."""
        self.exchanges += 1
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
        """Remove up to ``most`` sums and return them as CHARGE operations."""
        ops: list[wire.Op] = []
        while self._sums and len(ops) < most:
            _, (cell, cost, at_us) = self._sums.popitem()
            reserved = Reserved(Plan((cell,)), (cost,))
            reserved.at_us = at_us
            ops.append((wire.CHARGE, reserved, None))
        if not self._sums:
            self.exchanges = 0
            self._coarse = False
        return ops

"""The in-process limiter: same answers as the store, for this process alone.

It is what ``memory:`` runs on, and what goes on enforcing while the store is away.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gateway.core.model import CellKind
from gateway.limits.ports import Cell, Plan, Reserved
from gateway.limits.windows import LimitWindow, open_window
from gateway.store import wire

# Counters kept at most (an entry is about 1 KB); the least recently used one goes.
CAPACITY = 100_000

# Reserved.state, for whoever holds the reservation.
NEW, HELD, LOCAL, LIMBO, DONE = range(5)


def wall_clock_us() -> Callable[[], int]:
    """Epoch microseconds that never step back, whatever is done to the wall clock."""
    start_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
    return lambda: start_us + time.monotonic_ns() // 1000


class MemoryStore:
    """Exact limits within one process, forgotten when it ends.

    ``clock`` gives epoch microseconds, ``monotonic`` the event loop's seconds.
    ``replicas``: how many such limiters share each limit.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        capacity: int = CAPACITY,
        replicas: int = 1,
    ) -> None:
        self.now_us = clock or wall_clock_us()
        self.replicas = replicas
        self.evicted = 0
        self._monotonic = monotonic
        self._capacity = capacity
        self._windows: OrderedDict[bytes, LimitWindow] = OrderedDict()
        self._leases = 0

    @property
    def up(self) -> bool:
        """Always: there is nothing that could be away."""
        return True

    async def start(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to send."""

    def reserve(
        self, plan: Plan, costs: Sequence[int], done: Callable[[Reserved], None]
    ) -> Reserved:
        """Decide at once; see ``ports.Store``."""
        reserved = Reserved(plan, costs)
        self._leases += 1
        reserved.lease = b"%d" % self._leases
        self.decide(reserved)
        done(reserved)
        return reserved

    def decide(self, reserved: Reserved) -> None:
        """Fill in the answer to a reserve, and count it if it is admitted."""
        plan, costs, now_us = reserved.plan, reserved.costs, self.now_us()
        windows = [self._window(plan, i) for i in range(len(plan.cells))]
        sums = [window.total(now_us) for window in windows]
        reserved.at_us = now_us
        reserved.sums = sums
        for i, cell in enumerate(plan.cells):
            cost = costs[i]
            if cost and sums[i] + cost > self._share(cell):
                self._refuse(reserved, i, windows[i])
                return
        reserved.admitted = True
        reserved.state = HELD
        for i in wire.packed_plan(plan).distinct:
            windows[i].reserve(now_us, costs[i], reserved.lease)
        # Twins stand for the same counter, so each sum grew by its own cost.
        reserved.sums = [
            before + cost for before, cost in zip(sums, costs, strict=True)
        ]

    def _refuse(self, reserved: Reserved, index: int, window: LimitWindow) -> None:
        now_us, cost = reserved.at_us, reserved.costs[index]
        amount = self._share(reserved.plan.cells[index])
        wait_us = window.wait_us(now_us, cost, amount)
        frees_us = window.frees_us(now_us, amount)
        reserved.violated = index
        reserved.retry_after = wait_us / 1e6 if wait_us >= 0 else -1.0
        reserved.frees_at = self._monotonic() + frees_us / 1e6 if frees_us else 0.0

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """Replace what was reserved by what it was; a second time changes nothing."""
        if reserved.state == HELD:
            reserved.state = DONE
            self.adjust(reserved, actual)

    def adjust(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """Settle in those windows that are still known here."""
        now_us, costs, cells = self.now_us(), reserved.costs, reserved.plan.cells
        for i in wire.packed_plan(reserved.plan).distinct:
            window = self._windows.get(cells[i].key)
            if window is None or (
                cells[i].kind is CellKind.CONCURRENT and not costs[i]
            ):
                continue
            window.settle(now_us, reserved.at_us, costs[i], actual[i], reserved.lease)

    def charge(self, plan: Plan, actual: Sequence[int]) -> None:
        """Count what passed without a reservation, whatever the limits say."""
        now_us = self.now_us()
        for i in wire.packed_plan(plan).distinct:
            if plan.cells[i].kind is not CellKind.CONCURRENT:
                self._window(plan, i).charge(now_us, now_us, actual[i])

    def renew(self, reserved: Reserved) -> None:
        """Prolong the leases of a long exchange."""
        now_us = self.now_us()
        for i, cell in enumerate(reserved.plan.cells):
            if cell.kind is CellKind.CONCURRENT and reserved.costs[i]:
                self._window(reserved.plan, i).renew(now_us, reserved.lease)

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Sums now, nothing counted."""
        return self.sums(cells)

    def sums(self, cells: Sequence[Cell]) -> list[int]:
        """What ``peek`` answers."""
        now_us = self.now_us()
        known = [self._windows.get(cell.key) for cell in cells]
        return [0 if window is None else window.total(now_us) for window in known]

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Forget these counters."""
        for cell in cells:
            self._windows.pop(cell.key, None)

    def clear(self) -> None:
        """Forget every counter."""
        self._windows.clear()

    def _share(self, cell: Cell) -> int:
        amount = cell.amount
        return (
            amount
            if self.replicas == 1
            else max(min(1, amount), amount // self.replicas)
        )

    def _window(self, plan: Plan, index: int) -> LimitWindow:
        cell = plan.cells[index]
        window = self._windows.get(cell.key)
        if window is not None:
            self._windows.move_to_end(cell.key)
            return window
        window = self._windows[cell.key] = open_window(cell)
        if plan.seen:
            # What the store last said of this counter, so that an outage does not
            # hand out a fresh quota; this process owns only its share of it.
            share = -(-plan.seen[index] // self.replicas)
            window.charge(self.now_us(), plan.seen_us, share)
        if len(self._windows) > self._capacity:
            self._windows.popitem(last=False)
            self.evicted += 1
        return window

"""The in-process limiter: the same decisions as the store, for one process.

Serves ``memory:``, and enforces limits locally while the store is unavailable.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gateway.core.model import CellKind
from gateway.limits.ports import Cell, Plan, Reserved, Works
from gateway.limits.windows import (
    NEVER,
    Ask,
    LimitWindow,
    fits,
    is_firm,
    open_window,
    wait_us,
)
from gateway.store import wire
from gateway.store.states import DONE, HELD, detach, resume
from gateway.store.works import MemoryWorks

# Most counters kept (about 1 KB each); the least recently used one is evicted.
CAPACITY = 100_000


def wall_clock_us() -> Callable[[], int]:
    """Return a clock of epoch microseconds that never steps back."""
    start_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
    return lambda: start_us + time.monotonic_ns() // 1000


class MemoryStore:
    """Exact limits within one process, lost when it ends.

    ``clock`` returns epoch microseconds, ``monotonic`` the event loop's seconds.
    ``replicas``: number of limiters among which each limit is divided.
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
        # Part of the port; never called, because there is nothing to lose.
        self.last_error = ""
        self.on_degraded: Callable[[str], None] | None = None
        self.on_recovered: Callable[[int], None] | None = None
        self._monotonic = monotonic
        self._capacity = capacity
        self._windows: OrderedDict[bytes, LimitWindow] = OrderedDict()
        self._leases = 0
        self.works: Works = MemoryWorks(self.now_us)

    @property
    def up(self) -> bool:
        """Always True: there is no connection to lose."""
        return True

    @property
    def degraded(self) -> bool:
        """Always False, see ``up``."""
        return False

    def statistics(self) -> dict[str, int]:
        """None: there are no calls."""
        return {}

    def dropped_counts(self) -> dict[str, int]:
        """Counters evicted because the table was full."""
        return {"windows": self.evicted}

    async def start(self) -> None:
        """No-op: there is nothing to connect to."""

    async def close(self) -> None:
        """No-op: nothing is queued."""

    def reserve(
        self,
        plan: Plan,
        costs: Sequence[int],
        done: Callable[[Reserved], None],
        least: Sequence[int] | None = None,
    ) -> Reserved:
        """Decide immediately; see ``ports.Store``."""
        reserved = Reserved(plan, costs, least)
        self._leases += 1
        reserved.lease = b"%d" % self._leases
        self.decide(reserved)
        done(reserved)
        return reserved

    def decide(self, reserved: Reserved) -> None:
        """Fill in the answer to a reserve, and count it if admitted."""
        plan, costs, now_us = reserved.plan, reserved.costs, self.now_us()
        windows = [self._window(plan, i) for i in range(len(plan.cells))]
        sums = [window.total(now_us) for window in windows]
        reserved.at_us = now_us
        reserved.sums = sums
        refusing = [
            i
            for i in range(len(plan.cells))
            if not fits(windows[i], now_us, self._ask(reserved, i))
        ]
        if refusing:
            self._refuse(reserved, refusing, windows)
            return
        reserved.admitted = True
        reserved.state = HELD
        for i in wire.packed_plan(plan).distinct:
            windows[i].reserve(now_us, costs[i], reserved.lease)
        # Cells with the same key share a counter, so each sum grew by its own cost.
        reserved.sums = [
            before + cost for before, cost in zip(sums, costs, strict=True)
        ]
        for i in plan.looks:
            reserved.sums[i] = sums[i]

    def _refuse(
        self, reserved: Reserved, refusing: list[int], windows: list[LimitWindow]
    ) -> None:
        """Name the cell that has room last."""
        now_us, longest_us, index = reserved.at_us, -1, refusing[0]
        for i in refusing:
            until_us = wait_us(windows[i], now_us, self._ask(reserved, i))
            if until_us == NEVER:
                index, longest_us = i, NEVER
                break
            if until_us > longest_us:
                index, longest_us = i, until_us
        until_us, window = longest_us, windows[index]
        frees_us = window.frees_us(now_us, self._ask(reserved, index).amount)
        reserved.violated = index
        reserved.retry_after = until_us / 1e6 if until_us >= 0 else -1.0
        reserved.frees_at = self._monotonic() + frees_us / 1e6 if frees_us else 0.0
        if reserved.plan.looks:
            self._drop_empty(reserved.plan.cells, now_us)

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """Replace the reserved cost by the actual one; idempotent."""
        if reserved.state == HELD:
            reserved.state = DONE
            self.adjust(reserved, actual)

    def adjust(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """Settle in those windows that are still kept; a charge makes a new one."""
        now_us, costs, cells = self.now_us(), reserved.costs, reserved.plan.cells
        taken_back = False
        for i in wire.packed_plan(reserved.plan).distinct:
            leased, more = cells[i].kind is CellKind.CONCURRENT, actual[i] > costs[i]
            window = self._windows.get(cells[i].key)
            if leased and (window is None or not costs[i]):
                continue
            if window is None:
                if not more:
                    continue
                window = self._window(reserved.plan, i)
            window.settle(now_us, reserved.at_us, costs[i], actual[i], reserved.lease)
            taken_back |= not actual[i] and costs[i] > 0 and is_firm(cells[i])
        if taken_back or reserved.plan.looks:
            self._drop_empty(cells, now_us)

    def _drop_empty(self, cells: Sequence[Cell], now_us: int) -> None:
        """Drop the counters that a call of a stranger has left empty."""
        for cell in cells:
            window = self._windows.get(cell.key)
            if window is not None and not window.total(now_us):
                del self._windows[cell.key]

    def hold(self, plan: Plan, costs: Sequence[int]) -> Reserved:
        """Reserve without a check; see ``ports.Store``."""
        reserved = resume(plan, costs, self.now_us())
        self._leases += 1
        reserved.lease = b"%d" % self._leases
        self.take(reserved)
        return reserved

    def take(self, reserved: Reserved) -> None:
        """Count a reservation that needs no check, at its time."""
        plan = reserved.plan
        for i in wire.packed_plan(plan).distinct:
            window = self._window(plan, i)
            window.reserve(reserved.at_us, reserved.costs[i], reserved.lease)

    def charge(self, plan: Plan, actual: Sequence[int]) -> None:
        """Count cost without a reservation, regardless of limits."""
        now_us = self.now_us()
        for i in wire.packed_plan(plan).distinct:
            if plan.cells[i].kind is not CellKind.CONCURRENT:
                self._window(plan, i).charge(now_us, now_us, actual[i])

    def renew(self, reserved: Reserved) -> None:
        """Extend the leases of a long exchange."""
        now_us = self.now_us()
        cells = reserved.plan.cells
        for i in wire.packed_plan(reserved.plan).distinct:
            if cells[i].kind is CellKind.CONCURRENT and reserved.costs[i]:
                self._window(reserved.plan, i).renew(now_us, reserved.lease)

    def detach(self, reserved: Reserved) -> bool:
        """End the leases; see ``ports.Store``."""
        return detach(reserved, self.settle)

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Current sums of ``cells``; counts nothing."""
        return self.sums(cells)

    def sums(self, cells: Sequence[Cell]) -> list[int]:
        """Current sums of ``cells``, without a coroutine."""
        now_us = self.now_us()
        known = [self._windows.get(cell.key) for cell in cells]
        return [0 if window is None else window.total(now_us) for window in known]

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Delete these counters."""
        for cell in cells:
            self._windows.pop(cell.key, None)

    def clear(self) -> None:
        """Delete every counter."""
        self._windows.clear()

    def _ask(self, reserved: Reserved, index: int) -> Ask:
        cell, replicas = reserved.plan.cells[index], self.replicas
        amount, overdraft = cell.amount, cell.overdraft
        if replicas > 1:
            amount = max(min(1, amount), amount // replicas)
            overdraft //= replicas
        cost, least, plan = reserved.costs[index], reserved.least[index], reserved.plan
        beside = self._tally(plan, index) if index in plan.looks else 0
        return Ask(cost, least, amount, overdraft, index in plan.edges, beside)

    def _tally(self, plan: Plan, index: int) -> int:
        """What strangers hold beside this counter."""
        return self._window(plan, plan.looks[index]).total(self.now_us())

    def _window(self, plan: Plan, index: int) -> LimitWindow:
        cell = plan.cells[index]
        window = self._windows.get(cell.key)
        if window is not None:
            self._windows.move_to_end(cell.key)
            return window
        window = self._windows[cell.key] = open_window(cell)
        if plan.seen:
            # Start from the store's last sum, so that an outage does not grant a fresh
            # quota; this process takes only its share of it.
            share = -(-plan.seen[index] // self.replicas)
            window.charge(self.now_us(), plan.seen_us, share)
        if len(self._windows) > self._capacity:
            self._windows.popitem(last=False)
            self.evicted += 1
        return window

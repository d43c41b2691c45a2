"""Window arithmetic: how counts expire, and when a counter has room again.

In whole microseconds of the store's clock. ``store/lua/gate.lua`` has the same
arithmetic inside the store; one contract suite tests both. A sliding window consists of
60 whole sub-buckets plus the current one. A bucket counts until all of it has left the
window, so no span of the window's length ever exceeds the limit.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gateway.core.model import SUB_BUCKETS, CellKind
from gateway.limits.meters import METER_TABLE
from gateway.limits.ports import Cell

RING = SUB_BUCKETS + 1
# Reserved weight that is never settled (its worker was killed) counts as settled after
# one to two epochs of 10 min.
EPOCH_US = 600_000_000
# Result of ``wait_us`` for a cost that exceeds the whole limit.
NEVER = -1
# Retry-After of a refusal because of open exchanges: when they end is not known.
CONCURRENCY_WAIT_US = 1_000_000


class LimitWindow(Protocol):
    """A counter of the in-process limiter; times are microseconds of the store's clock."""

    def total(self, now_us: int) -> int:
        """The current sum."""
        ...

    def reserve(self, now_us: int, cost: int, lease: bytes) -> None:
        """Count ``cost`` now, to be settled later."""
        ...

    def settle(
        self, now_us: int, at_us: int, cost: int, actual: int, lease: bytes
    ) -> None:
        """Replace the ``cost`` reserved at ``at_us`` by the ``actual`` one."""
        ...

    def charge(self, now_us: int, at_us: int, cost: int) -> None:
        """Count settled weight at the past time ``at_us``, even beyond the limit."""
        ...

    def renew(self, now_us: int, lease: bytes) -> None:
        """Extend a lease (nothing to do for sums)."""
        ...

    def open_weight(self, now_us: int) -> int:
        """The part of the sum that is reserved and not settled yet."""
        ...

    def gone_us(self, now_us: int, excess: int) -> int:
        """Time until at least ``excess`` no longer counts; 0 if it is not positive."""
        ...

    def wait_us(self, now_us: int, cost: int, amount: int) -> int:
        """Time until ``cost`` fits under ``amount`` without other traffic, or NEVER."""
        ...

    def frees_us(self, now_us: int, amount: int) -> int:
        """Time until settled weight leaves room for a cost of 1; 0: it does now."""
        ...


class Unsettled:
    """Weight reserved and not yet settled, in two generations of EPOCH_US."""

    __slots__ = ("_current", "_earlier", "_epoch")

    def __init__(self) -> None:
        self._epoch = 0
        self._current = 0
        self._earlier = 0

    def _turn(self, now_us: int) -> None:
        epoch = now_us // EPOCH_US
        if epoch > self._epoch:
            self._earlier = self._current if epoch == self._epoch + 1 else 0
            self._current = 0
            self._epoch = epoch

    def add(self, now_us: int, cost: int) -> None:
        """Add ``cost`` to the reserved weight."""
        self._turn(now_us)
        self._current += cost

    def release(self, now_us: int, at_us: int, cost: int) -> None:
        """Remove a ``cost`` reserved at ``at_us``; never below zero."""
        self._turn(now_us)
        age = self._epoch - at_us // EPOCH_US
        if age <= 0:
            self._current = max(0, self._current - cost)
        elif age == 1:
            self._earlier = max(0, self._earlier - cost)

    def weight(self, now_us: int) -> int:
        """The reserved weight not settled yet."""
        self._turn(now_us)
        return self._current + self._earlier


class SlidingWindow:
    """A sum over the last ``window_us``, in 60 whole buckets and the current one.

    ``firm``: reservations are final (requests are never refunded), so they count as
    settled at once.
    """

    __slots__ = ("_firm", "_index", "_ring", "_sum", "_unsettled", "_width_us")

    def __init__(self, window_us: int, *, firm: bool = False) -> None:
        self._width_us = -(-window_us // SUB_BUCKETS)
        self._firm = firm
        self._index = 0
        self._sum = 0
        self._ring = [0] * RING
        self._unsettled = Unsettled()

    def _advance(self, now_us: int) -> None:
        # A clock that went back changes nothing: the newest bucket stays current.
        index = now_us // self._width_us
        steps = index - self._index
        if steps <= 0:
            return
        if steps >= RING:
            self._ring = [0] * RING
            self._sum = 0
        else:
            for entering in range(self._index + 1, index + 1):
                self._sum -= self._ring[entering % RING]
                self._ring[entering % RING] = 0
        self._index = index

    def total(self, now_us: int) -> int:
        """The current sum."""
        self._advance(now_us)
        return self._sum

    def reserve(self, now_us: int, cost: int, lease: bytes = b"") -> None:
        """Count ``cost`` in the current bucket."""
        self._advance(now_us)
        self._put(self._index, cost)
        if not self._firm:
            self._unsettled.add(now_us, cost)

    def settle(
        self, now_us: int, at_us: int, cost: int, actual: int, lease: bytes = b""
    ) -> None:
        """Refund a surplus to the bucket of the reserve, or charge the current one."""
        self._advance(now_us)
        if not self._firm:
            self._unsettled.release(now_us, at_us, cost)
        if actual > cost:
            self._put(self._index, actual - cost)
        elif actual < cost:
            bucket = self._bucket(at_us)
            if bucket is not None:
                refund = min(cost - actual, self._ring[bucket % RING])
                self._put(bucket, -refund)

    def charge(self, now_us: int, at_us: int, cost: int) -> None:
        """Count ``cost`` in the bucket of ``at_us``, unless that has left the window."""
        self._advance(now_us)
        bucket = self._bucket(at_us)
        if bucket is not None:
            self._put(bucket, cost)

    def renew(self, now_us: int, lease: bytes) -> None:
        """Weights have no leases."""

    def _bucket(self, at_us: int) -> int | None:
        bucket = min(at_us // self._width_us, self._index)
        return bucket if bucket > self._index - RING else None

    def _put(self, bucket: int, weight: int) -> None:
        self._ring[bucket % RING] += weight
        self._sum += weight

    def open_weight(self, now_us: int) -> int:
        """The part of the sum that is reserved and not settled yet."""
        return min(self._unsettled.weight(now_us), self._sum)

    def gone_us(self, now_us: int, excess: int) -> int:
        """Time until buckets with at least ``excess`` have left the window."""
        self._advance(now_us)
        return self._until_gone(now_us, excess)

    def wait_us(self, now_us: int, cost: int, amount: int) -> int:
        """Time until enough of the oldest buckets have left for ``cost`` to fit."""
        if cost > amount:
            return NEVER
        self._advance(now_us)
        return self._until_gone(now_us, self._sum + cost - amount)

    def frees_us(self, now_us: int, amount: int) -> int:
        """Time until settled weight leaves room for a cost of 1 (0: it does now)."""
        self._advance(now_us)
        settled = self._sum - self._unsettled.weight(now_us)
        return self._until_gone(now_us, settled + 1 - amount)

    def _until_gone(self, now_us: int, excess: int) -> int:
        """Time until at least ``excess`` has left the window."""
        if excess <= 0:
            return 0
        bucket = self._index - RING
        while excess > 0 and bucket < self._index:
            bucket += 1
            excess -= self._ring[bucket % RING]
        return (bucket + RING) * self._width_us - now_us


class CalendarWindow:
    """A sum until the calendar period ends; the next period is another counter."""

    __slots__ = ("_ends_us", "_firm", "_sum", "_unsettled")

    def __init__(self, ends_us: int, *, firm: bool = False) -> None:
        self._ends_us = ends_us
        self._firm = firm
        self._sum = 0
        self._unsettled = Unsettled()

    def total(self, now_us: int) -> int:
        """The sum of the period."""
        return self._sum

    def reserve(self, now_us: int, cost: int, lease: bytes = b"") -> None:
        """Count ``cost``."""
        self._sum += cost
        if not self._firm:
            self._unsettled.add(now_us, cost)

    def settle(
        self, now_us: int, at_us: int, cost: int, actual: int, lease: bytes = b""
    ) -> None:
        """Refund or charge the difference."""
        self._sum = max(0, self._sum + actual - cost)
        if not self._firm:
            self._unsettled.release(now_us, at_us, cost)

    def charge(self, now_us: int, at_us: int, cost: int) -> None:
        """Count ``cost``; the key names the period, so ``at_us`` does not matter."""
        self._sum += cost

    def renew(self, now_us: int, lease: bytes) -> None:
        """Weights have no leases."""

    def open_weight(self, now_us: int) -> int:
        """The part of the sum that is reserved and not settled yet."""
        return min(self._unsettled.weight(now_us), self._sum)

    def gone_us(self, now_us: int, excess: int) -> int:
        """Time until the period ends."""
        return max(0, self._ends_us - now_us) if excess > 0 else 0

    def wait_us(self, now_us: int, cost: int, amount: int) -> int:
        """Time until the period ends, or NEVER if ``cost`` exceeds the limit."""
        if cost > amount:
            return NEVER
        return self.gone_us(now_us, self._sum + cost - amount)

    def frees_us(self, now_us: int, amount: int) -> int:
        """Time until the period ends, if settled weight alone fills it."""
        if self._sum - self._unsettled.weight(now_us) < amount:
            return 0
        return max(0, self._ends_us - now_us)


class Leases:
    """Open exchanges, each with the time at which its lease expires."""

    __slots__ = ("_expires", "_lease_us", "_unnamed")

    def __init__(self, lease_us: int) -> None:
        self._lease_us = lease_us
        self._expires: dict[bytes, int] = {}
        self._unnamed = 0

    def total(self, now_us: int) -> int:
        """The number of open exchanges."""
        # In order of expiry, because an opened or renewed lease goes to the end.
        while self._expires:
            oldest = next(iter(self._expires))
            if self._expires[oldest] > now_us:
                break
            del self._expires[oldest]
        return len(self._expires)

    def reserve(self, now_us: int, cost: int, lease: bytes) -> None:
        """Open a lease (a cost of 0: none)."""
        if cost:
            self._expires[lease] = now_us + self._lease_us

    def settle(
        self, now_us: int, at_us: int, cost: int, actual: int, lease: bytes
    ) -> None:
        """End a lease; an unknown one ends one of those that ``charge`` opened."""
        if self._expires.pop(lease, None) is None:
            self._expires.pop(b"#%d" % self._unnamed, None)
            self._unnamed = max(0, self._unnamed - 1)

    def charge(self, now_us: int, at_us: int, cost: int) -> None:
        """Open ``cost`` leases without a name."""
        for _ in range(cost):
            self._unnamed += 1
            self._expires[b"#%d" % self._unnamed] = at_us + self._lease_us

    def renew(self, now_us: int, lease: bytes) -> None:
        """Extend a lease; an expired one is opened again, as its exchange is alive."""
        self._expires.pop(lease, None)
        self._expires[lease] = now_us + self._lease_us

    def open_weight(self, now_us: int) -> int:
        """All of them."""
        return self.total(now_us)

    def gone_us(self, now_us: int, excess: int) -> int:
        """CONCURRENCY_WAIT_US: the end of an exchange is not known."""
        return CONCURRENCY_WAIT_US if excess > 0 else 0

    def wait_us(self, now_us: int, cost: int, amount: int) -> int:
        """CONCURRENCY_WAIT_US if full."""
        if cost > amount:
            return NEVER
        return self.gone_us(now_us, self.total(now_us) + cost - amount)

    def frees_us(self, now_us: int, amount: int) -> int:
        """Always 0: an exchange may end at any moment."""
        return 0


class Ask(NamedTuple):
    """What a call asks of one counter, and the counter's amount and overdraft.

    ``cost`` is the most that it may cost, ``least`` what it is expected to cost; equal
    if the cost is certain. ``edge``: the call holds the edge of this counter, so that
    it alone may cost more than fits. ``beside``: what open calls hold that this counter
    does not contain (``strangers``).
    """

    cost: int
    least: int
    amount: int
    overdraft: int = 0
    edge: bool = False
    beside: int = 0


def fits(window: LimitWindow, now_us: int, ask: Ask) -> bool:
    """Whether a call is admitted by this counter.

    Settled weight and what the call is expected to cost must stay within the amount.
    With all open calls at the most that they may cost, the sum may exceed it by the
    overdraft; the call that holds the edge needs no room for that.
    """
    total = window.total(now_us)
    whole = total + ask.beside + ask.cost
    if not ask.cost or whole <= ask.amount:
        return True
    if ask.cost <= ask.least and not ask.edge:
        return False  # a certain cost has no overdraft
    if total - window.open_weight(now_us) + ask.least > ask.amount:
        return False
    return ask.edge or whole <= ask.amount + ask.overdraft


def wait_us(window: LimitWindow, now_us: int, ask: Ask) -> int:
    """Time until the call is admitted without other traffic, or NEVER.

    For a cost that is not certain only settled weight counts, because open calls may
    settle at less than they reserve; CONCURRENCY_WAIT_US if they alone are in the way.
    """
    if ask.beside and window.total(now_us) + ask.cost <= ask.amount:
        return CONCURRENCY_WAIT_US
    if ask.cost <= ask.least and not ask.edge:
        return window.wait_us(now_us, ask.cost, ask.amount)
    most = ask.amount + ask.overdraft
    if ask.least > ask.amount or (ask.cost > most and not ask.edge):
        return NEVER
    settled = window.total(now_us) - window.open_weight(now_us)
    excess = settled + ask.least - ask.amount
    if not ask.edge:
        excess = max(excess, settled + ask.cost - most)
    if excess <= 0:
        return 0 if fits(window, now_us, ask) else CONCURRENCY_WAIT_US
    return window.gone_us(now_us, excess)


def is_firm(cell: Cell) -> bool:
    """Whether a reservation in this cell is final, as for requests (``MeterSpec.firm``)."""
    return METER_TABLE[cell.limit.meter].firm


def open_window(cell: Cell) -> LimitWindow:
    """A new, empty counter for a cell."""
    if cell.kind is CellKind.SLIDING:
        return SlidingWindow(cell.window_us, firm=is_firm(cell))
    if cell.kind is CellKind.CALENDAR:
        return CalendarWindow(round(cell.ends_at * 1e6), firm=is_firm(cell))
    return Leases(cell.window_us)

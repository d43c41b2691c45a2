"""Decisions and bookkeeping while the store is unavailable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from gateway.limits.ports import Reserved
from gateway.store import wire
from gateway.store.deferred import DeferredCharges
from gateway.store.memory import MemoryStore
from gateway.store.states import DONE, HELD, LOCAL

WhenDown = Literal["local", "open", "closed"]

# ``retry_after`` of a refusal by ``when_down = "closed"``.
_CLOSED_RETRY_S = 1.0


class Fallback:
    """Decides by ``when_down``: local windows, admit all, or refuse all.

    Exchanges admitted here stay open until they are settled; their cost then goes into
    the deferred charges. ``take`` hands both over once the store is back.
    """

    def __init__(
        self, when_down: WhenDown, windows: MemoryStore, new_lease: Callable[[], bytes]
    ) -> None:
        self.windows = windows
        self._when_down = when_down
        self._new_lease = new_lease
        self._deferred = DeferredCharges()
        self._open: dict[Reserved, None] = {}

    def __len__(self) -> int:
        """Number of operations that the store has yet to get, at least."""
        return len(self._open) + len(self._deferred)

    @property
    def exchanges(self) -> int:
        """Number of exchanges that the store has no record of yet."""
        return len(self._open) + self._deferred.exchanges

    def decide(self, reserved: Reserved) -> None:
        """Fill in the answer; the caller arranges the settlement."""
        reserved.local = True
        if not reserved.lease:
            reserved.lease = self._new_lease()
        if self._when_down == "local":
            self.windows.decide(reserved)
            return
        reserved.at_us = self.windows.now_us()
        if self._when_down == "open":
            reserved.admitted = True
            reserved.sums = reserved.costs
        else:
            # -1: no single limit is the reason, none could be checked.
            reserved.violated = -1
            reserved.retry_after = _CLOSED_RETRY_S

    def admit(self, reserved: Reserved) -> None:
        """Decide, and track the exchange until it is settled here."""
        self.decide(reserved)
        if reserved.admitted:
            self.track(reserved)

    def hold(self, reserved: Reserved) -> None:
        """Count a reservation that needs no check."""
        reserved.local = True
        self.windows.take(reserved)
        self.track(reserved)

    def track(self, reserved: Reserved) -> None:
        """Track an admitted exchange that the store has no record of."""
        reserved.state = LOCAL
        self._open[reserved] = None

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """End a tracked exchange and defer its cost."""
        reserved.state = DONE
        self._open.pop(reserved, None)
        self.windows.adjust(reserved, actual)
        self.defer(reserved, actual)

    def defer(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """Keep a cost until the store can be charged."""
        self._deferred.add(reserved.plan, actual, reserved.at_us)

    def take(self, most: int) -> list[wire.Op]:
        """Hand over up to ``most`` operations; open exchanges become the store's."""
        ops: list[wire.Op] = []
        while self._open and len(ops) < most:
            reserved, _ = self._open.popitem()
            reserved.state = HELD
            ops.append((wire.HOLD, reserved, None))
        return ops + self._deferred.take(most - len(ops))

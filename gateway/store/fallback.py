"""What is decided and owed while the store is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from gateway.limits.ports import Reserved
from gateway.store import wire
from gateway.store.journal import Journal
from gateway.store.memory import DONE, HELD, LOCAL, MemoryStore

WhenDown = Literal["local", "open", "closed"]

# ``retry_after`` of a gateway that is closed while its store is away.
_CLOSED_RETRY_S = 1.0


class Fallback:
    """Decides by local windows (or lets all through, or nobody), and keeps the books.

    Exchanges admitted here are open until settled; what they cost goes into the
    journal. ``take`` hands both over once the store is back.
    """

    def __init__(
        self, when_down: WhenDown, windows: MemoryStore, new_lease: Callable[[], bytes]
    ) -> None:
        self.windows = windows
        self.decided = 0
        self._when_down = when_down
        self._new_lease = new_lease
        self._journal = Journal()
        self._open: dict[Reserved, None] = {}

    def __len__(self) -> int:
        """Operations owed to the store, at least."""
        return len(self._open) + len(self._journal)

    @property
    def exchanges(self) -> int:
        """Exchanges of which the store does not know yet."""
        return len(self._open) + self._journal.noted

    def decide(self, reserved: Reserved) -> None:
        """Fill in the answer; who is to settle it is left to the caller."""
        self.decided += 1
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
            # No limit said no: none could be asked.
            reserved.violated = -1
            reserved.retry_after = _CLOSED_RETRY_S

    def admit(self, reserved: Reserved) -> None:
        """Decide, and be the one who settles it."""
        self.decide(reserved)
        if reserved.admitted:
            self.keep(reserved)

    def keep(self, reserved: Reserved) -> None:
        """An admitted exchange that the store knows nothing of."""
        reserved.state = LOCAL
        self._open[reserved] = None

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """End an exchange of ours."""
        reserved.state = DONE
        self._open.pop(reserved, None)
        self.windows.adjust(reserved, actual)
        self.owe(reserved, actual)

    def owe(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """Note a cost that the store has to be told."""
        self._journal.add(reserved.plan, actual, reserved.at_us)

    def take(self, most: int) -> list[wire.Op]:
        """Hand over up to ``most``: open exchanges become the store's."""
        ops: list[wire.Op] = []
        while self._open and len(ops) < most:
            reserved, _ = self._open.popitem()
            reserved.state = HELD
            ops.append((wire.HOLD, reserved, None))
        return ops + self._journal.take(most - len(ops))

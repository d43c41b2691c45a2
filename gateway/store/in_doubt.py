"""A call without an answer: whether the store executed it, and what is left to do."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.limits.ports import Reserved
from gateway.store import wire
from gateway.store.fallback import Fallback
from gateway.store.states import DONE, HELD, IN_DOUBT


class InDoubtCall:
    """The unanswered call ``seq`` and its operations.

    ``replay``: its packed form if it was itself a replay, else None. The fallback has
    answered its reserves meanwhile; some may be settled already.
    """

    __slots__ = ("_ops", "_settled", "replay", "seq")

    def __init__(self, seq: int, ops: list[wire.Op], replay: bytes | None) -> None:
        self.seq = seq
        self.replay = replay
        self._ops = ops
        self._settled: dict[Reserved, Sequence[int]] = {}
        for code, reserved, _ in ops:
            if code == wire.RESERVE:
                reserved.state = IN_DOUBT

    def __len__(self) -> int:
        """Number of operations in the call."""
        return len(self._ops)

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> bool:
        """Record a settlement for later; False if there is one already."""
        first = reserved not in self._settled
        self._settled.setdefault(reserved, actual)
        return first

    def resolve(
        self, at_us: int, flags: bytes | None, fallback: Fallback
    ) -> list[wire.Op]:
        """Return the operations that are left to send.

        ``flags``: the store executed the call at ``at_us`` with this result (one
        character per reserve: 1 admitted). None: it did not and never will.
        """
        ops: list[wire.Op] = []
        reserves = 0
        for op in self._ops:
            if op[0] == wire.RESERVE:
                counted = flags is not None and flags[reserves] == ord("1")
                reserves += 1
                if counted:
                    ops += self._counted(op[1], at_us)
                else:
                    self._not_counted(op[1], fallback)
            elif flags is None and op[0] != wire.PEEK:
                ops.append(op)
        return ops

    def _counted(self, reserved: Reserved, at_us: int) -> list[wire.Op]:
        """The store holds the reservation: settle it if it ended or was refused."""
        actual = self._settled.get(reserved)
        reserved.at_us = at_us
        if reserved.admitted and actual is None:
            reserved.state = HELD
            return []
        reserved.state = DONE
        if actual is None or not reserved.admitted:
            actual = [0] * len(reserved.costs)
        return [(wire.SETTLE, reserved, actual)]

    def _not_counted(self, reserved: Reserved, fallback: Fallback) -> None:
        """The store lacks the reservation: track it as open, or defer its cost."""
        actual = self._settled.get(reserved)
        reserved.state = DONE
        if reserved.admitted and actual is None:
            fallback.track(reserved)
        elif reserved.admitted and actual is not None:
            fallback.defer(reserved, actual)

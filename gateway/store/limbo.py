"""The call nobody answered: was it executed, and what follows from that."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.limits.ports import Reserved
from gateway.store import wire
from gateway.store.fallback import Fallback
from gateway.store.memory import DONE, HELD, LIMBO


class Limbo:
    """One call in limbo: its number, its operations, or its packed form (``told``).

    Its reserves were answered by the fallback meanwhile; some may be settled already.
    """

    __slots__ = ("_ops", "_settled", "seq", "told")

    def __init__(self, seq: int, ops: list[wire.Op], told: bytes | None) -> None:
        self.seq = seq
        self.told = told
        self._ops = ops
        self._settled: dict[Reserved, Sequence[int]] = {}
        for code, reserved, _ in ops:
            if code == wire.RESERVE:
                reserved.state = LIMBO

    def __len__(self) -> int:
        """Operations in it."""
        return len(self._ops)

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> bool:
        """Remember a settlement in limbo; False: there was one already."""
        first = reserved not in self._settled
        self._settled.setdefault(reserved, actual)
        return first

    def resolve(
        self, at_us: int, flags: bytes | None, fallback: Fallback
    ) -> list[wire.Op]:
        """What is left to do.

        The store executed the call at ``at_us`` with these ``flags``, or (None) it
        never will.
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
        """The store holds the reservation: settle what is over, undo a refusal."""
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
        """Only we know of it: keep it open, or owe what it cost."""
        actual = self._settled.get(reserved)
        reserved.state = DONE
        if reserved.admitted and actual is None:
            fallback.keep(reserved)
        elif reserved.admitted and actual is not None:
            fallback.owe(reserved, actual)

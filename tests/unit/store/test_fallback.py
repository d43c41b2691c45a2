"""Decisions while the store is unavailable, and what is handed over afterwards."""

from __future__ import annotations

import pytest

from gateway.limits.ports import Plan, Reserved
from gateway.store import wire
from gateway.store.fallback import Fallback
from gateway.store.memory import MemoryStore
from gateway.store.states import HELD, LOCAL, resume
from tests.cells import sliding

PLAN = Plan((sliding("a", 5),))


def fallback(when_down="local") -> Fallback:
    return Fallback(when_down, MemoryStore(), lambda: b"0123456789abcdef")


@pytest.mark.parametrize(
    ("when_down", "admitted"), [("local", [True, False]), ("open", [True, True]),
                                ("closed", [False, False])],
)  # fmt: skip
def test_when_down_decides(when_down, admitted):
    """Local windows hold the limit; ``open`` admits all, ``closed`` refuses all."""
    store = fallback(when_down)
    reserves = [Reserved(PLAN, (5,)) for _ in range(2)]
    for reserved in reserves:
        store.admit(reserved)
    assert [one.admitted for one in reserves] == admitted
    assert all(one.local for one in reserves)
    assert len(store) == sum(admitted)


def test_open_and_settled_exchanges_are_handed_over():
    """An open exchange becomes a hold, the cost of a settled one a charge."""
    store = fallback()
    running, ended = Reserved(PLAN, (1,)), Reserved(PLAN, (1,))
    for reserved in (running, ended):
        store.admit(reserved)
        assert reserved.state == LOCAL
    store.settle(ended, (3,))
    assert store.exchanges == 2
    assert [op[0] for op in store.take(1)] == [wire.HOLD]
    assert running.state == HELD
    (charge,) = store.take(9)
    assert (charge[0], charge[1].costs) == (wire.CHARGE, (3,))
    assert (len(store), store.exchanges) == (0, 0)


def test_what_is_held_needs_no_check():
    """It counts in the local windows, and is handed over."""
    store = fallback()
    now_us = store.windows.now_us()
    held = [resume(PLAN, (4,), now_us) for _ in range(2)]
    for reserved in held:
        store.hold(reserved)
        assert (reserved.state, reserved.local) == (LOCAL, True)
    assert store.windows.sums(PLAN.cells) == [8]
    store.settle(held[0], (1,))
    assert store.windows.sums(PLAN.cells) == [5]
    assert [op[0] for op in store.take(9)] == [wire.HOLD, wire.CHARGE]

"""Calls in doubt: each combination of the local decision and the store's result."""

from __future__ import annotations

import pytest

from gateway.limits.ports import Plan, Reserved
from gateway.store import wire
from gateway.store.fallback import Fallback
from gateway.store.in_doubt import InDoubtCall
from gateway.store.memory import MemoryStore
from gateway.store.states import DONE, HELD, IN_DOUBT, LOCAL
from tests.cells import concurrent, sliding

PLAN = Plan((sliding("a", 10), concurrent("c", 10)))


@pytest.fixture(name="fallback")
def _fallback() -> Fallback:
    """A fallback without deferred charges."""
    return Fallback("local", MemoryStore(), lambda: b"0123456789abcdef")


def decided(*, admitted: bool) -> Reserved:
    """A reserve of the call, with the local answer."""
    reserved = Reserved(PLAN, (5, 1))
    reserved.admitted = admitted
    reserved.at_us = 1_000
    return reserved


def no_answer(reserved: Reserved) -> None:
    """Callback of a reserve that was answered locally."""


@pytest.mark.parametrize(
    ("flags", "admitted", "settled", "state", "settles", "owed"),
    [
        (b"1", True, False, HELD, None, 0),
        (b"1", True, True, DONE, (3, 1), 0),
        (b"1", False, False, DONE, [0, 0], 0),
        (b"0", True, False, LOCAL, None, 1),
        (b"0", True, True, DONE, None, 1),
        (b"0", False, False, DONE, None, 0),
        (None, True, False, LOCAL, None, 1),
        (None, True, True, DONE, None, 1),
        (None, False, False, DONE, None, 0),
    ],
)
def test_a_reserve_ends_on_the_books_once(
    fallback, flags, admitted, settled, state, settles, owed
):
    """Each reserve is held, settled, undone, deferred or dropped, exactly once."""
    reserved = decided(admitted=admitted)
    call = InDoubtCall(7, [(wire.RESERVE, reserved, no_answer)], None)
    assert (reserved.state, len(call)) == (IN_DOUBT, 1)
    if settled:
        assert call.settle(reserved, (3, 1))
        assert not call.settle(reserved, (9, 1))
    ops = call.resolve(2_000, flags, fallback)
    assert [op[2] for op in ops] == ([] if settles is None else [settles])
    assert (reserved.state, len(fallback)) == (state, owed)
    assert reserved.at_us == (2_000 if flags == b"1" else 1_000)


@pytest.mark.parametrize("flags", [b"", None])
def test_other_operations_are_sent_again_only_if_never_executed(fallback, flags):
    """Other operations keep their order; a peek was answered locally."""
    reserved = decided(admitted=True)
    reserved.state = DONE
    ops = [(wire.RENEW, reserved, None), (wire.SETTLE, reserved, (1, 1))]
    call = InDoubtCall(7, [*ops, (wire.PEEK, reserved, no_answer)], None)
    assert call.resolve(2_000, flags, fallback) == ([] if flags is not None else ops)

"""A call in limbo: every combination of what was decided and what the store did."""

from __future__ import annotations

import pytest

from gateway.limits.ports import Plan, Reserved
from gateway.store import wire
from gateway.store.fallback import Fallback
from gateway.store.limbo import Limbo
from gateway.store.memory import DONE, HELD, LIMBO, LOCAL, MemoryStore
from tests.cells import concurrent, sliding

PLAN = Plan((sliding("a", 10), concurrent("c", 10)))


@pytest.fixture(name="fallback")
def _fallback() -> Fallback:
    """Nothing owed yet."""
    return Fallback("local", MemoryStore(), lambda: b"0123456789abcdef")


def decided(*, admitted: bool) -> Reserved:
    """A reserve in the call, as it was answered meanwhile."""
    reserved = Reserved(PLAN, (5, 1))
    reserved.admitted = admitted
    reserved.at_us = 1_000
    return reserved


def no_answer(reserved: Reserved) -> None:
    """Everybody was answered before."""


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
    """Held, settled, undone, still to be told, or nothing."""
    reserved = decided(admitted=admitted)
    limbo = Limbo(7, [(wire.RESERVE, reserved, no_answer)], None)
    assert (reserved.state, len(limbo)) == (LIMBO, 1)
    if settled:
        assert limbo.settle(reserved, (3, 1))
        assert not limbo.settle(reserved, (9, 1))
    ops = limbo.resolve(2_000, flags, fallback)
    assert [op[2] for op in ops] == ([] if settles is None else [settles])
    assert (reserved.state, len(fallback)) == (state, owed)
    assert reserved.at_us == (2_000 if flags == b"1" else 1_000)


@pytest.mark.parametrize("flags", [b"", None])
def test_other_operations_are_sent_again_only_if_never_executed(fallback, flags):
    """In their order; nobody waits for an old peek."""
    reserved = decided(admitted=True)
    reserved.state = DONE
    ops = [(wire.RENEW, reserved, None), (wire.SETTLE, reserved, (1, 1))]
    limbo = Limbo(7, [*ops, (wire.PEEK, reserved, no_answer)], None)
    assert limbo.resolve(2_000, flags, fallback) == ([] if flags is not None else ops)

"""The packed form of calls and of replays."""

from __future__ import annotations

import struct

from gateway.limits.ports import Plan, Reserved
from gateway.store import wire
from tests.cells import calendar, concurrent, sliding

LEASE = b"0123456789abcdef"


def made(plan: Plan, *costs: int) -> Reserved:
    """A reservation, with a lease if the plan has leases."""
    reserved = Reserved(plan, costs)
    reserved.lease = LEASE
    reserved.at_us = 77
    return reserved


def test_a_plan_is_packed_once_per_call():
    """Operations refer to their plan by index."""
    one, two = Plan((sliding("a", 9),)), Plan((sliding("b", 9),))
    ops = [(wire.RESERVE, made(plan, 3), None) for plan in (one, two, one)]
    packed = wire.encode_call(ops)
    assert struct.unpack_from("<H", packed) == (2,)
    assert packed.count(one.cells[0].key) == 1
    tail = struct.unpack("<BHddBHddBHdd", packed[-57:])
    assert tail == (1, 0, 3, 3, 1, 1, 3, 3, 1, 0, 3, 3)


def test_the_next_call_packs_the_plan_again():
    """The index of a plan is valid for one call, so the next call packs it again."""
    plan = Plan((sliding("a", 9),))
    ops = [(wire.RESERVE, made(plan, 3), None)]
    assert wire.encode_call(ops) == wire.encode_call(ops)


def test_flags_of_a_cell():
    """Flags hold the kind, "firm" for requests and "twin" for a repeated key."""
    cells = (
        sliding("a", 9),
        sliding("a", 5),
        sliding("r", 1, meter="requests"),
        calendar("c", 1, 2.5),
        concurrent("l", 1),
    )
    head = wire.PackedPlan(Plan(cells)).head
    kinds, at = [], 1
    for cell in cells:
        kinds.append(head[at])
        at += 27 + len(cell.key)
    assert (head[0], kinds) == (5, [0, 8, 4, 1, 2])


def test_an_empty_call_has_neither_plans_nor_operations():
    """An empty call consists of the call number alone."""
    assert wire.number_call(5, wire.encode_call(())) == struct.pack("<dH", 5, 0)


def test_a_replay_holds_what_was_admitted():
    """Admitted reserves become holds of their time; refused ones and peeks are dropped."""
    plan = Plan((sliding("a", 9), concurrent("c", 9)))
    bare = Plan((sliding("b", 9),))
    first, refused, third = (made(plan, 1, 1) for _ in range(3))
    rest = [
        (wire.SETTLE, first, (5, 1)),
        (wire.RENEW, first, None),
        (wire.CHARGE, made(bare, 4), None),
        (wire.HOLD, made(bare, 2), None),
    ]
    peek = (wire.PEEK, made(plan), None)
    ops = [(wire.RESERVE, r, None) for r in (first, refused, third)]
    sent = wire.encode_call([*ops, peek, *rest])
    held = [(wire.HOLD, r, None) for r in (first, third)]
    assert wire.encode_replay(sent, 77, (1,)) == wire.encode_call([*held, *rest])

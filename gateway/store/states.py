"""The states of a reservation (``Reserved.state``), and reservations that outlive a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.model import CellKind
from gateway.limits.ports import Plan, Reserved

# New; held by the store; tracked by the fallback; in a call without an answer; settled,
# refused or detached.
NEW, HELD, LOCAL, IN_DOUBT, DONE = range(5)


def resume(plan: Plan, costs: Sequence[int], at_us: int) -> Reserved:
    """A handle of what the store holds since ``at_us``."""
    reserved = Reserved(plan, costs)
    reserved.admitted, reserved.at_us, reserved.state = True, at_us, HELD
    return reserved


def detach(
    reserved: Reserved, settle: Callable[[Reserved, Sequence[int]], None]
) -> bool:
    """Give up a held reservation except for its leases, which ``settle`` ends; see
    ``ports.Store``.
    """
    if reserved.state != HELD:
        return False
    reserved.state = DONE
    pairs = zip(reserved.plan.cells, reserved.costs, strict=True)
    leased = [pair for pair in pairs if pair[0].kind is CellKind.CONCURRENT]
    if leased:
        plan = Plan(tuple(cell for cell, _ in leased), reserved.plan.tag)
        leases = resume(plan, [cost for _, cost in leased], reserved.at_us)
        leases.lease = reserved.lease
        settle(leases, leases.costs)
    return True

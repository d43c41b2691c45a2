"""Calls of clients whose credential the upstream has not accepted yet.

``limits/strangers.py`` says how they reserve. The first 2xx answer of the upstream to
metered work makes a credential known to this worker. A call whose client leaves before
the upstream has answered waits for the status: what was accepted is charged like any other
call, what was refused costs nothing, and what is never known is charged to the client's own
counters alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.identity.cidr import site_of
from gateway.limits.ports import Reserved
from gateway.limits.strangers import StrangerPlan, refused_costs, stranger_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.limits.plans import LimitPlan
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# Calls of a worker that wait for their status although their client has left.
MAX_STATUS_WAITS = 256
_OK = range(200, 300)
# Status of an answer to an invalid credential; 400 is Gemini's.
_REFUSED = frozenset({400, 401, 403})
_UPGRADED = 101
# Seconds after an invalid credential.
SUSPECT_S = 600.0


class Stranger:
    """The reservation of one such call, until the upstream accepts the credential."""

    __slots__ = ("_done", "_flow", "_plan", "reserved")

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        # Whether the limits are shared with others, and what holds the reservation then.
        self._plan: StrangerPlan | None = None
        self.reserved: Reserved | None = None

    def reserve(
        self, shared: Shared, plan: LimitPlan, done: Callable[[Reserved], None]
    ) -> None:
        """As ``Store.reserve``; the answer has the cells of ``plan`` alone."""
        flow = self._flow
        suspect = is_suspect(flow, shared)
        found = self._plan = stranger_plan(plan, suspect=suspect)
        if found is None:
            shared.store.reserve(plan, flow.costs, done, flow.least)
            return
        self._done = done
        costs, least = found.costs(flow.costs), found.costs(flow.least)
        # A tally holds what a call may cost.
        least = (*least[: len(flow.least)], *costs[len(flow.costs) :])
        shared.store.reserve(found, costs, self._on_reserved, least)

    def _on_reserved(self, reserved: Reserved) -> None:
        self.reserved = reserved
        flow, plan = self._flow, reserved.plan
        assert flow.plan is not None
        seen = Reserved(flow.plan, flow.costs, flow.least)
        seen.admitted, seen.violated = reserved.admitted, reserved.violated
        seen.retry_after, seen.frees_at = reserved.retry_after, reserved.frees_at
        seen.at_us, seen.local = reserved.at_us, reserved.local
        if reserved.sums:
            seen.sums = [
                used + cost if place in plan.looks and reserved.admitted else used
                for place, (used, cost) in enumerate(
                    zip(reserved.sums, flow.costs, strict=False)
                )
            ]
        self._done(seen)

    def join(self, shared: Shared) -> Reserved | None:
        """Reserve as other clients do; None: that is how it is reserved already."""
        flow, reserved = self._flow, self.reserved
        if reserved is None or not reserved.admitted or flow.plan is None:
            return None
        held = shared.store.hold(flow.plan, flow.costs)
        shared.store.settle(reserved, (0,) * len(reserved.costs))
        if flow.reserved is not None:
            held.sums = flow.reserved.sums
        return held

    def settle(
        self, shared: Shared, plan: LimitPlan, actual: tuple[int, ...], *, used: bool
    ) -> None:
        """End a call that was not accepted. ``used``: it may have been, as its status is
        not known.
        """
        flow, sender = self._flow, self._flow.context.stranger
        if used and sender is not None and shared.accepted.get(sender) is not None:
            # Another call with this credential was accepted meanwhile.
            held = self.join(shared)
            if held is not None:
                shared.store.settle(held, actual)
                return
        costs = actual
        if not used and (flow.status in _REFUSED or flow.outcome == "client_closed"):
            costs = refused_costs(plan, actual)
        found, reserved = self._plan, self.reserved or flow.reserved
        if found is not None:
            costs = found.own_costs(costs)
        if reserved is not None and reserved.admitted:
            shared.store.settle(reserved, costs)
        elif flow.outcome != "refused":
            # Observe mode let it pass although a limit had no room.
            shared.store.charge(found or plan, costs)


def reserve(flow: Flow, shared: Shared, done: Callable[[Reserved], None]) -> None:
    """Reserve what the flow asks of its plan, as a stranger unless its credential is known
    to this worker.
    """
    plan, sender = flow.plan, flow.context.stranger
    assert plan is not None
    if sender is None or shared.accepted.get(sender) is not None:
        if flow.stranger is not None:  # accepted since it was asked for less
            flow.end_stranger(None)
        shared.store.reserve(plan, flow.costs, done, flow.least)
        return
    stranger = Stranger(flow)
    flow.set_stranger(stranger)
    stranger.reserve(shared, plan, done)


def take_status(flow: Flow, shared: Shared, status: int) -> None:
    """Join the other clients if the upstream accepts the credential. If it refuses it,
    suspect the address. ``status``: of a known credential, 401.
    """
    stranger, context = flow.stranger, flow.context
    if stranger is None:
        if context.stranger is not None:
            shared.accepted.pop(context.stranger)  # revoked
        return
    if not (status in _OK or status == _UPGRADED):
        if status in _REFUSED:
            shared.suspects.put(_origin(flow), shared.now() + SUSPECT_S)
        return
    flow.end_stranger(stranger.join(shared), unproven=status == _UPGRADED)
    # Some upstreams serve lists of models to everybody, and upgrade everybody.
    metered = context.buffer_limit > 0 and context.billable
    if context.stranger is not None and metered and status in _OK:
        shared.accepted.put(context.stranger, True)
        shared.suspects.pop(_origin(flow))


def is_suspect(flow: Flow, shared: Shared) -> bool:
    """Whether an invalid credential has come from the client's address lately."""
    until = shared.suspects.get(_origin(flow))
    return until is not None and until > shared.now()


def _origin(flow: Flow) -> str:
    """The address, of an IPv6 client its /48."""
    context = flow.context
    return site_of(context.address) or context.client_ip


def start_wait(shared: Shared) -> bool:
    """Count one more call that waits for its status; False: there are too many."""
    if shared.status_waits >= MAX_STATUS_WAITS:
        shared.status_waits_refused += 1
        return False
    shared.status_waits += 1
    return True


def end_wait(shared: Shared) -> None:
    """Count a wait as ended."""
    shared.status_waits -= 1

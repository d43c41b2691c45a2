"""Step 2: refuse from the head alone, before a body is read or the store is asked."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.core.refusal import Refusal
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared


def check_head(flow: Flow, shared: Shared) -> Refusal | None:
    """Refuse for a block of the client, an error that the head alone shows (no route,
    no valid credential, a loop), or a limit in the over-limit cache, in this order.
    """
    context = flow.context
    gate, identity = shared.gate, context.identity
    if gate.fast_path:
        return context.refusal
    epoch = shared.epoch + perf_counter()
    if identity is None:
        block = gate.find_anonymous_block(context.client_ip, context.address, epoch)
    else:
        block = gate.find_head_block(identity, epoch)
    if block is not None:
        return flow.blocked_by(block)
    if identity is None or context.refusal is not None:
        return context.refusal
    if not gate.over_limit_cells:
        return None
    plan = shared.tables.plans.head_plan(identity, shared.store.now_us() / 1e6)
    billable = context.buffer_limit > 0 and context.billable
    return gate.check_head(plan, shared.now(), billable=billable)

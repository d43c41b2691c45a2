"""Step 2: refuse from the head alone, before a body is read or the store is asked."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.refusal import Refusal

if TYPE_CHECKING:
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared


# Browsers send none, and it would reach the upstream without a credential.
PREFLIGHT_BODY = Refusal(400, "invalid_request", "A CORS preflight has no body.")


def check_head(flow: Flow, shared: Shared) -> Refusal | None:
    """Refuse for a block of the client, an error that the head alone shows (no route,
    no valid credential, a loop), or a limit in the over-limit cache, in this order.
    """
    context = flow.context
    gate, identity = shared.gate, context.identity
    if context.preflight and (flow.content_length or flow.head.chunked):
        return PREFLIGHT_BODY
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

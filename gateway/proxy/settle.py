"""Steps 8 and 9: what an exchange cost, and the record of it."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from gateway.core.model import (
    CLOSED,
    NANOS_PER_USD,
    OPENED,
    WHOLE,
    RequestRecord,
    Usage,
)
from gateway.limits.admission import actual_costs
from gateway.metering.usage import weigh

if TYPE_CHECKING:
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# Actions of observe mode that the record shows as ``action``; "clamp" is none.
DECIDED = frozenset({"tag", "throttle", "limit", "block"})

_encode = msgspec.msgpack.Encoder().encode


def settle(flow: Flow, shared: Shared, usage: Usage) -> int | None:
    """Settle the reservation with the actual costs, and let the estimators learn.

    Returns the price in nano-dollars, by the prices in force when the exchange began;
    None for a model without a price. Runs once per exchange, except one refused from
    its head. Without usage (an error, or nothing was sent) all but the request itself is
    given back.
    """
    facts, identity = flow.facts, flow.identity
    if facts is None or identity is None:
        return 0
    used = usage.source != "none"
    price: int | None = 0
    if used:
        prices = flow.context.prices
        price = None if prices is None else prices.cost_nanos(facts.model, usage)
        if usage.source == "upstream":
            shared.estimator.learn(facts.model, facts, usage.prompt)
        shared.expectation.learn(identity.key, usage.completion)
    plan, reserved = flow.plan, flow.reserved
    if plan is not None and reserved is not None:
        weights = identity.policy.weights
        tokens = weigh(usage, weights) if weights and used else usage.total
        actual = actual_costs(plan, usage, tokens, price or 0, failed=not used)
        if reserved.admitted:
            shared.store.settle(reserved, actual)
        elif flow.outcome != "refused":
            # Observe mode let it pass although a limit had no room: it counts.
            shared.store.charge(plan, actual)
    return price


def record_opened(flow: Flow, shared: Shared) -> None:
    """Record an exchange that is still running. Only detection reads such records."""
    record(flow, shared, Usage(), 0, perf_counter(), phase=OPENED)


def record(
    flow: Flow,
    shared: Shared,
    usage: Usage,
    nanos: int,
    ended_at: float,
    *,
    phase: int = WHOLE,
) -> None:
    """Write the record of an exchange, or (``phase`` OPENED) of one that still runs.

    ``ended_at``: seconds of ``perf_counter``; ``nanos``: the price in nano-dollars.
    """
    context, facts, head = flow.context, flow.facts, flow.head
    identity, match = flow.identity, context.match
    opened_at, first_byte_at = flow.opened_at, flow.first_byte_at
    status, outcome = flow.status, flow.outcome
    if outcome == "client_closed" and not status:
        status = 499
    # Until the request was sent, without waits for its body and the throttle's delay.
    check_s = overhead_s = (flow.sent_at or ended_at) - opened_at - flow.client_wait_s
    if first_byte_at:
        # From the answer's end to its record; counting tokens is part of it.
        overhead_s += perf_counter() - ended_at
    verdict, fingerprint = flow.verdict, flow.fingerprint
    action = flow.unenforced if flow.unenforced in DECIDED else flow.action
    # By position, in the order of the struct: by name it costs ten times as much.
    _write(
        shared,
        RequestRecord(
            shared.epoch + opened_at,
            flow.request_id.decode("latin-1"),
            "" if identity is None else identity.tenant.name,
            "anonymous" if identity is None else identity.user,
            context.client_ip,
            head.method,
            head.path,
            "other" if match is None else match.endpoint,
            "" if facts is None else facts.model,
            False if facts is None else facts.stream,
            status,
            usage.prompt,
            usage.completion,
            usage.total,
            usage.cached,
            usage.reasoning,
            usage.source,
            nanos / NANOS_PER_USD,
            (ended_at - opened_at) * 1e3,
            (first_byte_at - opened_at) * 1e3 if first_byte_at else None,
            max(overhead_s, 0.0) * 1e3,
            # In observe mode the action that was decided, though not carried out.
            action,  # type: ignore[arg-type]
            flow.limit_name,
            verdict.score,
            verdict.cls,
            verdict.reasons,
            None if fingerprint is None else f"{fingerprint:016x}",
            outcome,
            "" if context.route is None else context.route.name,
            check_s * 1e6,
            flow.score_s * 1e6,
            flow.store_s * 1e6,
            flow.unenforced,
            flow.unpriced,
            nanos,
            CLOSED if flow.opening_recorded and phase == WHOLE else phase,
            flow.user_unread,
            flow.trace,
        ),
    )


def _write(shared: Shared, record: RequestRecord) -> None:
    """Append the record to the ring; count it as dropped if the ring is full."""
    try:
        payload = _encode(record)
    except UnicodeEncodeError:
        # A model's name may hold half a surrogate pair: JSON allows it.
        payload = _encode(_printable(record))
    if not shared.append_record(payload):
        shared.dropped_records += 1


def _printable(record: RequestRecord) -> RequestRecord:
    texts = {
        name: value.encode("utf-8", "replace").decode()
        for name in RequestRecord.__struct_fields__
        if isinstance(value := getattr(record, name), str)
    }
    return msgspec.structs.replace(record, **texts)

"""Steps 8 and 9: what an exchange cost, and the record of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from gateway.proxy.exchange import Exchange

# What observe mode notes of a decision that was not carried out.
DECIDED = frozenset({"tag", "throttle", "limit", "block"})


def settle(exchange: Exchange, usage: Usage) -> int:
    """Hand the true costs to the store, learn from them; nano-dollars of the usage.

    Runs once for each exchange that was admitted. Without tokens (an error, or nothing
    sent) everything but the request itself goes back.
    """
    service = exchange.service
    facts, identity = exchange.facts, exchange.identity
    if facts is None or identity is None:
        return 0
    nanos = 0
    if usage.source != "none":
        nanos = service.price(exchange, facts, usage)
        service.learn(exchange, facts, usage)
    plan, reserved = exchange.plan, exchange.reserved
    if plan is not None and reserved is not None:
        failed = usage.source == "none"
        weights = identity.policy.weights
        tokens = weigh(usage, weights) if weights and not failed else usage.total
        actual = actual_costs(plan, usage, tokens, nanos, failed=failed)
        if reserved.admitted:
            service.store.settle(reserved, actual)
        elif exchange.outcome != "refused":
            # Observe mode let it pass although a limit had no room: it counts.
            service.store.charge(plan, actual)
    return nanos


def announce(exchange: Exchange) -> None:
    """A record of an exchange that goes on: who asked what. Only detection reads it."""
    record(exchange, Usage(), 0, exchange.service.clock(), phase=OPENED)


def record(
    exchange: Exchange,
    usage: Usage,
    nanos: int,
    ended_at: float,
    phase: int = WHOLE,
) -> None:
    """Put the record into the ring; ``ended_at`` on the perf_counter clock."""
    service = exchange.service
    prepared, facts = exchange.prepared, exchange.facts
    identity, match, head = exchange.identity, prepared.match, exchange.head
    began = exchange.opened_at
    first_at, sent_at = exchange.first_at, exchange.sent_at
    status = exchange.status
    outcome = exchange.outcome
    if outcome == "client_closed" and not status:
        status = 499
    overhead = (sent_at or ended_at) - began - exchange.waited_s
    if first_at:
        overhead += service.clock() - ended_at
    verdict, print_ = exchange.verdict, exchange.fingerprint
    action = exchange.would if exchange.would in DECIDED else exchange.action
    # By position, in the order of the struct: by name it costs ten times as much.
    service.write_record(
        RequestRecord(
            service.epoch + began,
            exchange.request_id.decode("latin-1"),
            "" if identity is None else identity.tenant.name,
            "anonymous" if identity is None else identity.user,
            prepared.client_ip,
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
            (ended_at - began) * 1e3,
            (first_at - began) * 1e3 if first_at else None,
            max(overhead, 0.0) * 1e3,
            # In observe mode the decision stands here, though it was not carried out.
            action,  # type: ignore[arg-type]
            exchange.limit_name,
            verdict.score,
            verdict.cls,
            verdict.reasons,
            None if print_ is None else f"{print_:016x}",
            outcome,
            "" if prepared.route is None else prepared.route.name,
            ((sent_at or ended_at) - began - exchange.waited_s) * 1e6,  # check
            exchange.score_s * 1e6,
            exchange.store_s * 1e6,
            exchange.would,
            exchange.unpriced,
            nanos,
            CLOSED if exchange.announced and phase == WHOLE else phase,
            exchange.unnamed,
            exchange.trace,
        )
    )

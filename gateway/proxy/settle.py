"""Steps 8 and 9: what an exchange cost, and the record of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.admission import actual_costs
from gateway.core.model import RequestRecord, Usage
from gateway.core.usage import weigh

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

NANOS = 1e9
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
        nanos = service.price(exchange, usage)
        service.learn(exchange, facts, usage)
    plan, reserved = exchange.plan, exchange.reserved
    if plan is not None and reserved is not None:
        failed = usage.source == "none"
        tokens = 0 if failed else weigh(usage, identity.policy.weights)
        actual = actual_costs(plan, usage, tokens, nanos, failed=failed)
        if reserved.admitted:
            service.store.settle(reserved, actual)
        elif exchange.action != "limit":
            # Observe mode let it pass although a limit had no room: it counts.
            service.store.charge(plan, actual)
    return nanos


def record(exchange: Exchange, usage: Usage, nanos: int, ended_at: float) -> None:
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
    service.write_record(
        RequestRecord(
            ts=service.epoch + began,
            request_id=exchange.request_id.decode("latin-1"),
            tenant="" if identity is None else identity.tenant.name,
            user="anonymous" if identity is None else identity.user,
            client_ip=service.client_ip(exchange),
            method=head.method,
            path=head.path,
            endpoint="other" if match is None else match.endpoint,
            model="" if facts is None else facts.model,
            stream=False if facts is None else facts.stream,
            status=status,
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            total_tokens=usage.total,
            cached_tokens=usage.cached,
            reasoning_tokens=usage.reasoning,
            usage_source=usage.source,
            usd=nanos / NANOS,  # a division rounds right
            duration_ms=(ended_at - began) * 1e3,
            ttfb_ms=(first_at - began) * 1e3 if first_at else None,
            overhead_ms=max(overhead, 0.0) * 1e3,
            # In observe mode the decision stands here, though it was not carried out.
            action=exchange.would if exchange.would in DECIDED else exchange.action,  # type: ignore[arg-type]
            limit=exchange.limit_name,
            score=0.0,
            cls=None,
            reasons=(),
            fingerprint=None,
            outcome=outcome,
            upstream="" if prepared.route is None else prepared.route.name,
            check_us=((sent_at or ended_at) - began - exchange.waited_s) * 1e6,
            store_us=exchange.store_s * 1e6,
            would=exchange.would,
            unpriced=exchange.unpriced,
            usd_nanos=nanos,
        )
    )

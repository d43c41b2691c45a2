"""Steps 8 and 9: what an exchange cost, and the record of it.

No error leaves ``conclude`` and ``record``: an exchange always ends, once.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.model import (
    CLOSED,
    NANOS_PER_USD,
    OPENED,
    WHOLE,
    Metering,
    PriceSource,
    RequestRecord,
    Usage,
)
from gateway.limits.admission import actual_costs, count_requests
from gateway.limits.joint import without_foreign
from gateway.metering.models import hides_reasoning
from gateway.metering.usage import TEXTLESS, weigh
from gateway.proxy.caps import assumed_price
from gateway.proxy.fallbacks import foreign_cells, quote_all

if TYPE_CHECKING:
    from gateway.core.model import RequestFacts
    from gateway.identity.identify import Identity
    from gateway.limits.pending import PendingWork
    from gateway.metering.prices import PriceTable
    from gateway.proxy.flow import EndedWork, Flow
    from gateway.proxy.shared import Shared

# Actions of observe mode that the record shows as ``action``; "clamp" is none.
DECIDED = frozenset({"tag", "throttle", "limit", "block"})


class SettledSession(Protocol):
    """A WebSocket session that has settled its answers (``session.LiveSession``)."""

    total: Usage
    nanos: int

    def finish(self) -> bool:
        """Settle the rest. True: some answer had no price."""


# The highest price of an exchange: the store counts exactly up to here.
MAX_NANOS = 1 << 53
# Integers that a record can hold.
_LEAST_INT, _MOST_INT = -(1 << 63), (1 << 63) - 1
_METHODS_WITH_WORK = frozenset({"POST", "PUT", "PATCH"})
_ANSWERED = range(200, 300)
_NO_USAGE = Usage()
_COUNTED = frozenset({"counted", "estimated"})
# Outcomes of answers that the client or the gateway ended, not the upstream.
_CUT_HERE = frozenset({"client_closed", "refused"})

_encode = msgspec.msgpack.Encoder().encode


def conclude(flow: Flow, shared: Shared, usage: Usage, ended_at: float) -> None:
    """Settle and record; runs once per exchange, except one refused from its head."""
    nanos: int | None = 0
    try:
        if usage.source in _COUNTED:
            usage = at_least_reserved(flow, usage)
        if flow.ended is None:
            nanos = settle(flow, shared, usage)
        else:
            nanos = settle_ended(flow, shared, flow.ended, usage)
    except Exception as error:  # noqa: BLE001
        # The store keeps what was reserved, or gets the same again.
        shared.report_fault("settle", error)
        flow.note_metering("failed")
        usage = reserved_usage(flow)
        keep_reserved(flow, shared)
    if not nanos:
        if nanos is None:
            flow.note_metering("unpriced")
        nanos = 0
        note_unmetered(flow, usage)
    record(flow, shared, usage, nanos, ended_at)


def conclude_session(
    flow: Flow, shared: Shared, session: SettledSession, ended_at: float
) -> None:
    """Settle and record a WebSocket session."""
    try:
        if session.finish():
            flow.note_metering("unpriced")
    except Exception as error:  # noqa: BLE001
        shared.report_fault("settle", error)
        flow.note_metering("failed")
        keep_reserved(flow, shared)
    if not session.nanos:
        note_unmetered(flow, session.total)
    record(flow, shared, session.total, session.nanos, ended_at)


def note_unmetered(flow: Flow, usage: Usage) -> None:
    """Note an answer that has no price, nor tokens although it may have cost some."""
    if usage.source == "none" and is_unmetered(flow):
        flow.note_metering("unmetered")


def metering_failed(flow: Flow, shared: Shared, error: Exception) -> Usage:
    """Report a fault of the gateway; the usage to charge instead."""
    shared.report_fault("meter", error)
    flow.note_metering("failed")
    return reserved_usage(flow)


def reserved_usage(flow: Flow) -> Usage:
    """The usage that the reservation assumed, where the answer's cannot be known."""
    prompt, completion = flow.prompt_estimate, 0
    if flow.plan is not None:
        for cell, cost in zip(flow.plan.cells, flow.costs, strict=False):
            if cell.limit.meter == "tokens":
                completion = max(completion, cost - prompt)
            elif cell.limit.meter == "completion_tokens":
                completion = max(completion, cost)
    return Usage(prompt, completion, prompt + completion, source="estimated")


def at_least_reserved(flow: Flow, usage: Usage) -> Usage:
    """The usage of an answer that the provider did not state, and that may have more than
    was seen: the client did not read it to its end, it was cut, or its model reasons
    unseen. It costs at least what it reserved.
    """
    if flow.cut and flow.outcome in _CUT_HERE:
        why: Metering = "cut"
    elif flow.metering == "unread":
        why = "unread"
    elif _reasons(flow, usage):
        why = "hidden"
        flow.note_metering(why)
    else:
        return usage
    most = flow.most_completion
    if usage.completion >= most:
        return usage
    flow.note_metering(why)
    return replace(
        usage, completion=most, total=usage.prompt + most, source="estimated"
    )


def _reasons(flow: Flow, usage: Usage) -> bool:
    """Whether the model of an answer may have generated more than its text."""
    facts = flow.facts
    if facts is None or flow.endpoint in TEXTLESS:
        return False
    return hides_reasoning(facts.model) or hides_reasoning(usage.model)


def keep_reserved(flow: Flow, shared: Shared) -> None:
    """End the reservation at what it reserved."""
    reserved, flow_costs = flow.reserved, flow.costs
    if reserved is None or not reserved.admitted:
        return
    try:
        if flow.stranger is not None and flow.plan is not None:
            flow.stranger.settle(shared, flow.plan, flow_costs, used=True)
        else:
            shared.store.settle(reserved, flow_costs)
    except Exception as error:  # noqa: BLE001
        shared.report_fault("release", error)


def is_unmetered(flow: Flow) -> bool:
    """Whether an answer without tokens and price may have cost something."""
    match = flow.context.match
    if flow.outcome == "upstream_error" or (match is not None and not match.billable):
        return False
    if flow.ended or (match is not None and match.polled and not match.metered):
        return False
    if flow.status == 101:  # a tunnel
        return flow.endpoint == "other"
    return flow.status in _ANSWERED and flow.head.method in _METHODS_WITH_WORK


def settle(flow: Flow, shared: Shared, usage: Usage) -> int | None:
    """Settle the reservation with the actual costs, and let the estimators learn.

    Returns the price in nano-dollars, by the prices in force when the exchange began;
    None for a model without a price. Without usage (an error, or nothing was sent) all
    but the request itself is given back.
    """
    facts, identity = flow.facts, flow.identity
    if facts is None or identity is None:
        return 0
    used = usage.source != "none"
    price: int | None = 0
    if used:
        if facts.units:
            usage = _with_search(facts, usage)
        price = _price(flow, shared, facts.model, usage, facts)
        if usage.source == "upstream" and not (
            usage.batch or facts.models or usage.tools
        ):
            tenant = identity.tenant.name
            shared.estimator.learn(tenant, facts.model, facts, usage.prompt)
            if facts.outside:
                shared.outside.learn(identity.key, usage.prompt)
        if not (flow.cut or usage.batch):
            shared.expectation.learn(identity.key, usage.completion)
    plan, reserved = flow.plan, flow.reserved
    if plan is not None and reserved is not None:
        weights = identity.policy.weights
        tokens = weigh(usage, weights) if weights and used else usage.total
        charged = price or _assumed_price(flow, price, used=used)
        spent = used or charged > 0
        actual = actual_costs(plan, usage, tokens, charged, failed=not spent)
        if usage.batch:
            actual = count_requests(plan, actual, len(facts.parts))
        if flow.choices:
            actual = without_foreign(plan, actual, foreign_cells(flow, usage))
        growth = flow.end_growth()
        if growth is not None:
            actual = growth.settle(actual)
        if flow.stranger is not None:
            flow.stranger.settle(shared, plan, actual, used=spent)
        elif reserved.admitted:
            shared.store.settle(reserved, actual)
        elif flow.outcome != "refused":
            # Observe mode let it pass although a limit had no room: it counts.
            shared.store.charge(plan, actual)
    return price


def _assumed_price(flow: Flow, price: int | None, *, used: bool) -> int:
    """What accepted work without a usage or a price counts against limits in money."""
    facts, identity = flow.facts, flow.identity
    known = used and price is not None and not flow.unpriced
    accepted = flow.status in _ANSWERED and flow.context.buffer_limit > 0
    if known or not accepted or flow.metering == "pending":
        return 0
    if facts is None or identity is None:
        return 0
    return assumed_price(identity.policy, facts)


def settle_ended(
    flow: Flow, shared: Shared, ended: EndedWork, usage: Usage
) -> int | None:
    """Settle work of earlier calls, whose end this one shows; return its price.

    The first one states the usage of those that went on with it; others of the same id
    stay as they are reserved. The call itself costs nothing.
    """
    settle(flow, shared, _NO_USAGE)
    price: int | None = 0
    if usage.source != "none":
        price = _price(flow, shared, ended.works[0].model, usage)
    for place, work in enumerate(ended.works):
        actual = work.costs
        if ended.known and not place:
            actual = work.actual(usage, price or 0)
        elif ended.known and work.continues:
            actual = work.actual(_NO_USAGE, 0)
        held = shared.store.works.resume(work.plan, work.costs, work.at_us)
        shared.store.settle(held, actual)
    return price


def _with_search(facts: RequestFacts, usage: Usage) -> Usage:
    """The usage with the web search of a model that makes one for every answer."""
    unit = "web_searches"
    if facts.units[0][0] != unit or unit in dict(usage.units):
        return usage
    return replace(usage, units=(*usage.units, *facts.units))


def _price(
    flow: Flow,
    shared: Shared,
    model: str,
    usage: Usage,
    facts: RequestFacts | None = None,
) -> int | None:
    """In nano-dollars; None for a model without a price. ``facts``: of a request that
    several models may have answered.
    """
    prices = flow.context.prices
    if prices is None:
        return None
    at = shared.epoch + flow.opened_at
    if facts is not None and facts.models:
        quote = quote_all(prices, facts, usage, at)
    else:
        quote = prices.quote(model, usage, at, answered=usage.model)
        if quote[0] is None and facts is not None and facts.body_model:
            # An unknown deployment, whose answer names no model (pictures, speech).
            quote = prices.quote(facts.body_model, usage, at)
    flow.note_price(quote)
    price = quote[0]
    return price if price is None or price < MAX_NANOS else MAX_NANOS


def record_work(shared: Shared, prices: PriceTable | None, work: PendingWork) -> None:
    """Record work of an earlier call that stays charged as reserved, as nobody has seen
    its end.
    """
    usage = work.usage
    now = perf_counter()
    nanos = 0
    source: PriceSource = ""
    if prices is not None:
        at = shared.epoch + now
        quote = prices.quote(work.model, usage, at, answered=usage.model)
        nanos, source = min(quote[0] or 0, MAX_NANOS), quote[1]
    record = RequestRecord(
        ts=shared.epoch + now,
        request_id=work.request_id,
        tenant=work.tenant,
        user=work.user,
        client_ip=work.client_ip,
        method="POST",
        path=work.path,
        endpoint=work.endpoint,
        model=work.model,
        stream=False,
        status=200,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        total_tokens=usage.total,
        cached_tokens=0,
        reasoning_tokens=0,
        usage_source=usage.source,
        usd=nanos / NANOS_PER_USD,
        duration_ms=0.0,
        ttfb_ms=None,
        overhead_ms=0.0,
        action="allow",
        limit=None,
        score=0.0,
        cls=None,
        reasons=(),
        fingerprint=None,
        outcome="ok",
        usd_nanos=nanos,
        metering="reserved",
        price_source=source,
    )
    _write(shared, record)


def record_opened(flow: Flow, shared: Shared) -> None:
    """Record a running exchange, once: detection cannot wait for a long answer, and only
    detection reads such records.
    """
    identity = flow.identity
    # Not sent yet: its prompt may be missing, so a later call records it.
    if flow.opening_recorded or not flow.sent_at or identity is None:
        return
    if not identity.policy.anomaly.enabled:
        return
    flow.note_opening()
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
    try:
        made = _record_of(flow, shared, usage, nanos, ended_at, phase=phase)
        if flow.ended is not None:
            # Paid by who asked for the work, whoever fetches it.
            work = flow.ended.works[0]
            made = replace(made, user=work.user, client_ip=work.client_ip)
        _write(shared, made)
    except Exception as error:  # noqa: BLE001
        shared.report_fault("record", error)
        shared.dropped_records += 1


def _record_of(
    flow: Flow, shared: Shared, usage: Usage, nanos: int, ended_at: float, *, phase: int
) -> RequestRecord:
    context, facts, head, identity = flow.context, flow.facts, flow.head, flow.identity
    opened_at, first_byte_at = flow.opened_at, flow.first_byte_at
    status = flow.status or (499 if flow.outcome == "client_closed" else 0)
    # Until the request was sent, without waits for its body and the throttle's delay.
    check_s = overhead_s = (flow.sent_at or ended_at) - opened_at - flow.client_wait_s
    if first_byte_at:
        # From the answer's end to its record; counting tokens is part of it.
        overhead_s += perf_counter() - ended_at
    verdict, fingerprint = flow.verdict, flow.fingerprint
    tenant, user, key_name, tags = _sender(identity)
    action = flow.unenforced if flow.unenforced in DECIDED else flow.action
    # By position, in the order of the struct: by name it costs ten times as much.
    return RequestRecord(
        shared.epoch + opened_at,
        flow.request_id.decode("latin-1"),
        tenant,
        user,
        context.client_ip,
        head.method,
        head.path,
        "other" if context.match is None else context.match.endpoint,
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
        flow.outcome,
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
        flow.metering,
        flow.price_source,
        key_name,
        tags,
    )


def _sender(identity: Identity | None) -> tuple[str, str, str, tuple[str, ...]]:
    """Tenant, user, and name and tags of the key, as records show them."""
    if identity is None:
        return "", "anonymous", "", ()
    return identity.tenant.name, identity.user, identity.key_name, identity.tags


def _write(shared: Shared, record: RequestRecord) -> None:
    """Append the record to the ring; count it as dropped if the ring is full."""
    try:
        payload = _encode(record)
    except (UnicodeEncodeError, OverflowError):
        # A model's name may hold half a surrogate pair (JSON allows it); a count may
        # exceed 64 bits.
        payload = _encode(_writable(record))
    if not shared.append_record(payload):
        shared.dropped_records += 1


def _writable(record: RequestRecord) -> RequestRecord:
    fields: dict[str, str | int] = {}
    for name in RequestRecord.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str):
            fields[name] = value.encode("utf-8", "replace").decode()
        elif type(value) is int:
            fields[name] = min(max(value, _LEAST_INT), _MOST_INT)
    return msgspec.structs.replace(record, **fields)

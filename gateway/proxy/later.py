"""Work that is accepted now and paid later: its reservation stays until its end is seen.

The answer that accepts such work (a background response, a run, a batch) states no usage.
A note of what is reserved is kept in the store, under the work's id. The first call that
shows its end takes the note and settles it, whichever worker gets that call; later ones
find no note and count nothing. Only the upstream's answer decides what is settled.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

from msgspec.structs import replace

from gateway.core.model import Usage
from gateway.limits.pending import (
    SCHEMA,
    PendingWork,
    pack_work,
    pending_cells,
    unpack_work,
)
from gateway.limits.plans import tenant_tag
from gateway.metering.dialects.works import (
    DONE,
    FAILED_WORK,
    PENDING,
    STOPPED,
    WorkState,
    asks_for_part,
)
from gateway.metering.usage import weigh_most
from gateway.proxy.caps import assumed_cap, assumed_price
from gateway.proxy.fallbacks import dearest_model, most_nanos
from gateway.proxy.flow import EndedWork
from gateway.proxy.settle import record_work
from gateway.proxy.steps.reserve import UNSEEN, assumed_completion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.core.model import RequestFacts
    from gateway.identity.identify import Identity
    from gateway.limits.ports import WorkAnswer
    from gateway.metering.dialects import CountTask
    from gateway.metering.dialects.works import WorkReader
    from gateway.metering.prices import PriceTable
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# Tenants whose late work a worker asks for.
MOST_TENANTS = 1000
_NO_USAGE = Usage()
_ACCEPTED = range(200, 300)
PARTIAL = 206
# Kinds of work that state no usage before their end.
_STATED_AT_END = frozenset({"response", "interaction"})


class PaidLater:
    """An exchange that ends when the store has kept or found a note.

    ``usage``: what the answer states; None: nothing, though the work has ended.
    ``keep``: the note to keep; ``held``: what its call holds, by cell of its plan.
    """

    __slots__ = ("_end", "_flow", "_held", "_keep", "_shared", "_work", "usage")

    def __init__(
        self,
        flow: Flow,
        work: bytes,
        usage: Usage | None,
        *,
        keep: PendingWork | None = None,
        held: tuple[int, ...] = (),
    ) -> None:
        self._flow = flow
        self._work = work
        self._keep = keep
        self._held = held
        self.usage = usage

    def begin(self, shared: Shared, end: Callable[[Usage], None]) -> None:
        """Ask the store; ``end`` gets the usage to settle, once."""
        self._shared, self._end = shared, end
        identity = self._flow.identity
        assert identity is not None
        tag, works = tenant_tag(identity.tenant.name), shared.store.works
        if self._keep is None:
            works.take(tag, self._work, self._on_taken)
        else:
            if len(shared.work_tenants) < MOST_TENANTS:
                shared.work_tenants[tag] = self._flow.context.prices
            works.keep(tag, self._work, pack_work(self._keep), self._on_kept)

    def _on_kept(self, answer: WorkAnswer) -> None:
        flow, shared, work = self._flow, self._shared, self._keep
        assert work is not None
        usage = _NO_USAGE
        try:
            if answer.notes:
                shared.works_accepted += 1
                flow.note_metering("pending")
                _let_reservation_stay(flow, shared, self._held)
            else:
                # No room, or the store is away: it stays charged as reserved.
                shared.works_reserved += 1
                flow.note_metering("reserved")
                usage = work.usage
            _report_dropped(shared, flow.context.prices, answer.dropped)
        except Exception as error:  # noqa: BLE001
            shared.report_fault("work", error)
        self._end(usage)

    def _on_taken(self, answer: WorkAnswer) -> None:
        flow, shared = self._flow, self._shared
        usage = _NO_USAGE
        try:
            works = [work for note in answer.notes if (work := unpack_work(note))]
            if works:
                shared.works_settled += 1
                usage = _end_of(flow, shared, works, self.usage)
            elif flow.context.buffer_limit and self.usage is not None:
                usage = self.usage  # it went on with work that is not known here
            _report_dropped(shared, flow.context.prices, answer.dropped)
        except Exception as error:  # noqa: BLE001
            shared.report_fault("work", error)
        self._end(usage)


def paid_later(
    flow: Flow,
    shared: Shared,
    reader: WorkReader,
    usage: Usage | CountTask,
) -> PaidLater | Usage | CountTask:
    """What to settle an exchange at whose answer may be about work that is paid later."""
    match, facts, identity = flow.context.match, flow.facts, flow.identity
    if match is None or facts is None or identity is None:
        return usage
    ended = match.work in _STATED_AT_END and _is_stated(usage) and usage.total > 0
    if ended and not match.polled:
        return usage
    state = reader.state() if flow.status in _ACCEPTED else None
    stated = _is_stated(usage)
    if state is not None and ended and reader.events:
        state = WorkState(state.id, DONE)  # its last event was too large to be read
    if match.polled:
        if state is None and stated:
            state = WorkState(match.polled, DONE)
        found = _seen(flow, state, usage if stated else None)
        if found is not None:
            return found
        if not match.metered:
            return _NO_USAGE  # a poll costs nothing itself
    if state is None or state.state != PENDING:
        return usage
    assumed = _assumed(flow, shared, facts, identity, usage)
    held = _held_costs(flow, shared, facts, assumed)
    keep = _pending_work(flow, shared, identity, assumed, held)
    return PaidLater(flow, _work_id(flow, state.id), None, keep=keep, held=held)


def is_poll(flow: Flow) -> bool:
    """Whether the call only asks for the state of work."""
    match = flow.context.match
    return match is not None and bool(match.polled) and not match.metered


def _is_stated(usage: Usage | CountTask) -> TypeGuard[Usage]:
    return isinstance(usage, Usage) and usage.source == "upstream"


def _seen(
    flow: Flow, state: WorkState | None, usage: Usage | CountTask | None
) -> PaidLater | None:
    """The end of work, if the answer shows it; None: it goes on, or what it costs is not
    known yet.
    """
    match = flow.context.match
    assert match is not None
    if state is None or state.state == PENDING:
        return None
    head = flow.head
    if asks_for_part(match.work, head.query) or flow.status == PARTIAL:
        return None
    stated = usage if isinstance(usage, Usage) else None
    if stated is None and state.state == FAILED_WORK:
        stated = _NO_USAGE
    if stated is None and state.state != STOPPED:
        return None
    if stated is not None and state.answers > 1:
        stated = replace(stated, answers=state.answers)
    return PaidLater(flow, _work_id(flow, state.id), stated)


def _work_id(flow: Flow, id_: str) -> bytes:
    """Of an upstream and a kind of work: other ids may be equal."""
    match, route = flow.context.match, flow.context.route
    kind = "" if match is None else match.work
    named = f"{'' if route is None else route.name}\0{kind}\0{id_}"
    raw = named.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=16).hexdigest().encode()


def _assumed(
    flow: Flow,
    shared: Shared,
    facts: RequestFacts,
    identity: Identity,
    usage: Usage | CountTask,
) -> Usage:
    """What the work is assumed to use."""
    if isinstance(usage, Usage) and usage.source == "estimated":
        return usage
    prompt = flow.prompt_estimate
    if not prompt:
        prompt = shared.estimator.estimate(identity.tenant.name, facts.model, facts)
    assumed = assumed_cap(identity.policy, facts)
    most, _, capped = shared.expectation.bounds(identity.key, facts, assumed)
    if most and not capped:
        most = max(most, UNSEEN * assumed)
    if assumed_price(identity.policy, facts):
        most = assumed_completion(identity.policy, facts)
    return Usage(prompt, most, prompt + most, source="estimated")


def _held_costs(
    flow: Flow, shared: Shared, facts: RequestFacts, assumed: Usage
) -> tuple[int, ...]:
    """What the call holds of its plan's cells. At the edge of a limit, where it has
    reserved little because one such call at a time may run: all that it may use, since
    it goes on when the edge is free again.
    """
    plan, reserved, identity = flow.plan, flow.reserved, flow.identity
    if plan is None or reserved is None or identity is None:
        return ()
    if not reserved.admitted:  # observe mode: only the request was counted
        return plan.pick((1, 0, 0, 0, 0))
    held = flow.held_costs()
    if not plan.edges:
        return held
    prompt, completion, prices = assumed.prompt, assumed.completion, flow.context.prices
    nanos = 0
    if prices is not None:
        at = shared.epoch + flow.opened_at
        nanos = most_nanos(prices, facts, assumed, at)
    tokens = weigh_most(prompt, completion, identity.policy.weights)
    most = plan.pick((1, tokens, prompt, completion, nanos))
    return tuple(map(max, held, most))


def _pending_work(
    flow: Flow,
    shared: Shared,
    identity: Identity,
    assumed: Usage,
    held: tuple[int, ...],
) -> PendingWork:
    """What is reserved for the work of this call."""
    match, facts, reserved = flow.context.match, flow.facts, flow.reserved
    at_us = 0 if reserved is None else reserved.at_us
    prices, at = flow.context.prices, shared.epoch + flow.opened_at
    return PendingWork(
        SCHEMA,
        flow.request_id.decode("latin-1"),
        identity.tenant.name,
        identity.user,
        flow.context.client_ip,
        flow.endpoint,
        flow.head.path,
        "" if facts is None else dearest_model(prices, facts, assumed, at),
        at_us or shared.store.now_us(),
        pending_cells(() if flow.plan is None else flow.plan.cells[: len(held)], held),
        identity.policy.weights,
        assumed.prompt,
        assumed.completion,
        batch=match is not None and match.work.endswith("batch"),
        continues=match is not None and bool(match.polled),
        units=assumed.units,
    )


def _let_reservation_stay(flow: Flow, shared: Shared, held: tuple[int, ...]) -> None:
    """End the call's leases and nothing else of its reservation."""
    growth, reserved, plan = flow.end_growth(), flow.reserved, flow.plan
    if reserved is None or plan is None or not reserved.admitted:
        return
    if growth is None and not plan.edges and shared.store.detach(reserved):
        return
    # It counts as used: the store was away, the call holds an edge, or more was counted.
    shared.store.settle(reserved, held if growth is None else growth.settle(held))


def _end_of(
    flow: Flow, shared: Shared, works: Sequence[PendingWork], stated: Usage | None
) -> Usage:
    """Note the works that this exchange ends; return the usage of all of them."""
    first = works[0]
    flow.set_ended(EndedWork(works, stated is not None))
    if stated is None:
        shared.works_reserved += 1
        flow.note_metering("reserved")
        return first.usage
    if first.batch:
        stated.batch = True
    return stated


def _report_dropped(
    shared: Shared, prices: PriceTable | None, notes: Sequence[bytes]
) -> None:
    """Record work whose end nobody has seen: it stays charged as reserved."""
    for note in notes:
        work = unpack_work(note)
        if work is not None:
            shared.works_reserved += 1
            record_work(shared, prices, work)


def drop_late(shared: Shared) -> None:
    """Ask for work that has waited for too long, of the tenants that this worker knows."""
    for tag, prices in shared.work_tenants.items():
        shared.store.works.take(tag, b"", partial(_on_late, shared, prices))


def _on_late(shared: Shared, prices: PriceTable | None, answer: WorkAnswer) -> None:
    try:
        _report_dropped(shared, prices, answer.dropped)
    except Exception as error:  # noqa: BLE001
        shared.report_fault("work", error)

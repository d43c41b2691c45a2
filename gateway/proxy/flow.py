"""The data of one request, from its head to its record.

Fields are written by the methods here and by ``exchange``, nowhere else
(``tests/unit/test_architecture.py`` checks it): the steps read them and return values.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gateway.core.model import NO_TRACE
from gateway.detect.inline import NOTHING, Verdict
from gateway.limits.edges import (
    missing_edge,
    what_is_left,
    with_edges,
    without_edges,
)
from gateway.limits.gate import BLOCKED

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from gateway.core.model import (
        Block,
        Caps,
        Metering,
        Outcome,
        PriceSource,
        RequestFacts,
    )
    from gateway.core.refusal import Refusal
    from gateway.http.heads import RequestFields
    from gateway.http.tracing import Tracer
    from gateway.identity.identify import Identity
    from gateway.limits.admission import Demand
    from gateway.limits.pending import PendingWork
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved
    from gateway.metering.prices import Quote
    from gateway.proxy.prepare import RequestContext
    from gateway.proxy.shared import Shared


class StreamGrowth(Protocol):
    """What a stream has reserved beyond its first reservation (``overrun.Growth``)."""

    reserved: int

    @property
    def limit_name(self) -> str:
        """The limit that had no room."""
        ...

    @property
    def reason(self) -> str:
        """Why the stream is cut, in words."""
        ...

    def renew(self) -> None:
        """Extend its leases."""
        ...

    def held(self, costs: tuple[int, ...]) -> tuple[int, ...]:
        """What it has reserved beside the first reservation's ``costs``, and these."""
        ...

    def settle(self, actual: tuple[int, ...]) -> tuple[int, ...]:
        """Give back what was reserved; what the first reservation is settled at."""
        ...


class StrangerCall(Protocol):
    """The reservation of a call whose credential is not accepted (``strangers.Stranger``)."""

    reserved: Reserved | None

    def reserve(
        self, shared: Shared, plan: LimitPlan, done: Callable[[Reserved], None]
    ) -> None:
        """Reserve without holding what others share."""
        ...

    def join(self, shared: Shared) -> Reserved | None:
        """Reserve as other clients do; None: that is how it is reserved already."""
        ...

    def settle(
        self, shared: Shared, plan: LimitPlan, actual: tuple[int, ...], *, used: bool
    ) -> None:
        """End a call that was not accepted."""
        ...


class EndedWork(NamedTuple):
    """Notes of one work of earlier calls, and whether its usage is known."""

    works: Sequence[PendingWork]
    known: bool


class WrittenCap(NamedTuple):
    """A cap that the gateway has written into the body.

    ``body``: without it; ``facts``, ``caps``: to write it again; ``name``: of the member;
    ``other``: its other name.
    """

    body: bytes
    facts: RequestFacts
    caps: Caps
    name: str
    other: str


class Flow:
    """State of one request. Times are seconds of ``perf_counter``."""

    __slots__ = (
        "action",
        "body",
        "choices",
        "client_body",
        "client_wait_s",
        "content_length",
        "context",
        "costs",
        "cut",
        "delayed",
        "ended",
        "expected_completion",
        "facts",
        "fingerprint",
        "first_byte_at",
        "growth",
        "head",
        "identity",
        "least",
        "limit_name",
        "metering",
        "most_completion",
        "opened_at",
        "opening_recorded",
        "outcome",
        "plan",
        "price_source",
        "prompt_estimate",
        "request_id",
        "request_lines",
        "resent",
        "reserved",
        "score_s",
        "sent_at",
        "status",
        "store_s",
        "stranger",
        "trace",
        "unbounded",
        "unenforced",
        "unpriced",
        "unproven",
        "usage_requested",
        "user_unread",
        "verdict",
        "written_cap",
    )

    def __init__(
        self,
        context: RequestContext,
        own: RequestFields,
        request_id: bytes,
        tracer: Tracer | None,
    ) -> None:
        self.context = context
        self.head = context.head
        self.content_length = own.length
        self.request_id = request_id
        # Header lines of this request alone, for the upstream.
        if tracer is None:
            self.request_lines, self.trace = own.lines, NO_TRACE
        else:
            lines = context.trace_lines + own.lines
            self.trace, self.request_lines = tracer.join(lines)
        self.identity = identity = context.identity
        # The policy lets the body name the user, and the body is not read yet: the
        # credential may belong to many users.
        self.user_unread = identity is not None and identity.takes_body_user
        self.opened_at = perf_counter()
        # Spent waiting for the client's body, or delaying a throttled request.
        self.client_wait_s = 0.0
        self.store_s = self.score_s = 0.0
        self.sent_at = self.first_byte_at = 0.0
        self.body = self.client_body = b""
        self.facts: RequestFacts | None = None
        self.fingerprint: int | None = None
        # The gateway asked for the usage chunk, so the client must not see it.
        self.usage_requested = False
        # ``client_body``: the body without that request, for an upstream that refuses it.
        self.written_cap: WrittenCap | None = None
        self.resent: tuple[
            str, ...
        ] = ()  # without "usage" or a "cap", which was refused
        self.plan: LimitPlan | None = None
        self.choices: tuple[LimitPlan, ...] = ()  # plans of the models that may answer
        # What the request asks of the plan's cells: see ``limits.ports.Reserved``.
        self.costs: tuple[int, ...] = ()
        self.least: tuple[int, ...] = ()
        self.unbounded = False  # no cap bounds the cost
        self.most_completion = 0  # completion tokens reserved
        self.expected_completion = 0  # the same where an edge is held
        self.growth: StreamGrowth | None = None  # of a stream without a cap
        self.cut = False  # the answer was not read to its end
        self.prompt_estimate = self.status = 0
        self.reserved: Reserved | None = None
        self.stranger: StrangerCall | None = None  # whose credential is not accepted
        self.verdict = NOTHING
        self.action = "allow"
        self.unenforced = ""  # the action that observe mode did not carry out
        self.limit_name: str | None = None
        self.delayed = False  # was throttled: a request is delayed once at most
        self.outcome: Outcome = "ok"
        self.unpriced = self.unproven = False
        self.price_source: PriceSource = ""
        self.metering: Metering = ""  # why tokens or price are not the provider's
        self.opening_recorded = False  # its OPENED record is written
        self.ended: EndedWork | None = None  # work of earlier calls that it shows

    @property
    def endpoint(self) -> str:
        """The endpoint's name in records; "other" where no dialect knows the path."""
        match = self.context.match
        return "other" if match is None else match.endpoint

    # -- results of the steps -----------------------------------------------------

    def set_facts(self, facts: RequestFacts, fingerprint: int | None) -> None:
        """Store what was read from the body, which may also have named the user."""
        self.facts = facts
        self.fingerprint = fingerprint
        self.user_unread = False

    def set_plan(
        self, plan: LimitPlan, costs: tuple[int, ...] = (), prompt_estimate: int = 0
    ) -> None:
        """The limits of this request, and what it reserves of each."""
        self.plan = plan
        self.costs = self.least = costs
        self.prompt_estimate = prompt_estimate

    def set_choices(self, plans: tuple[LimitPlan, ...]) -> None:
        """The limits of each model that may answer."""
        self.choices = plans

    def set_costs(
        self, costs: tuple[int, ...], most_completion: int, expected_completion: int
    ) -> None:
        """``set_demand`` of a request whose cap is within its limits."""
        self.costs = costs
        self.most_completion = most_completion
        self.expected_completion = expected_completion

    def set_stranger(self, stranger: StrangerCall) -> None:
        """Reserve as a stranger."""
        self.stranger = stranger

    def end_stranger(self, held: Reserved | None, *, unproven: bool = False) -> None:
        """The upstream has accepted the credential. ``held``: the reservation now.
        ``unproven``: it has upgraded a session, and may check the credential later.
        """
        self.stranger, self.unproven = None, unproven
        self.reserved = held or self.reserved

    @property
    def leased(self) -> Reserved | None:
        """The reservation whose leases are to be renewed."""
        stranger = self.stranger
        held = None if stranger is None else stranger.reserved
        return held or self.reserved

    def set_reserved(self, reserved: Reserved | None) -> None:
        """The reservation of a session's next answer."""
        self.reserved = reserved

    def name_model(self, model: str) -> None:
        """Use the model that a session has named."""
        if self.facts is not None:
            self.facts.model = model

    def set_demand(
        self, demand: Demand, most_completion: int, expected_completion: int
    ) -> None:
        """What the request reserves, as its cost is not certain, and the completion
        tokens among it.
        """
        self.costs, self.least, self.unbounded = demand
        self.most_completion = most_completion
        self.expected_completion = expected_completion

    def ask_less(self, reserved: Reserved) -> bool:
        """After a refusal, ask for the edge of the limit that had no room. A session or a
        background call, which would hold it for long, asks once for what is left. False:
        nothing less would be admitted.
        """
        plan = self.plan
        if self.context.session or (self.facts is not None and self.facts.background):
            self.unbounded = False
            if plan is None or not reserved.sums:
                return False
            self.costs, self.least = what_is_left(plan, reserved)
            return self.costs != reserved.costs
        place = missing_edge(reserved)
        if place >= 0:
            self.take_edges((place,))
        return place >= 0

    def leave_out(self, places: Container[int]) -> None:
        """Reserve nothing in these cells: the session is counted there already."""
        self.costs = _without(self.costs, places)
        self.least = _without(self.least, places)

    def take_edges(self, places: Iterable[int]) -> None:
        """Reserve only the expected cost in these cells, and hold their edges."""
        assert self.plan is not None
        plan = with_edges(self.plan, places)
        cells = len(plan.base.cells)
        self.costs, self.least = plan.costs(self.costs[:cells], self.least[:cells])
        self.plan = plan

    def set_growth(self, growth: StreamGrowth) -> None:
        """The stream may reserve more."""
        self.growth = growth

    def end_growth(self) -> StreamGrowth | None:
        """What the stream has reserved, which is to be settled now."""
        growth, self.growth = self.growth, None
        return growth

    def held_costs(self) -> tuple[int, ...]:
        """What the call holds of its plan's cells, with what its stream has added."""
        return self.costs if self.growth is None else self.growth.held(self.costs)

    def set_ended(self, ended: EndedWork) -> None:
        """Note the work that this call shows the end of."""
        self.ended = ended
        self.name_model(ended.works[0].model)

    def note_cut(self) -> None:
        """Note that the answer was not read to its end."""
        self.cut = True

    def cut_by(self, growth: StreamGrowth) -> None:
        """Note that the stream was ended because it outgrew its limits."""
        self.outcome = "refused"
        self.action = "limit"
        self.limit_name = growth.limit_name
        self.most_completion = growth.reserved

    def set_identity(self, identity: Identity) -> None:
        """Use the user that the body named instead of the credential's."""
        self.identity = identity

    def set_decision(self, block: Block) -> None:
        """Use control's decision about the client as the verdict."""
        self.verdict = verdict_of(block)

    def blocked_by(self, block: Block) -> Refusal:
        """Use the block as the verdict; return the refusal."""
        self.verdict = verdict_of(block)
        return BLOCKED

    def replace_body(self, body: bytes, *, usage_requested: bool = False) -> None:
        """Send this body to the upstream instead of the client's."""
        if usage_requested:
            self.client_body = self.body
        self.body = body
        if usage_requested:
            self.usage_requested = True

    def take_back_request(self) -> None:
        """Send the body without the request for usage, which the upstream refused."""
        self.body, self.client_body = self.client_body, b""
        self.usage_requested = False
        self._begin_again("usage")

    def note_written_cap(self, cap: WrittenCap) -> None:
        """The gateway has written a cap into the body."""
        self.written_cap = cap

    def rename_cap(self, cap: WrittenCap, body: bytes, client_body: bytes) -> None:
        """Send the body with the cap under its other name."""
        self.written_cap = cap
        self.body, self.client_body = body, client_body
        self._begin_again("cap")

    def _begin_again(self, refused: str) -> None:
        self.resent = (*self.resent, refused)
        self.status, self.first_byte_at = 0, 0.0

    def note_opening(self) -> None:
        """The record of the running exchange is written."""
        self.opening_recorded = True

    # -- what was decided ---------------------------------------------------------

    def leave_unclamped(self) -> None:
        """Note that observe mode did not lower the body to the caps."""
        self.unenforced = self.unenforced or "clamp"

    def leave_unenforced(self, refusal: Refusal) -> None:
        """Note a refusal that observe mode does not enforce: the first action and limit.

        A refusal without an action (a cap) does not hide a later one.
        """
        self._note_unenforced(refusal.action)
        self.limit_name = self.limit_name or refusal.limit

    def _note_unenforced(self, action: str) -> None:
        if action != "allow" and self.unenforced in ("", "clamp"):
            self.unenforced = action

    def fail_inside(self) -> None:
        """The answer ended with an error, though its status is 200."""
        if self.outcome in ("ok", "client_closed"):
            self.outcome = "upstream_error"

    def leave_unread(self, facts: RequestFacts) -> None:
        """Use these facts of a body that passes although it cannot be read."""
        self.facts = facts
        self.note_metering("unread")

    def note_metering(self, why: Metering) -> None:
        """Note why tokens or price are not the provider's own; the first reason stays."""
        self.metering = self.metering or why
        if why in ("unpriced", "part_priced"):
            self.unpriced = True

    def note_price(self, quote: Quote) -> None:
        """Note where a price comes from, and whether the answer has one."""
        nanos, self.price_source, part = quote
        if nanos is None:
            self.note_metering("unpriced")
        elif part:
            self.note_metering("part_priced")

    def act_on_verdict(self, action: str, *, enforced: bool) -> None:
        """Tag or throttle the request, or note that observe mode did not."""
        if not enforced:
            self._note_unenforced(action)
        elif self.action == "allow":
            self.action = action

    def refused_with(self, refusal: Refusal) -> None:
        """Note what the record says of a refusal."""
        self.status = refusal.status
        if refusal.action != "allow":
            self.action = refusal.action
        self.limit_name = refusal.limit or self.limit_name
        if not refusal.upstream_failed:
            self.outcome = "refused"

    def ended_by(self, refusal: Refusal) -> None:
        """Note what the record says of a session that a refusal ended."""
        if refusal.action != "allow":
            self.action = refusal.action
        self.limit_name = refusal.limit or self.limit_name

    def release_throttle(self) -> bool:
        """Drop the throttle's limit after the delay. False: no other limits remain."""
        plan = self.plan
        if plan is None or plan.unthrottled is None:
            return False
        place = len(without_edges(plan).cells) - 1
        self.plan = plan.unthrottled
        self.costs = self.costs[:place] + self.costs[place + 1 :]
        self.least = self.least[:place] + self.least[place + 1 :]
        return bool(self.plan.cells)


def _without(costs: tuple[int, ...], places: Container[int]) -> tuple[int, ...]:
    return tuple(0 if place in places else cost for place, cost in enumerate(costs))


def verdict_of(block: Block) -> Verdict:
    """The verdict that records show for a decision of control."""
    reasons = (block.reason,) if block.reason else ()
    return Verdict(block.score, block.action, block.cls or None, reasons)

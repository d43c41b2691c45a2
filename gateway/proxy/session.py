"""The limits and the cost of one WebSocket session, while it runs.

The session holds one reservation at a time: that of its next answer. Each answer settles
it, and the next one is reserved. So a session counts as it runs, and ends when a limit
has no room. Near the edge of a limit it reserves what is left. Under limits of tokens or
money, a message that asks for a second answer meanwhile waits, with all that the client
sends after it, until the next answer is reserved (``proxy/inlet.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Usage
from gateway.core.refusal import Refusal
from gateway.limits.edges import what_is_left
from gateway.limits.meters import METER_TABLE, Quantity
from gateway.limits.strangers import own_costs
from gateway.metering.frames import MESSAGE_BYTES
from gateway.metering.prices import OTHER
from gateway.metering.realtime import ClientMessage, RealtimeMeter, sum_usage
from gateway.metering.usage import weigh
from gateway.proxy.caps import check_caps
from gateway.proxy.inlet import Inlet
from gateway.proxy.steps.decide import Decision, decide
from gateway.proxy.steps.reserve import refuse_reserved, set_demand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.core.model import Policy
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved
    from gateway.metering.session_events import SessionEvent
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

_UNREADABLE = "The messages of this session cannot be read, so it cannot be metered."
_UNMASKED = "Frames of a client must be masked (RFC 6455, section 5.1)."
_UNKNOWN = (
    "Sessions at this path cannot be metered, and this policy limits tokens or money."
)
# Completion tokens of an answer that was not seen, where nothing is reserved.
_ANSWER_TOKENS = 1024
# Under limits of tokens or money messages of both sides are read up to this size; the
# last event of an answer may echo all of its request, and pictures.
_MOST_MESSAGE_BYTES = 16 * 1024 * 1024
# How long a message waits while the upstream says nothing of the answer under way; and
# when it has refused a message, or named an end without a usage.
_SILENCE_S, _DOUBT_S = 30.0, 5.0
# Endpoints whose sessions name their model in the first message of the client.
_NAMED_LATER = frozenset({"responses", "bidi_generate_content"})


def limits_usage(policy: Policy) -> bool:
    """Whether the policy limits tokens or money."""
    return any(
        METER_TABLE[limit.meter].reads is not Quantity.ONE for limit in policy.limits
    )


def check_session(flow: Flow) -> Refusal | None:
    """Refuse a session whose model has no price, or that cannot be metered."""
    identity, facts = flow.identity, flow.facts
    if identity is None or facts is None:
        return None
    if identity.allowed and identity.policy.models is None:
        return None
    if flow.endpoint == "other" and (
        limits_usage(identity.policy) and not identity.allowed
    ):
        return _refusal(_UNKNOWN)
    if flow.context.capless or (not facts.model and flow.endpoint in _NAMED_LATER):
        return None
    return check_caps(flow, facts)


def _refusal(message: str) -> Refusal:
    return Refusal(403, "session_not_metered", message, by_policy=True)


class LiveSession:
    """Meters one session. ``close`` ends it, with the reason.

    ``total`` and ``nanos``: what was used and what it costs, so far.
    """

    __slots__ = (
        "_asking",
        "_counted",
        "_flow",
        "_heard_at",
        "_lost",
        "_model",
        "_one_answer",
        "_shared",
        "_timer",
        "_unpriced",
        "close",
        "ended",
        "inlet",
        "meter",
        "nanos",
        "now",
        "total",
    )

    def __init__(self, flow: Flow, shared: Shared) -> None:
        self._flow = flow
        self._shared = shared
        self.now = shared.now  # the loop's clock
        self.close: Callable[[Refusal], None] | None = None
        self._one_answer = _takes_turns(flow)
        most = _MOST_MESSAGE_BYTES if self._one_answer else MESSAGE_BYTES
        self.meter = RealtimeMeter(most, most)
        self.inlet = Inlet(shared.loop, self.meter, self._admit, self._count_pause)
        # When the upstream said something of an answer, or was asked for one.
        self._heard_at = shared.now()
        self._timer: asyncio.TimerHandle | None = None
        self._model = "" if flow.facts is None else flow.facts.model
        # Keys of the counters of requests that this session is counted in already.
        self._counted = set(_request_keys(flow.plan))
        self._asking = False
        self._lost = False
        self.ended = False
        self.total = Usage()
        self.nanos = 0
        self._unpriced = False

    @property
    def endpoint(self) -> str:
        """The endpoint's name in records."""
        return self._flow.endpoint

    # -- messages -----------------------------------------------------------------

    def from_client(self, data: bytes) -> None:
        """Read what the client sent, and pass on what may pass."""
        if self.ended:
            return
        self.inlet.feed(data)
        self._look()
        self._listen()

    def _admit(self, message: ClientMessage) -> bool:
        """Whether a message may pass now; an ended session passes none."""
        event, meter = message.event, self.meter
        if self._one_answer and self._asking:
            return False
        asks = event is not None and meter.asks(event, strict=self._one_answer)
        if event is not None:
            if self._one_answer and meter.answers and (asks or self._renames(event)):
                return False
            meter.asked_model = event.model or meter.asked_model
        self._look()
        if self.ended or (self._one_answer and asks and self._asking):
            return False
        meter.pass_on(event, asks=asks)
        return True

    def _renames(self, event: SessionEvent) -> bool:
        """Whether a message names another model, whose limits are asked first."""
        return event.model not in ("", self.meter.asked_model) and not self._is_fixed

    def from_upstream(self, data: bytes) -> None:
        """Read what the upstream sent, and settle each answer that it completes."""
        if self.ended:
            return
        found = self.meter.feed_upstream(data)
        self._look()
        for usage in found:
            self._settle(self._estimate(1) if usage is None else usage)
        self._go_on()

    def _count_pause(self) -> None:
        self._shared.session_pauses += 1

    def _go_on(self) -> None:
        """Pass on what waited for its turn, if it has come."""
        if not self.ended:
            self.inlet.go_on()
            self._listen()

    def _listen(self) -> None:
        """Note when the upstream was heard of; let nothing wait for it forever."""
        if self.meter.heard:
            self.meter.heard = False
            self._heard_at = self.now()
        if self.inlet.waits and self.meter.answers and not (self.ended or self._asking):
            at = self._heard_at + self._patience_s()
            if self._timer is not None and at < self._timer.when():
                self._timer.cancel()
                self._timer = None
            if self._timer is None:
                self._timer = self._shared.loop.call_at(at, self._waited)

    def _patience_s(self) -> float:
        return _DOUBT_S if self.meter.refused or self.meter.faded else _SILENCE_S

    @property
    def _is_silent(self) -> bool:
        return self.now() - self._heard_at >= self._patience_s()

    def _waited(self) -> None:
        """Charge answers whose end is not named as reserved, and let the next begin."""
        self._timer = None
        meter = self.meter
        if meter.answers and self._is_silent and not self._asking:
            answers = meter.give_up()
            self._shared.session_overdue += answers
            self._heard_at = self.now()
            if answers:
                self._settle(self._estimate(answers))
        self._go_on()

    def _look(self) -> None:
        """Check a model that was named, and that the messages are readable."""
        meter = self.meter
        if meter.unmasked:
            self._end(Refusal(400, "invalid_frame", _UNMASKED))
        unread = meter.lost or (self._one_answer and meter.skipped_client)
        if unread and not self._lost:
            self._lost = True
            identity = self._flow.identity
            if identity is not None and limits_usage(identity.policy):
                self._end(_refusal(_UNREADABLE))
        for named in (self._asked(), meter.model):
            if named and not self.ended and self._is_another(named):
                self._name(named)
        if not self._model and meter.client_events and not self.ended:
            self._check_model()

    @property
    def _is_fixed(self) -> bool:
        """Whether the model is known for the session's whole life, as in Realtime: the
        query names it, or the upstream states it.
        """
        named = self._model or self.meter.model
        return bool(named) and self._flow.endpoint == "realtime"

    def _asked(self) -> str:
        """The model that the client's events name."""
        return "" if self._is_fixed else self.meter.asked_model

    def _is_another(self, named: str) -> bool:
        """Whether ``named`` is more than another spelling of the session's model."""
        prices, model = self._flow.context.prices, self._model
        if named == model or not model or prices is None:
            return named != model
        known = prices.known_name(named)
        return known != prices.known_name(model) and not (
            known == OTHER and named == self.meter.model
        )

    def _name(self, model: str) -> None:
        """Apply the caps and limits of the model that the session has named."""
        self._model = model
        self._flow.name_model(model)
        self._check_model()
        if not self.ended:
            self._turn(None, 0)

    def _check_model(self) -> None:
        flow = self._flow
        if flow.facts is None or flow.context.capless:
            return
        refusal = check_caps(flow, flow.facts)
        if refusal is not None:
            self._end(refusal)

    # -- counting -----------------------------------------------------------------

    def _settle(self, usage: Usage) -> None:
        nanos = self._price(usage)
        self.total = sum_usage(self.total, usage)
        self.nanos += nanos
        self._turn(usage, nanos)

    def _price(self, usage: Usage) -> int:
        """Nano-dollars, by the model that the upstream states if it has a price."""
        prices = self._flow.context.prices
        if prices is None:
            return 0
        at = self._shared.store.now_us() / 1e6
        stated = usage.model or self.meter.model
        quote = prices.quote(self._model, usage, at, answered=stated)
        self._flow.note_price(quote)
        if quote[0] is None:
            self._unpriced = True
        return quote[0] or 0

    def _turn(self, usage: Usage | None, nanos: int) -> None:
        """Settle the reservation with an answer, and reserve the next answer."""
        flow, shared = self._flow, self._shared
        plan, reserved, identity = flow.plan, flow.reserved, flow.identity
        if plan is None or identity is None:
            return
        if self._asking or reserved is None:
            # The store has not answered the last reserve: this answer counts beside it.
            if plan.cells and usage is not None:
                shared.store.charge(plan, self._costs(plan, usage, nanos, ()))
        else:
            actual = self._costs(plan, usage or Usage(), nanos, reserved.costs)
            if reserved.admitted:
                shared.store.settle(reserved, actual)
            else:
                shared.store.charge(plan, actual)
        if self._asking or self.ended:
            return
        now = shared.store.now_us() / 1e6
        plan = shared.tables.plans.plan(identity, self._model, now)
        if not plan.cells or flow.facts is None:
            flow.set_plan(plan)
            flow.set_reserved(None)
            return
        set_demand(flow, shared, plan, identity, flow.facts)
        counted = {
            place
            for place, cell in enumerate(plan.cells)
            if cell.limit.meter == "requests" and cell.key in self._counted
        }
        self._counted.update(_request_keys(plan))
        flow.leave_out(counted)
        self._asking = True
        shared.store.reserve(plan, flow.costs, self._on_reserved, flow.least)

    def _on_reserved(self, reserved: Reserved) -> None:
        plan = self._flow.plan
        refused = not (reserved.admitted or self.ended)
        if refused and reserved.sums and plan is not None:
            left, least = what_is_left(plan, reserved)
            if left != tuple(reserved.costs):
                self._shared.store.reserve(plan, left, self._on_last_reserved, least)
                return
        self._on_last_reserved(reserved)

    def _on_last_reserved(self, reserved: Reserved) -> None:
        self._asking = False
        flow, shared = self._flow, self._shared
        if self.ended:
            if reserved.admitted and flow.plan is not None:
                empty = self._costs(flow.plan, Usage(), 0, reserved.costs)
                shared.store.settle(reserved, empty)
            return
        flow.set_reserved(reserved)
        if not reserved.admitted:
            self._end(refuse_reserved(flow, shared, reserved))
        self._go_on()

    def _costs(
        self, plan: LimitPlan, usage: Usage, nanos: int, reserved: object
    ) -> tuple[int, ...]:
        """Costs by cell; requests as they were reserved, 0 beside a reservation."""
        identity = self._flow.identity
        weights = {} if identity is None else identity.policy.weights
        tokens = weigh(usage, weights) if weights else usage.total
        costs = plan.pick((1, tokens, usage.prompt, usage.completion, nanos))
        given = reserved if isinstance(reserved, (tuple, list)) else ()
        return tuple(
            (given[place] if given else 0)
            if METER_TABLE[cell.limit.meter].reads is Quantity.ONE
            else costs[place]
            for place, cell in enumerate(plan.cells)
        )

    # -- the end ------------------------------------------------------------------

    def _end(self, refusal: Refusal) -> None:
        """End the session, unless the policy's mode lets it go on."""
        flow = self._flow
        if self.ended or decide(flow, self._shared, refusal) is Decision.PASS:
            return
        flow.ended_by(refusal)
        if self.close is not None:
            self.close(refusal)

    def finish(self) -> bool:
        """Settle the last reservation, once: at what answers that are under way or could
        not be read may cost, else at nothing. True: some answer had no price.
        """
        flow, meter = self._flow, self.meter
        self.ended = True
        self.inlet.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        plan, reserved = flow.plan, flow.reserved
        doubtful = meter.refused and self._is_silent
        answers = meter.give_up() if doubtful else meter.answers
        unread = meter.lost or meter.skipped > 0
        answers = answers or int(unread)
        refused = flow.unproven and not (meter.begun or unread)
        if refused:  # the upstream has upgraded it, and not accepted its credential
            answers = 0
        usage, nanos = Usage(), 0
        if answers and flow.facts is not None:
            usage = self._estimate(answers)
            nanos = self._price(usage)
            self.total = sum_usage(self.total, usage)
            self.nanos += nanos
        if plan is None or not plan.cells:
            return self._unpriced
        if self._asking or reserved is None:
            self._shared.store.charge(plan, self._costs(plan, usage, nanos, ()))
            return self._unpriced
        actual = self._costs(plan, usage, nanos, reserved.costs)
        if refused:
            actual = own_costs(plan, actual)
        if reserved.admitted:
            self._shared.store.settle(reserved, actual)
        else:
            self._shared.store.charge(plan, actual)
        return self._unpriced

    def _estimate(self, answers: int) -> Usage:
        """What so many answers without a stated usage are charged: what was reserved, or
        without limits of tokens and money what is usual.
        """
        flow, shared = self._flow, self._shared
        if flow.facts is None:
            return Usage()
        tenant = "" if flow.identity is None else flow.identity.tenant.name
        prompt = shared.estimator.estimate(tenant, flow.facts.model, flow.facts)
        completion = flow.most_completion
        if not completion and flow.identity is not None:
            key = flow.identity.key
            completion = shared.expectation.bounds(key, flow.facts, _ANSWER_TOKENS)[0]
        prompt, completion = prompt * answers, completion * answers
        return Usage(prompt, completion, prompt + completion, source="estimated")


def _takes_turns(flow: Flow) -> bool:
    """Whether answers run one at a time: each is reserved before it begins."""
    identity = flow.identity
    return (
        identity is not None
        and not identity.allowed
        and identity.policy.mode == "enforce"
        and limits_usage(identity.policy)
    )


def _request_keys(plan: LimitPlan | None) -> list[bytes]:
    cells = () if plan is None else plan.cells
    return [cell.key for cell in cells if cell.limit.meter == "requests"]

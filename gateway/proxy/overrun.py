"""Streams without a cap that outgrow what they reserved.

The answer of a call that states no cap may be longer than its reservation. While such a
stream flows, more is reserved before it is needed. Where there is no more, the policy's
``overrun`` decides: "finish" counts the rest at once, beyond the limit, of one stream at
a time (``limits/edges.py``); "cut" ends the stream, as does "finish" any further one.
Calls with a cap reserve all of it, so they never get here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import encode

from gateway.core.model import Usage
from gateway.limits.edges import edge_cell, without_edges
from gateway.limits.ports import Plan
from gateway.limits.ratelimit import describe
from gateway.metering.dialects.base import SSE
from gateway.metering.dialects.meters import JsonMeter, StreamMeter
from gateway.metering.usage import weigh_most
from gateway.proxy.fallbacks import most_nanos
from gateway.proxy.metering import Metering

if TYPE_CHECKING:
    from gateway.http.response import AnswerHead
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# Endpoints whose streams end with ``data: [DONE]``.
_WITH_DONE = frozenset({"chat.completions", "completions"})
# Reserved at a time, in completion tokens: at least this many, half of what the stream
# has reserved already, and where there is too little, ever smaller parts down to LEAST.
STEP, LEAST = 1024, 64
# More is reserved when this share of the reservation is used.
ASK_AT = 0.75
# Fewest bytes of a stream in which a token comes: of plain ones, and of compressed ones.
TOKEN_BYTES, TOKEN_BYTES_COMPRESSED = 4, 0.25
# Generated text per token, in bytes of JSON strings; and bytes of a stream per token
# where the text is not at hand.
TEXT_BYTES, STREAM_BYTES = 4, 60


class Growth:
    """What one stream has reserved beyond its first reservation.

    ``reserved``: completion tokens reserved, or counted beyond a limit. ``full``: there
    is no more, so the stream is cut there.
    """

    __slots__ = (
        "_asking",
        "_beyond",
        "_counted",
        "_cuts",
        "_flow",
        "_held",
        "_parts",
        "_place",
        "_plan",
        "_seen",
        "_shared",
        "full",
        "reserved",
    )

    def __init__(self, flow: Flow, shared: Shared, plan: LimitPlan) -> None:
        self._flow = flow
        self._shared = shared
        self._plan = without_edges(plan)
        self._asking = self._seen = 0
        # Cells of which this stream counts beyond the limit, and its edges.
        self._beyond: set[int] = set()
        self._held = set(plan.edges)
        self._place = 0  # the cell that had no room
        self._parts: list[Reserved] = []
        self._counted = [0] * len(plan.cells)
        identity = flow.identity
        self._cuts = identity is not None and identity.policy.mode != "observe"
        self.full = False
        self.reserved = flow.expected_completion if plan.edges else flow.most_completion

    def take(self, tokens: int) -> bool:
        """Reserve more if a stream of so many tokens needs it. True: it is to be cut."""
        # As many tokens as came since the last look may come with the next read.
        step, self._seen = max(LEAST, tokens - self._seen), tokens
        if self.full:
            return tokens + step >= self.reserved
        if tokens >= self.ask_at and not self._asking:
            self._ask(STEP if self._beyond else max(STEP, self.reserved // 2))
        return False

    @property
    def ask_at(self) -> float:
        """The tokens from which more is needed; beyond a limit nothing is kept ready."""
        return self.reserved if self._beyond else ASK_AT * self.reserved

    def _ask(self, tokens: int) -> None:
        self._asking = tokens
        costs = tuple(
            0 if place in self._beyond else cost
            for place, cost in enumerate(self._costs(tokens))
        )
        self._shared.store.reserve(
            self._plan, costs, self._on_reserved, [0] * len(costs)
        )

    def _on_reserved(self, reserved: Reserved) -> None:
        tokens, self._asking = self._asking, 0
        if self._flow.growth is not self:  # ended
            if reserved.admitted:
                self._give_back(reserved)
        elif reserved.admitted:
            self._parts.append(reserved)
            self._count(tokens)
            self.reserved += tokens
        elif reserved.violated < 0:
            self.reserved += tokens  # limits cannot be checked
        elif tokens > LEAST:
            self._ask(max(LEAST, tokens // 4))
        else:
            self._go_beyond(max(0, reserved.violated))

    def _go_beyond(self, place: int) -> None:
        """Count beyond the limit of this cell if the policy allows it. One stream at a
        time may: the one that holds the edge.
        """
        self._place = place
        identity = self._flow.identity
        if self._cuts and identity is not None and identity.policy.overrun == "cut":
            self.full = True
        elif place in self._held or not self._cuts:
            self._beyond.add(place)
            self._ask(STEP)
        else:
            self._asking = STEP
            plan = Plan((edge_cell(self._plan.cells[place]),), self._plan.tag)
            self._shared.store.reserve(plan, (1,), self._on_edge)

    def _on_edge(self, reserved: Reserved) -> None:
        self._asking = 0
        if self._flow.growth is not self:
            if reserved.admitted:
                self._give_back(reserved)
        elif reserved.admitted:
            self._parts.append(reserved)
            self._held.add(self._place)
            self._go_beyond(self._place)
        else:
            self.full = True

    def _count(self, tokens: int) -> None:
        """Count tokens beyond the limits, where others see them at once."""
        if not self._beyond:
            return
        costs = [
            cost if place in self._beyond else 0
            for place, cost in enumerate(self._costs(tokens))
        ]
        self._shared.store.charge(self._plan, costs)
        for place, cost in enumerate(costs):
            self._counted[place] += cost

    def _costs(self, tokens: int) -> tuple[int, ...]:
        context, facts = self._flow.context, self._flow.facts
        identity = self._flow.identity
        assert facts is not None
        assert identity is not None
        nanos = 0
        if context.prices is not None:
            usage = Usage(completion=tokens)
            at = self._shared.epoch + self._flow.opened_at
            nanos = most_nanos(context.prices, facts, usage, at)
        total = weigh_most(0, tokens, identity.policy.weights)
        return self._plan.pick((0, total, 0, tokens, nanos))

    @property
    def reason(self) -> str:
        """Why the stream is cut, in words."""
        limit = self._plan.cells[self._place].limit
        return (
            f"This answer was ended because it has used what was left of {limit.name} "
            f"({describe(limit)})."
        )

    @property
    def limit_name(self) -> str:
        """The limit that had no room."""
        return self._plan.cells[self._place].limit.name

    def renew(self) -> None:
        """Extend the leases of the edges."""
        for part in self._parts:
            if part.lease:
                self._shared.store.renew(part)

    def held(self, costs: tuple[int, ...]) -> tuple[int, ...]:
        """What the stream holds: the first reservation's ``costs``, and all beyond it."""
        cells = len(self._counted)
        parts = [part.costs for part in self._parts if part.plan is self._plan]
        padded = [(*part, *(0,) * (cells - len(part))) for part in parts]
        return tuple(map(sum, zip(costs, self._counted, *padded, strict=True)))

    def settle(self, actual: tuple[int, ...]) -> tuple[int, ...]:
        """Give the parts back; return what the first reservation is settled at."""
        for part in self._parts:
            self._give_back(part)
        return tuple(
            max(0, cost - counted)
            for cost, counted in zip(actual, self._counted, strict=True)
        )

    def _give_back(self, part: Reserved) -> None:
        self._shared.store.settle(part, [0] * len(part.costs))


class GrowingMetering(Metering):
    """The metering of a stream that may outgrow its reservation.

    Tokens are estimated only when so many bytes have passed that the stream may have
    reached its reservation: a handful of times in a long stream.
    """

    __slots__ = ("_check_at", "_growth", "_seen")

    def __init__(self, metering: Metering, growth: Growth) -> None:
        super().__init__(metering.meter)
        self.filter = metering.filter
        self.inflater = metering.inflater
        self.unreadable = metering.unreadable
        self.work = metering.work
        self._growth = growth
        self._seen = 0
        self._check_at = self._bytes_of(growth.reserved * ASK_AT)

    def _bytes_of(self, tokens: float) -> int:
        plain = self.inflater is None and not self.unreadable
        return int(tokens * (TOKEN_BYTES if plain else TOKEN_BYTES_COMPRESSED))

    def take(self, data: bytes) -> bytes:
        """The part of ``data`` that may go to the client now."""
        self._seen += len(data)
        passed = Metering.take(self, data)
        if self._seen >= self._check_at:
            try:
                self._check(data)
            except Exception as error:  # noqa: BLE001
                self._fail(error)
        return passed

    def _check(self, data: bytes) -> None:
        growth, tokens = self._growth, self._tokens()
        # Between two events, so that the end of the stream can be told.
        cut = growth.take(tokens) and data.endswith(b"\n")
        self.over = growth if cut else None
        ahead = growth.reserved if growth.full else growth.ask_at
        self._check_at = self._seen + self._bytes_of(max(LEAST / 4, ahead - tokens))

    def _tokens(self) -> int:
        """Completion tokens so far, estimated."""
        meter = self.meter
        if isinstance(meter, StreamMeter) and not self.unreadable:
            return max(meter.events_kept(), meter.text_bytes() // TEXT_BYTES)
        return self._seen // STREAM_BYTES


def growing(
    flow: Flow, shared: Shared, answer: AnswerHead, metering: Metering
) -> Metering:
    """``metering``, or one that reserves more, if the answer is a stream without a cap."""
    plan, reserved, identity = flow.plan, flow.reserved, flow.identity
    if (
        plan is None
        or reserved is None
        or not reserved.admitted
        or identity is None
        or answer.status != 200
        or isinstance(metering.meter, JsonMeter)
        # Its cap is reserved: only its prompt is unknown.
        or (flow.facts is not None and flow.facts.max_tokens and not plan.edges)
    ):
        return metering
    growth = Growth(flow, shared, plan)
    flow.set_growth(growth)
    return GrowingMetering(metering, growth)


def last_event(flow: Flow, metering: Metering, message: str) -> bytes:
    """The event that ends a stream with an error, in its own protocol; b"" if the
    protocol has none that can be written here.
    """
    meter, match = metering.meter, flow.context.match
    if (
        match is None
        or not isinstance(meter, StreamMeter)
        or metering.inflater is not None
        or metering.unreadable
    ):
        return b""
    body = match.dialect.error_body(429, "rate_limit_exceeded", message, None)
    if meter.framing != SSE:
        return body + b"\n"
    if flow.endpoint == "responses":
        event = {"type": "error", "code": "rate_limit_exceeded", "message": message}
        return b"event: error\ndata: %b\n\n" % encode({**event, "param": None})
    if body.startswith(b'{"type":"error"'):
        return b"event: error\ndata: %b\n\n" % body
    done = b"data: [DONE]\n\n" if flow.endpoint in _WITH_DONE else b""
    return b"data: %b\n\n%b" % (body, done)

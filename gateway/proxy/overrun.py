"""Streams without a cap that outgrow what they reserved.

The answer of a call that states no cap may be longer than its reservation. While such a
stream flows, more is reserved before it is needed. Where there is no more, the policy's
``overrun`` decides: "finish" counts the rest at once, beyond the limit; "cut" ends the
stream. Calls with a cap reserve all of it, so they never get here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import encode

from gateway.core.model import Usage
from gateway.limits.ratelimit import describe
from gateway.metering.dialects.base import SSE
from gateway.metering.dialects.meters import JsonMeter, StreamMeter
from gateway.metering.usage import weigh_most
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

    ``reserved``: completion tokens reserved. ``within``: how many of them fit the limits,
    with the overdraft. ``full``: there is no more. ``counted``: by cell, what was counted
    beyond the limits. ``place``: the cell that had no room.
    """

    __slots__ = (
        "_asking",
        "_flow",
        "_plan",
        "_shared",
        "counted",
        "full",
        "parts",
        "place",
        "reserved",
        "within",
    )

    def __init__(self, flow: Flow, shared: Shared, plan: LimitPlan) -> None:
        self._flow = flow
        self._shared = shared
        self._plan = plan
        self._asking = 0
        self.place = 0
        self.reserved = flow.most_completion
        self.within = self._fitting()
        # It runs alone beyond the limits: there is nothing more to reserve.
        self.full = self.within < self.reserved
        self.parts: list[Reserved] = []
        self.counted = [0] * len(plan.cells)

    def _fitting(self) -> int:
        """The completion tokens of the first reservation that fit every limit."""
        reserved, plan = self._flow.reserved, self._plan
        fitting = self.reserved
        if reserved is None or len(reserved.sums) != len(plan.cells):
            return fitting
        for place, (total, ceiling, cost) in enumerate(
            zip(reserved.sums, plan.ceilings, reserved.costs, strict=True)
        ):
            if total > ceiling and cost:
                share = max(0, cost - (total - ceiling)) / cost
                if int(self.reserved * share) < fitting:
                    fitting, self.place = int(self.reserved * share), place
        return fitting

    def take(self, tokens: int, *, finish: bool) -> bool:
        """Reserve more if a stream of so many tokens needs it. True: it is to be cut."""
        if not self.full:
            if tokens >= ASK_AT * self.within and not self._asking:
                self._ask(max(STEP, self.reserved // 2))
            return False
        if not finish:
            return tokens + LEAST >= self.within
        if tokens >= self.reserved:
            self._count(max(STEP, self.reserved // 2, tokens - self.reserved))
        return False

    def _ask(self, tokens: int) -> None:
        self._asking = tokens
        costs = self._costs(tokens)
        self._shared.store.reserve(
            self._plan, costs, self._on_reserved, [0] * len(costs)
        )

    def _on_reserved(self, reserved: Reserved) -> None:
        tokens, self._asking = self._asking, 0
        ended = self._flow.growth is not self
        if reserved.admitted:
            if ended:
                self._give_back(reserved)
                return
            self.parts.append(reserved)
            self.reserved += tokens
            self.within += tokens
        elif not ended:
            if tokens > LEAST:
                self._ask(max(LEAST, tokens // 4))
            else:
                self.full = True
                self.place = max(0, reserved.violated)

    def _count(self, tokens: int) -> None:
        """Count tokens beyond the limits, where others see them at once."""
        costs = self._costs(tokens)
        self._shared.store.charge(self._plan, costs)
        self.counted = [sum(pair) for pair in zip(self.counted, costs, strict=True)]
        self.reserved += tokens

    def _costs(self, tokens: int) -> tuple[int, ...]:
        context, facts = self._flow.context, self._flow.facts
        identity = self._flow.identity
        assert facts is not None
        assert identity is not None
        nanos = 0
        if context.prices is not None:
            usage = Usage(completion=tokens)
            at = self._shared.epoch + self._flow.opened_at
            nanos = context.prices.cost_nanos(facts.model, usage, at) or 0
        total = weigh_most(0, tokens, identity.policy.weights)
        return self._plan.pick((0, total, 0, tokens, nanos))

    @property
    def reason(self) -> str:
        """Why the stream is cut, in words."""
        limit = self._plan.cells[self.place].limit
        return (
            f"This answer was ended because it has used what was left of {limit.name} "
            f"({describe(limit)})."
        )

    @property
    def limit_name(self) -> str:
        """The limit that had no room."""
        return self._plan.cells[self.place].limit.name

    def settle(self, actual: tuple[int, ...]) -> tuple[int, ...]:
        """Give the parts back; return what the first reservation is settled at."""
        for part in self.parts:
            self._give_back(part)
        return tuple(
            max(0, cost - counted)
            for cost, counted in zip(actual, self.counted, strict=True)
        )

    def _give_back(self, part: Reserved) -> None:
        self._shared.store.settle(part, [0] * len(part.costs))


class GrowingMetering(Metering):
    """The metering of a stream that may outgrow its reservation.

    Tokens are estimated only when so many bytes have passed that the stream may have
    reached its reservation: a handful of times in a long stream.
    """

    __slots__ = ("_check_at", "_finish", "_growth", "_seen")

    def __init__(self, metering: Metering, growth: Growth, *, finish: bool) -> None:
        super().__init__(metering.meter)
        self.filter = metering.filter
        self.inflater = metering.inflater
        self.unreadable = metering.unreadable
        self._growth = growth
        self._finish = finish
        self._seen = 0
        self._check_at = self._bytes_of(growth.within * ASK_AT)

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
        cut = growth.take(tokens, finish=self._finish) and data.endswith(b"\n")
        self.over = growth if cut else None
        until = growth.reserved if self._finish and growth.full else growth.within
        ahead = until if growth.full else until * ASK_AT
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
    ):
        return metering
    growth = Growth(flow, shared, plan)
    flow.set_growth(growth)
    return GrowingMetering(metering, growth, finish=identity.policy.overrun == "finish")


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

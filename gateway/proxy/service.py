"""All open exchanges of one worker, and everything that they share.

The steps themselves are in ``exchange``; here is what they ask for on the way.
"""

from __future__ import annotations

import secrets
import time
from email.utils import formatdate
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from gateway.core.model import RequestFacts, RequestRecord, Usage
from gateway.identity.identify import with_body_user
from gateway.limits.admission import (
    actual_costs,
    oversized,
    ratelimit_headers,
    refuse_limit,
    refuse_oversized,
    reserve_costs,
)
from gateway.limits.gate import BLOCKED
from gateway.limits.plans import DEFAULT_PREFIX
from gateway.metering.inflate import InflateError, Inflater
from gateway.metering.usage import CompletionExpectation, PromptEstimator
from gateway.proxy.exchange import Exchange
from gateway.proxy.prepare import prepare
from gateway.proxy.refusal import Refusal, answer_here, wire_error_body
from gateway.proxy.scoring import Scoring, verdict_of
from gateway.proxy.settle import announce

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.core.model import Block
    from gateway.http.client import ClientConnection
    from gateway.http.heads import Changing, KnownHead
    from gateway.identity.identify import Identity
    from gateway.limits.gate import Gate
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved, Store
    from gateway.metering.counting import TokenCounter
    from gateway.metering.dialects import CountTask, Match
    from gateway.proxy.tables import Tables
    from gateway.proxy.tracing import Tracer

# ``LimitPlan.least_usd`` of a plan that counts no money.
NO_BOUND = 1 << 62
FOREVER = float("inf")
NEVER = float("inf")
# Requests that are open for so long are told of before they end.
ANNOUNCE_AFTER_S = 0.5
# Leases are renewed at a third of their life.
RENEW_S = 20.0

_encode = msgspec.msgpack.Encoder().encode


class Service:
    """What ``http`` calls with each request; the exchanges' common ground."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tables: Tables,
        *,
        store: Store,
        gate: Gate,
        counter: TokenCounter,
        append_record: Callable[[bytes], bool],
        prefix: bytes = DEFAULT_PREFIX,
        tracer: Tracer | None = None,
    ) -> None:
        self.loop = loop
        self.tables = tables
        self.store = store
        self.gate = gate
        self.counter = counter
        self.append_record = append_record
        self.tracer = tracer
        self.estimator = PromptEstimator()
        self.expectation = CompletionExpectation()
        self.scoring = Scoring(gate, prefix)
        self.now = loop.time
        self.clock = perf_counter
        self.epoch = time.time() - perf_counter()
        self.open_exchanges: set[Exchange] = set()
        self.counting = 0
        self.draining = False
        self.dropped_records = 0
        self.drain_refused = 0
        self._id_prefix = secrets.token_hex(8).encode()
        self._id_count = 0
        self._date = b""
        self._date_at = 0
        self._renewed_at = loop.time()

    # -- requests -----------------------------------------------------------------

    def open(
        self, conn: ClientConnection, known: KnownHead, changing: Changing
    ) -> Exchange | None:
        prepared = prepare(
            self.tables,
            known,
            conn.peer_ip,
            conn.listener.settings.tls,
            self.epoch + perf_counter(),
            traced=self.tracer is not None,
        )
        exchange = Exchange(self, conn, prepared, changing)
        if prepared.answer_here:
            answer_here(exchange)
            return None
        self.open_exchanges.add(exchange)
        return exchange if exchange.begin() else None

    def refuse_wire(
        self, conn: ClientConnection, status: int, reason: str
    ) -> tuple[bytes, bytes]:
        conn.listener.count(f"refused_{status}")
        body = wire_error_body(status, reason)
        fields = b"Date: %b\r\nContent-Type: application/json\r\n" % self.http_date()
        return fields, body

    def closed(self, exchange: Exchange) -> None:
        self.open_exchanges.discard(exchange)
        route = exchange.prepared.route
        if exchange.drains_until != NEVER and route is not None:
            route.draining -= 1

    # -- gate, caps, limits -------------------------------------------------------

    def gate_head(self, exchange: Exchange) -> Refusal | None:
        """What can be refused before a body is read."""
        prepared = exchange.prepared
        gate, identity = self.gate, prepared.identity
        if gate.quiet:
            return prepared.refusal
        epoch = self.epoch + perf_counter()
        if identity is None:
            ip, address = prepared.client_ip, prepared.address
            block = gate.find_stranger(ip, address, epoch)
        else:
            block = gate.find_head_block(identity, epoch)
        if block is not None:
            return self._refuse_block(exchange, block)
        if identity is None or prepared.refusal is not None:
            return prepared.refusal
        found = None
        if gate.full_cells:
            plan = self.tables.plans.head_plan(identity, self.store.now_us() / 1e6)
            billable = prepared.hold > 0 and prepared.billable
            found = gate.check_head(plan, self.now(), billable=billable)
        return None if found is None else Refusal.policy(found)

    def plan_limits(self, exchange: Exchange) -> Refusal | None:
        """Find the plan, estimate the costs; refuse what could never fit."""
        prepared = exchange.prepared
        facts, identity = exchange.facts, prepared.identity
        if facts is None or identity is None:
            return None
        found = block = None
        if identity.takes_body_user:
            identity = with_body_user(identity, facts.user)
            block = self.gate.find_block(identity, self.epoch + perf_counter())
        if block is None and self.gate.floods and exchange.fingerprint is not None:
            epoch = self.epoch + perf_counter()
            block = self.gate.find_flood(identity, exchange.fingerprint, epoch)
        if block is not None:
            exchange.identity = identity
            return self._refuse_block(exchange, block)
        if identity.takes_body_user:
            plan = self._plan(identity, facts.model)
        elif prepared.plan is not None and prepared.plan_model == facts.model:
            plan = prepared.plan
        else:
            plan = self._plan(identity, facts.model)
            if plan.until == FOREVER:
                prepared.plan, prepared.plan_model = plan, facts.model
        exchange.identity = identity
        if self.gate.standings:
            epoch = self.epoch + perf_counter()
            plan = self.scoring.plan(exchange, identity, plan, epoch)
        exchange.plan = plan
        if not plan.cells:
            return None
        if not facts.billable or not exchange.hold:
            exchange.costs = actual_costs(plan, Usage(), 0, 0, failed=True)
            return None
        exchange.costs = costs = self._estimate(exchange, facts, identity, plan)
        if not self.gate.quiet:
            found = self.gate.check_costs(plan, costs, self.now())
        if found is None and (place := oversized(plan, costs)) >= 0:
            found = refuse_oversized(plan, place, costs)
        return None if found is None else Refusal.policy(found)

    def _refuse_block(self, exchange: Exchange, block: Block) -> Refusal:
        exchange.verdict = verdict_of(block)
        return Refusal.policy(BLOCKED)

    def _plan(self, identity: Identity, model: str) -> LimitPlan:
        return self.tables.plans.plan(identity, model, self.store.now_us() / 1e6)

    def _estimate(
        self,
        exchange: Exchange,
        facts: RequestFacts,
        identity: Identity,
        plan: LimitPlan,
    ) -> tuple[int, ...]:
        prompt = self.estimator.estimate(facts.model, facts)
        completion = self.expectation.expect(identity.key, facts)
        exchange.prompt_estimate = prompt
        nanos = 0
        prices = exchange.prepared.prices
        if plan.least_usd < NO_BOUND and prices is not None:
            expected = Usage(prompt=prompt, completion=completion)
            nanos = prices.cost_nanos(facts.model, expected) or 0
        return reserve_costs(plan, prompt, completion, nanos)

    def limit_refusal(self, exchange: Exchange, reserved: Reserved) -> Refusal:
        """What the store refused, remembered while nothing can make room."""
        plan = exchange.plan
        assert plan is not None
        self.gate.remember(reserved, self.now())
        return Refusal.policy(refuse_limit(plan, reserved, self.store.now_us()))

    def limit_fields(self, plan: LimitPlan, reserved: Reserved) -> bytes:
        return ratelimit_headers(plan, reserved, self.store.now_us())

    # -- score, decide --------------------------------------------------------------

    def look_at(self, exchange: Exchange, plain: bytes) -> None:
        """Take the prompt's fingerprint, where somebody wants to know it."""
        identity = exchange.prepared.identity
        if identity is not None and identity.policy.anomaly.enabled:
            exchange.fingerprint = self.scoring.fingerprint(plain)

    def score(self, exchange: Exchange, identity: Identity) -> None:
        """What is thought of the request, and what was decided about its sender."""
        self.scoring.score(exchange, identity, self.epoch + perf_counter())
        rung = exchange.verdict.rung
        if rung == "allow":
            return
        if identity.policy.mode == "observe":
            exchange.would = exchange.would or rung
        elif exchange.action == "allow":
            exchange.action = rung

    def hold(self, exchange: Exchange, refusal: Refusal) -> bool:
        """Keep a throttled request back for a while instead of refusing it."""
        identity = exchange.identity
        if identity is None or not self.scoring.may_hold(exchange, identity):
            return False
        wait_s = min(identity.policy.anomaly.delay_s, max(refusal.retry_after, 0.001))
        exchange.waited_s += wait_s
        self.loop.call_later(wait_s, self._let_go, exchange)
        return True

    def _let_go(self, exchange: Exchange) -> None:
        self.scoring.delayed -= 1
        exchange.on_held()

    def free_plan(self, exchange: Exchange) -> bool:
        """Of a throttled request that has waited: its other limits still hold. Whether
        there are any.
        """
        plan = exchange.plan
        if plan is None or plan.unthrottled is None:
            return False
        exchange.plan, exchange.costs = plan.unthrottled, exchange.costs[:-1]
        return bool(exchange.plan.cells)

    # -- answers ------------------------------------------------------------------

    def inflate(
        self,
        encoding: bytes,
        body: bytes,
        done: Callable[[bytes | InflateError], None],
    ) -> None:
        """Decode a compressed request body, bounded, in a thread: a small one may
        become a large one.
        """
        settings = self.tables.settings
        future = self.loop.run_in_executor(
            None,
            _inflate,
            encoding.decode("latin-1"),
            body,
            settings.max_inflate,
            settings.max_inflate_ratio,
        )
        future.add_done_callback(lambda ended: done(ended.result()))

    def error_body(self, match: Match | None, refusal: Refusal) -> tuple[bytes, bytes]:
        """Body in the client's dialect, and the fields that the dialect adds."""
        if match is None:
            return wire_error_body(refusal.status, refusal.message, refusal.code), b""
        dialect = match.dialect
        body = dialect.error_body(
            refusal.status, refusal.code, refusal.message, refusal.param
        )
        fields = dialect.error_headers(refusal.status, refusal.code)
        return body, b"".join(b"%b: %b\r\n" % pair for pair in fields)

    def http_date(self) -> bytes:
        now = int(self.epoch + perf_counter())
        if now != self._date_at:
            self._date_at = now
            self._date = formatdate(now, usegmt=True).encode()
        return self._date

    def next_request_id(self) -> bytes:
        self._id_count += 1
        return b"%b%08x" % (self._id_prefix, self._id_count)

    # -- ends ---------------------------------------------------------------------

    def may_drain(self, exchange: Exchange) -> bool:
        """Whether the answer of a client that left is read to its end."""
        route = exchange.prepared.route
        if route is None or not route.drain_on_leave:
            return False
        if route.draining >= route.drain_max:
            self.drain_refused += 1
            return False
        route.draining += 1
        exchange.drains_until = self.now() + route.drain_s
        if exchange.up is not None:
            exchange.up.resume_reading()
        return True

    def count(self, exchange: Exchange, task: CountTask, ended_at: float) -> None:
        """Tokenize off the loop, then settle."""
        self.counting += 1

        def counted(usage: Usage) -> None:
            self.counting -= 1
            exchange.settled(usage, ended_at)

        self.counter.submit(task, counted)

    def price(self, exchange: Exchange, facts: RequestFacts, usage: Usage) -> int:
        """Nano-dollars of an answer, by the prices that were in force at its start."""
        prices = exchange.prepared.prices
        nanos = None if prices is None else prices.cost_nanos(facts.model, usage)
        if nanos is None:
            exchange.unpriced = True
            return 0
        return nanos

    def learn(self, exchange: Exchange, facts: RequestFacts, usage: Usage) -> None:
        """The next estimate is better for what this answer said."""
        if usage.source == "upstream":
            self.estimator.learn(facts.model, facts, usage.prompt)
        if exchange.identity is not None:
            self.expectation.learn(exchange.identity.key, usage.completion)

    def write_record(self, record: RequestRecord) -> None:
        try:
            payload = _encode(record)
        except UnicodeEncodeError:
            # A model's name may hold half a surrogate pair: JSON allows it.
            payload = _encode(_printable(record))
        if not self.append_record(payload):
            self.dropped_records += 1

    # -- time ---------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second: clock, leases, pools, background answers."""
        now = self.now()
        self.epoch = time.time() - perf_counter()
        if now - self._renewed_at >= RENEW_S:
            self._renewed_at = now
            self._renew_leases()
        self._announce(perf_counter() - ANNOUNCE_AFTER_S)
        for exchange in [e for e in self.open_exchanges if e.drains_until <= now]:
            exchange.outcome = "client_closed"
            exchange.leave_upstream()
        for route in self.tables.routes:
            route.pool.prune(now)

    def _announce(self, before: float) -> None:
        """Tell control of requests that are still open: detection cannot wait for the
        end of a long answer.
        """
        for exchange in self.open_exchanges:
            if exchange.announced or exchange.opened_at >= before:
                continue
            # A request that is not whole yet has no prompt: it waits for its record.
            if exchange.sent_at:
                identity = exchange.identity
                if identity is not None and identity.policy.anomaly.enabled:
                    exchange.announced = True
                    announce(exchange)

    def _renew_leases(self) -> None:
        for exchange in self.open_exchanges:
            reserved = exchange.reserved
            if reserved is not None and reserved.admitted and reserved.lease:
                self.store.renew(reserved)

    def replace_tables(self, tables: Tables) -> None:
        """A new configuration: later requests see it, open exchanges do not."""
        self.tables = tables

    @property
    def upstream_connections(self) -> int:
        """Open now, in use or idle."""
        return sum(
            len(target.connections)
            for route in self.tables.routes
            for target in route.pool.targets
        )

    @property
    def busy(self) -> int:
        """Exchanges that are not settled yet."""
        return len(self.open_exchanges)


def _printable(record: RequestRecord) -> RequestRecord:
    texts = {
        name: value.encode("utf-8", "replace").decode()
        for name in RequestRecord.__struct_fields__
        if isinstance(value := getattr(record, name), str)
    }
    return msgspec.structs.replace(record, **texts)


def _inflate(
    encoding: str, body: bytes, max_bytes: int, max_ratio: float
) -> bytes | InflateError:
    try:
        inflater = Inflater(encoding, max_bytes, max_ratio)
        plain = inflater.feed(body)
    except InflateError as error:
        return error
    if not inflater.finished:
        return InflateError("the compressed body is cut short")
    return plain

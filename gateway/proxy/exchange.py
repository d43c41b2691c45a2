"""One request and its answer, in nine steps, top to bottom.

    1 identify   prepare.py         route and identity from the head, cached with it
    2 gate       steps/gate.py      blocks, limits that are known to be exceeded
    3 read       steps/read.py      the body of a metered request, and its caps
    4 reserve    steps/reserve.py   the limits, in the store
    5 score      steps/score.py     how unusual the request is
    6 decide     steps/decide.py    pass, refuse or delay, by the policy's mode
    7 forward    here               to the upstream, and its answer to the client
    8 settle     settle.py          what was used, against what was reserved
    9 record     settle.py          one record, whatever happened before

The steps run in callbacks of ``http`` and the store; nothing here blocks. Only this
module changes the stage of an exchange, and an exchange ends exactly once.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.refusal import Refusal
from gateway.http.request_writer import CHUNKED
from gateway.http.response import RATE_LIMIT_FIELDS
from gateway.metering.dialects import OPEN_STREAM, CountTask
from gateway.metering.inflate import InflateError
from gateway.proxy.flow import Flow
from gateway.proxy.forward import NO_FIELDS, outgoing_request
from gateway.proxy.later import PaidLater
from gateway.proxy.leaving import STAYS, Leaving
from gateway.proxy.local_reply import refuse_coding, upstream_failed
from gateway.proxy.relay import NO_USAGE, AnswerRelay
from gateway.proxy.session import LiveSession, check_session
from gateway.proxy.settle import conclude, conclude_session, metering_failed, record
from gateway.proxy.stage import Stage
from gateway.proxy.steps.decide import Decision, decide, delay_s
from gateway.proxy.steps.gate import check_head
from gateway.proxy.steps.read import (
    facts_of_head,
    facts_of_size,
    read_body,
)
from gateway.proxy.steps.reserve import plan_limits, refuse_reserved
from gateway.proxy.steps.score import score
from gateway.proxy.strangers import reserve, take_status
from gateway.proxy.time_limits import FOREVER, stage_limit
from gateway.proxy.tunnelled import MeteredTunnel
from gateway.proxy.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.model import Usage
    from gateway.http.handler import ClientSide, UpstreamSide
    from gateway.http.heads import RequestFields
    from gateway.http.response import AnswerHead
    from gateway.limits.ports import Reserved
    from gateway.proxy.prepare import RequestContext
    from gateway.proxy.shared import Shared


class Exchange:
    """Drives one flow from ``begin`` to ``_end``; owns its stage and connections."""

    __slots__ = (
        "_on_end",
        "answer",
        "buffer_limit",
        "client",
        "flow",
        "in_begin",
        "last_activity",
        "leaving",
        "must_end_at",
        "recorded",
        "relay",
        "reserve_at",
        "reserving",
        "retried",
        "shared",
        "stage",
        "tunnel",
        "upload",
        "upstream",
    )

    def __init__(
        self,
        shared: Shared,
        client: ClientSide,
        context: RequestContext,
        own: RequestFields,
        on_end: Callable[[Exchange], None],
    ) -> None:
        self.shared = shared
        self.client: ClientSide | None = client
        request_id = own.request_id or context.request_id or shared.next_request_id()
        self.flow = Flow(context, own, request_id, shared.tracer)
        self._on_end = on_end
        self.stage: int = Stage.READING
        self.buffer_limit = context.buffer_limit
        self.relay = AnswerRelay(client)
        self.upload: Upload | None = None
        self.upstream: UpstreamSide | None = None
        self.answer: AnswerHead | None = None
        self.tunnel: MeteredTunnel | None = None
        # Inside ``begin`` the caller discards the body of a refused request.
        self.in_begin = False
        self.reserve_at = 0.0
        self.reserving = False  # the store has not answered yet
        self.retried = self.recorded = False
        # Times of the loop's clock.
        self.last_activity = 0.0
        self.must_end_at = FOREVER
        self.leaving = STAYS

    # -- 1 identify, 2 gate -------------------------------------------------------

    def begin(self) -> bool:
        """Refuse from the head alone (False), or go on and ask for the body."""
        flow, shared = self.flow, self.shared
        refusal = check_head(flow, shared)
        if refusal is not None and decide(flow, shared, refusal) is not Decision.PASS:
            # Nothing is reserved or connected yet: shorter than ``refuse``.
            flow.refused_with(refusal)
            answer = self.relay.compose(flow, shared, refusal, self.client)
            self.stage = Stage.ENDED
            record(flow, shared, NO_USAGE, 0, perf_counter())
            self._on_end(self)
            self.relay.write(answer)
            return False
        if not self.buffer_limit:
            self.in_begin = True
            self._begin_upload()
            self.in_begin = False
        return self.stage != Stage.ENDED

    def _begin_upload(self) -> None:
        """Pass the body on unread: the request counts by its endpoint alone."""
        flow = self.flow
        flow.facts = facts_of_head(flow)
        refusal = check_session(flow) if flow.context.session else None
        if refusal is not None and not self._passes(refusal):
            return
        length = CHUNKED if flow.head.chunked else flow.content_length
        if self.client is not None and length:
            self.upload = Upload(self.client, length)
        self._reserve()

    # -- 3 read -------------------------------------------------------------------

    def on_body(self, body: bytes) -> None:
        """The whole body of a metered request, or one piece of an upload."""
        if self.stage == Stage.ENDED:
            return
        if self.upload is not None:
            self.upload.take(body)
            return
        flow = self.flow
        flow.client_wait_s = perf_counter() - flow.opened_at
        flow.body = body
        if coding := flow.context.request_encoding:
            self.shared.decoder.decode(coding, body, self.shared.tables.settings, self)
        else:
            self._read(body)

    def on_decoded(self, plain: bytes | InflateError) -> None:
        """The compressed body is decoded, or cannot be."""
        if self.stage == Stage.ENDED:
            return
        if self.client is None:
            self._settle_unsent()
        else:
            self._read(plain)

    def _read(self, plain: bytes | InflateError) -> None:
        flow = self.flow
        if isinstance(plain, bytes):
            refusal = read_body(flow, self.shared, plain)
        else:
            refusal = refuse_coding(plain)
        if refusal is None or self._passes(refusal):
            if flow.facts is None:  # unreadable: observe mode
                flow.leave_unread(facts_of_size(flow, len(flow.body)))
            self._reserve()

    # -- 4 reserve ----------------------------------------------------------------

    def _reserve(self) -> None:
        flow = self.flow
        refusal = plan_limits(flow, self.shared)
        if refusal is not None and not self._passes(refusal):
            return
        if flow.plan is not None and flow.plan.cells:
            self._ask_store()
        else:
            self._score()

    def _ask_store(self) -> None:
        self.stage = Stage.RESERVING
        self.reserving = True
        self.reserve_at = perf_counter()
        reserve(self.flow, self.shared, self._on_reserved)

    def _on_reserved(self, reserved: Reserved) -> None:
        flow = self.flow
        flow.reserved = reserved
        self.reserving = False
        flow.store_s = perf_counter() - self.reserve_at
        if self.stage == Stage.ENDED or self.client is None:
            if not reserved.admitted:
                flow.reserved = None  # refused, and nothing passes: nothing counts
            self._settle_unsent()
            return
        if not reserved.admitted:
            if flow.unbounded and flow.ask_less(reserved):
                self._ask_store()
                return
            if not self._passes(refuse_reserved(flow, self.shared, reserved)):
                return
        self._score()

    # -- 5 score ------------------------------------------------------------------

    def _score(self) -> None:
        flow = self.flow
        identity = flow.identity
        if identity is not None and identity.policy.anomaly.enabled:
            began = perf_counter()
            verdict = score(flow, self.shared, identity)
            flow.score_s = perf_counter() - began
            if flow.verdict.action == "allow":  # else control has decided already
                flow.verdict = verdict
            if flow.verdict.action != "allow":
                decide(flow, self.shared, None)
        self._forward()

    # -- 6 decide -----------------------------------------------------------------

    def _passes(self, refusal: Refusal) -> bool:
        """Whether the request goes on; else it is refused or delayed."""
        decision = decide(self.flow, self.shared, refusal)
        if decision is Decision.REFUSE:
            self.refuse(refusal)
        elif decision is Decision.DELAY:
            self._delay(refusal)
        return decision is Decision.PASS

    def _delay(self, refusal: Refusal) -> None:
        flow = self.flow
        wait_s = delay_s(flow, refusal)
        flow.delayed = True
        flow.client_wait_s += wait_s
        self.shared.loop.call_later(wait_s, self._on_delay_over)

    def _on_delay_over(self) -> None:
        """Ask the store again, without the limit of the throttle."""
        self.shared.scoring.end_delay()
        if self.stage == Stage.ENDED or self.client is None:
            return
        self.flow.reserved = None
        if self.flow.release_throttle():
            self._ask_store()
        else:
            self._score()

    # -- 7 forward ----------------------------------------------------------------

    def _forward(self, *, fresh: bool = False) -> None:
        route = self.flow.context.route
        assert route is not None
        self.stage = Stage.CONNECTING
        self.flow.sent_at = perf_counter()
        up = route.pool.acquire(self, fresh=fresh)
        if up is not None:
            self.on_connected(up)

    def on_connected(self, up: UpstreamSide) -> None:
        """Send the request on the connection that the pool found or opened."""
        if self.stage != Stage.CONNECTING:
            up.release()
            return
        self.upstream = up
        self.stage = Stage.SENT
        flow = self.flow
        drop = RATE_LIMIT_FIELDS if flow.plan and flow.plan.cells else NO_FIELDS
        request = outgoing_request(flow, self.upload, up.target)
        up.send(self, request, flow.body, drop)
        if self.upload is not None:
            self.upload.connected(up)
        conn = self.client
        if conn is not None:
            route = flow.context.route
            self.last_activity = now = self.shared.now()
            if self.must_end_at == FOREVER:
                self.must_end_at = now + flow.context.longest_s
            first_byte_s = route.first_byte_s if route is not None else 0.0
            conn.deadline = min(conn.deadline, now + first_byte_s, self.must_end_at)

    def on_connect_failed(self, status: int, reason: str) -> None:
        """No connection to any target of the upstream."""
        if self.stage != Stage.CONNECTING:
            return
        self.flow.outcome = "timeout" if status == 504 else "upstream_error"
        self.refuse(upstream_failed(status, reason))

    def on_upstream_lost(self, status: int, reason: str, *, retry: bool) -> None:
        """The connection broke before the answer's head was complete."""
        self.upstream = None
        if self.stage != Stage.SENT:
            return
        if self.leaving.waiting and not retry:
            self.leave_upstream()
            return
        if retry and not self.retried and self.upload is None and self.client:
            # Nothing came back on a connection that had been used before: it was
            # closed while idle, and the request never ran.
            self.retried = True
            self._forward(fresh=True)
            return
        self.flow.outcome = "upstream_error"
        self.refuse(upstream_failed(status, reason))

    # -- the answer ---------------------------------------------------------------

    def on_interim(self, status: int, lines: bytes) -> None:
        """Forward an interim answer (103) to an HTTP/1.1 client."""
        if self.client is not None and not self.flow.head.http10:
            self.relay.interim(status, lines)

    def on_answer_head(self, answer: AnswerHead) -> None:
        """Open a meter and pass the head on."""
        flow = self.flow
        flow.first_byte_at = perf_counter()
        self.stage = Stage.ANSWERING
        self.answer = answer
        flow.status = answer.status
        if flow.stranger is not None or answer.status == 401:
            take_status(flow, self.shared, answer.status)
        if answer.status == 101:
            return  # on_upgraded follows
        conn, route = self.client, flow.context.route
        if self.leaving.waiting:
            self.relay.begin(flow, self.shared, answer, None)
            if not self.leaving.go_on(flow, self.shared, answer.status):
                self.leave_upstream()
            return
        edited = flow.usage_requested or flow.written_cap is not None
        if edited and self.relay.hold(answer):
            return
        self.relay.begin(flow, self.shared, answer, conn)
        self.last_activity = now = self.shared.now()
        if conn is not None and route is not None:
            conn.deadline = min(conn.deadline, now + route.idle_s, self.must_end_at)

    def on_answer_body(self, data: bytes) -> None:
        """One piece of the answer; ``on_answer_flush`` writes it."""
        if (metering := self.relay.metering) is not None:
            data = metering.take(data)
        if data:
            self.relay.pieces.append(data)

    def on_answer_flush(self) -> None:
        """One read from the upstream is parsed."""
        if self.stage == Stage.ANSWERING:
            self.last_activity = self.shared.now()
            relay = self.relay
            if relay.held and relay.holds_on(self.flow, self.shared, self.client):
                return
            relay.flush()
            if (metering := relay.metering) is not None:
                if metering.scan:
                    metering.read()  # after the write: adds no latency
                if metering.over is not None:
                    self._break_answer(perf_counter(), whole=relay.cut(self.flow))

    def on_answer_end(self, complete: bool) -> None:
        """The answer has ended, or broke off (not ``complete``)."""
        ended_at = perf_counter()
        if self.relay.held is not None:
            if self.client and self.relay.refuses_edit(self.flow, complete=complete):
                self._send_again()
                return
            self.relay.let_go(self.flow, self.shared, self.client)
        if self.flow.usage_requested:
            self.relay.take_rest()
        if not complete:
            self.flow.outcome = "upstream_error"
            self.relay.flush()
            self._break_answer(ended_at)
            return
        up, self.upstream = self.upstream, None
        conn, self.client = self.client, None
        # Recorded first: a worker killed here leaves no complete answer without a record.
        self._settle(complete=True, ended_at=ended_at)
        self.relay.finish()
        if up is not None:
            if self.upload is not None and not self.upload.done:
                up.reusable = False  # it answered before it had the whole request
            up.release()
        if conn is not None:
            conn.exchange_done(keep=self.relay.keep)

    def _send_again(self) -> None:
        """Send the request once more, without what the upstream refused."""
        if self.upstream is not None:
            self.upstream.release()
        self.upstream = None
        self._forward()

    def _break_answer(self, ended_at: float, *, whole: bool = False) -> None:
        """End an answer before the upstream does; ``whole``: its protocol states why."""
        self._abandon_upstream()
        conn, self.client = self.client, None
        self._settle(complete=False, ended_at=ended_at)
        if conn is not None and whole:
            conn.exchange_done(keep=self.relay.keep)
        elif conn is not None:
            conn.abort(reset=self.relay.until_close)

    def on_upgraded(self, leftover: bytes) -> None:
        """101: join client and upstream; ``leftover`` follows the upstream's head."""
        answer, asked = self.answer, self.flow.context.upgrade.split(b", ")
        if answer is None or answer.upgrade not in asked:
            self.stage = Stage.SENT
            self.flow.outcome = "upstream_error"
            why = "the upstream switched to a protocol that was not asked for"
            self.refuse(upstream_failed(502, why))
            return
        self.stage = Stage.TUNNEL
        up, conn = self.upstream, self.client
        if up is None or conn is None:
            self.leave_upstream()
            return
        session = LiveSession(self.flow, self.shared)
        self.tunnel = MeteredTunnel(conn, up, session, self._on_tunnel_end)
        self.tunnel.start(self, answer, leftover)

    def _on_tunnel_end(self, session: LiveSession) -> None:
        self.upstream = self.client = None
        self.stage = Stage.ENDED
        conclude_session(self.flow, self.shared, session, perf_counter())
        self._ended()

    # -- back-pressure and time ---------------------------------------------------

    def on_body_end(self) -> None:
        """The last piece of an upload has arrived: the upstream's time limit starts."""
        if self.upload is not None:
            self.upload.end()
            self.last_activity = now = self.shared.now()
            self.on_deadline(now)

    def on_client_writable(self, writable: bool) -> None:
        """Read the upstream only while the client takes the answer."""
        up = self.upstream
        if up is not None:
            up.resume_reading() if writable else up.pause_reading()

    def on_upstream_writable(self, writable: bool) -> None:
        """Read an upload only while the upstream takes it."""
        if self.upload is not None:
            self.upload.upstream_writable(self.shared.now(), writable=writable)

    def on_deadline(self, now: float) -> None:
        """A time limit may have passed; find which, or set the next."""
        route, conn = self.flow.context.route, self.client
        if route is None or conn is None:
            return
        tunnel = self.tunnel
        active_at = self.last_activity if tunnel is None else tunnel.last_activity
        if self.stage != Stage.SENT and not conn.writable:
            active_at = now  # it is the client that does not read
        until, why = stage_limit(self.stage, route, conn, self.upload, active_at)
        if self.must_end_at <= until:
            until, why = self.must_end_at, "the exchange took too long"
        if now >= until:
            self._time_out(why)
        else:
            conn.deadline = min(conn.deadline, until)

    def _time_out(self, why: str) -> None:
        self.flow.outcome = "timeout"
        self._abandon_upstream()
        if self.tunnel is not None:
            self.tunnel.break_off()
        elif self.stage in (Stage.CONNECTING, Stage.SENT):
            self.refuse(upstream_failed(504, why))
        else:
            self._break_answer(perf_counter())

    # -- early ends ---------------------------------------------------------------

    def on_body_refused(self, status: int, reason: str) -> None:
        """The body is too large, too slow, or malformed."""
        if self.stage == Stage.ANSWERING:
            self.flow.outcome = "client_closed"
            self._break_answer(perf_counter())
            return
        code = "payload_too_large" if status == 413 else "invalid_request"
        self.refuse(Refusal(status, code, reason))

    def refuse(self, refusal: Refusal) -> None:
        """Answer in place of the upstream, give back what was reserved, end."""
        if self.stage == Stage.ENDED:
            return
        self._abandon_upstream()
        self.flow.refused_with(refusal)
        conn = self.client
        answer = self.relay.compose(self.flow, self.shared, refusal, conn)
        self.client = None
        self._settle_unsent()
        self.relay.write(answer)
        if conn is not None and not self.in_begin:
            conn.exchange_done(keep=self.relay.keep)

    def on_client_gone(self) -> None:
        """Drain the upstream's answer where the route says so, else cancel it."""
        conn, self.client = self.client, None
        self.relay.conn = None
        upload = self.upload
        if upload is not None:
            upload.conn = None
        if conn is None or self.stage == Stage.ENDED:
            return
        ended = self.stage == Stage.ANSWERING and self.relay.end() != OPEN_STREAM
        if not ended:
            self.flow.outcome = "client_closed"
        if self.reserving:
            return  # settled when the store has answered
        if (
            self.stage in (Stage.SENT, Stage.ANSWERING)
            and (upload is None or upload.done)
            and self._reads_on(ended=ended)
        ):
            if self.upstream is not None:
                self.upstream.resume_reading()
            return
        self.leave_upstream()

    def _reads_on(self, *, ended: bool) -> bool:
        """Read the answer, or only its status, to meter it, if that is wanted."""
        self.leaving = Leaving()
        if self.stage == Stage.SENT and self.flow.stranger is not None:
            return self.leaving.wait(self.flow, self.shared, self.leave_upstream)
        return self.leaving.read_on(self.flow, self.shared, ended=ended)

    def leave_upstream(self) -> None:
        """Close the upstream and settle what has passed: the client is gone."""
        if self.stage == Stage.ENDED:
            return  # only its tokens are still being counted
        self._abandon_upstream()
        if self.stage == Stage.SENT and self.buffer_limit:
            self.relay.meter_lost(self.flow)
        if self.stage in (Stage.SENT, Stage.ANSWERING):
            self._settle(complete=False, ended_at=perf_counter())
        else:
            self._settle_unsent()

    def _abandon_upstream(self) -> None:
        up, self.upstream = self.upstream, None
        if up is not None:
            up.abandon()

    # -- 8 settle, 9 record -------------------------------------------------------

    def _settle_unsent(self) -> None:
        """Nothing was used: give tokens and money back; the request stays counted."""
        if self.reserving:
            self.stage = Stage.ENDED  # _on_reserved calls this again
            return
        self.relay.metering = None
        self._settle(complete=True, ended_at=perf_counter())

    def _settle(self, *, complete: bool, ended_at: float) -> None:
        self.stage = Stage.ENDED
        flow, shared = self.flow, self.shared
        try:
            usage = self.relay.usage(flow, shared, complete=complete)
            if isinstance(usage, CountTask):  # tokenized off the loop
                shared.counter.submit(usage, partial(self._end, ended_at=ended_at))
                return
            if isinstance(usage, PaidLater):
                usage.begin(shared, partial(self._end, ended_at=ended_at))
                return
        except Exception as error:  # noqa: BLE001
            usage = metering_failed(flow, shared, error)
        self._end(usage, ended_at)

    def _end(self, usage: Usage, ended_at: float) -> None:
        if not self.recorded:
            self.recorded = True
            conclude(self.flow, self.shared, usage, ended_at)
            self._ended()

    def _ended(self) -> None:
        if self.leaving is not STAYS:
            self.leaving.end()
        self._on_end(self)

"""One request and its answer, in nine steps, top to bottom.

    identify -> gate -> read -> reserve -> score -> decide -> forward -> settle -> record

The steps are called back by the wire (``http``) and the store; nothing here waits. An
exchange ends exactly once, in ``_record``, whatever broke before.
"""

from __future__ import annotations

from enum import IntEnum
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.model import NO_TRACE, RequestFacts, Usage
from gateway.detect.inline import NOTHING
from gateway.http.response import RATE_LIMIT_FIELDS
from gateway.metering.dialects import CountTask, DialectError
from gateway.metering.inflate import InflateError
from gateway.proxy import tunnelled
from gateway.proxy.answer import AnswerWriter, status_line
from gateway.proxy.caps import check_caps
from gateway.proxy.metering import Metering, open_lost_metering, open_metering
from gateway.proxy.prepare import GZIP_LINE, IDENTITY_LINE
from gateway.proxy.refusal import Refusal, compose_refusal
from gateway.proxy.scoring import verdict_line
from gateway.proxy.settle import record, settle
from gateway.proxy.upload import Upload

if TYPE_CHECKING:
    from gateway.core.model import Outcome
    from gateway.http.client import ClientConnection
    from gateway.http.heads import Changing
    from gateway.http.response import AnswerHead
    from gateway.http.upstream import UpstreamConnection
    from gateway.identity.identify import Identity
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved
    from gateway.proxy.prepare import Prepared
    from gateway.proxy.route import Route
    from gateway.proxy.service import Service

NO_FIELDS: frozenset[bytes] = frozenset()
NO_TOKENS = Usage()
FOREVER = float("inf")
# What the upstream is told of a request that passes.
_MARKED = frozenset({"tag", "throttle"})


class Stage(IntEnum):
    """How far an exchange has come."""

    READING = 0
    RESERVING = 1
    CONNECTING = 2
    SENT = 3
    ANSWERING = 4
    TUNNEL = 5
    ENDED = 6


class Exchange:
    """Owned by the service from ``begin`` to ``_record``."""

    __slots__ = (
        "action",
        "announced",
        "answer",
        "asked_usage",
        "body",
        "conn",
        "costs",
        "drains_until",
        "facts",
        "fingerprint",
        "first_at",
        "head",
        "held",
        "hold",
        "identity",
        "last_rx",
        "length",
        "limit_name",
        "metering",
        "opened_at",
        "opening",
        "outcome",
        "own_lines",
        "plan",
        "prepared",
        "prompt_estimate",
        "read_at",
        "request_id",
        "reserve_at",
        "reserved",
        "reserving",
        "retried",
        "score_s",
        "sent_at",
        "service",
        "stage",
        "status",
        "store_s",
        "stream_until",
        "trace",
        "tunnel",
        "unnamed",
        "unpriced",
        "up",
        "upload",
        "verdict",
        "waited_s",
        "would",
        "writer",
    )

    def __init__(
        self,
        service: Service,
        conn: ClientConnection,
        prepared: Prepared,
        changing: Changing,
    ) -> None:
        self.service = service
        self.conn: ClientConnection | None = conn
        self.prepared = prepared
        self.identity: Identity | None = prepared.identity
        # Where the policy lets the body name the user, the head's may be many people's:
        # until the body is read nobody knows who asks.
        self.unnamed = prepared.identity is not None and (
            prepared.identity.takes_body_user
        )
        self.head = prepared.head
        self.hold = prepared.hold
        self.length = changing.length
        if service.tracer is None:
            self.own_lines, self.trace = changing.lines, NO_TRACE
        else:
            own_lines = prepared.trace_lines + changing.lines
            self.trace, self.own_lines = service.tracer.join(own_lines)
        self.writer = AnswerWriter(conn)
        self.stage = Stage.READING
        self.opened_at = self.read_at = perf_counter()
        self.waited_s = 0.0  # for the client's body
        self.reserve_at = self.store_s = self.score_s = 0.0
        self.sent_at = self.first_at = 0.0
        self.last_rx = 0.0
        self.stream_until = FOREVER
        self.body = b""
        self.upload: Upload | None = None
        self.facts: RequestFacts | None = None
        self.plan: LimitPlan | None = None
        self.costs: tuple[int, ...] = ()
        self.prompt_estimate = 0
        self.reserved: Reserved | None = None
        self.reserving = False
        # Still inside ``begin``: the wire has to pass over the body of a refusal.
        self.opening = False
        self.up: UpstreamConnection | None = None
        self.retried = False
        self.answer: AnswerHead | None = None
        self.metering: Metering | None = None
        self.asked_usage = False  # the gateway did, so it takes the chunk out again
        self.tunnel: tunnelled.MeteredTunnel | None = None
        self.status = 0
        self.action = "allow"
        self.would = ""
        self.unpriced = False
        self.limit_name: str | None = None
        self.verdict = NOTHING
        self.fingerprint: int | None = None
        self.held = False  # was throttled, and waits or has waited for it
        self.announced = False  # control knows of it, though it has not ended
        self.drains_until = FOREVER
        self.outcome: Outcome = "ok"
        self.request_id = (
            changing.request_id or prepared.request_id or service.next_request_id()
        )

    # -- 1 identify, 2 gate -------------------------------------------------------

    def begin(self) -> bool:
        """Refuse from the head alone, or ask for the body. True: go on."""
        prepared = self.prepared
        refusal = self.service.gate_head(self)
        if refusal is not None and not self._let_pass(refusal):
            answer = compose_refusal(self, refusal)
            self._record()
            self.writer.write(answer)
            return False
        if not self.hold:
            self.opening = True
            match = prepared.match
            billable = match is not None and match.billable
            self.facts = RequestFacts(endpoint=self._endpoint(), billable=billable)
            chunked = self.head.chunked
            if chunked or self.length:
                self.upload = Upload(self, None if chunked else self.length)
            self._reserve()
            self.opening = False
        return self.stage != Stage.ENDED

    def _let_pass(self, refusal: Refusal) -> bool:
        """Observe mode: remember what would have been, and go on."""
        identity = self.prepared.identity
        if not refusal.by_policy or identity is None:
            return False
        if identity.policy.mode != "observe":
            return False
        self.would = self.would or refusal.action
        self.limit_name = self.limit_name or refusal.limit
        return True

    # -- 3 read -------------------------------------------------------------------

    def on_body(self, body: bytes) -> None:
        if self.stage == Stage.ENDED:
            return
        if self.upload is not None:
            self.upload.take(body)
            return
        self.waited_s = perf_counter() - self.read_at
        self.body = body
        encoding = self.prepared.request_encoding
        if encoding:
            self.service.inflate(encoding, body, self._on_inflated)
        else:
            self._read(body)

    def _on_inflated(self, plain: bytes | InflateError) -> None:
        if self.stage == Stage.ENDED:
            return
        if self.conn is None:
            self._settle_unsent()
        elif isinstance(plain, bytes):
            self._read(plain)
        else:
            status = 413 if plain.too_large else 400
            self.refuse(Refusal(status, "invalid_request", str(plain)))

    def _read(self, plain: bytes) -> None:
        try:
            refusal = self._read_facts(plain)
        except DialectError as error:
            refusal = Refusal(
                400, "invalid_request", error.message, error.param, by_policy=True
            )
        if refusal is not None and not self._let_pass(refusal):
            self.refuse(refusal)
            return
        if self.facts is None:
            # Observe mode, and a body that cannot be read: by its size.
            self.facts = RequestFacts(
                endpoint=self._endpoint(), prompt_bytes=len(plain)
            )
        self._reserve()

    def _read_facts(self, plain: bytes) -> Refusal | None:
        match = self.prepared.match
        assert match is not None  # held bodies are of known endpoints
        facts = match.dialect.read_request(
            match,
            plain,
            self.head.query,
            self.head.fields.get(b"content-type", b"").decode("latin-1"),
        )
        self.facts = facts
        self.unnamed = False
        self.service.look_at(self, plain)
        refusal = None if self.prepared.capless else check_caps(self, facts)
        if refusal is None and facts.stream and not self.prepared.request_encoding:
            self._ask_usage(facts)
        return refusal

    def _ask_usage(self, facts: RequestFacts) -> None:
        """Let an OpenAI-style stream state its usage where the client did not ask."""
        route, match = self.prepared.route, self.prepared.match
        if facts.usage_asked or route is None or match is None or not route.ask_usage:
            return
        identity = self.prepared.identity
        if identity is not None and identity.signed:
            return  # the signature covers the body
        body = match.dialect.ask_usage(self.body, facts)
        if body is not None:
            self.body = body
            self.asked_usage = True

    # -- 4 reserve ----------------------------------------------------------------

    def _reserve(self) -> None:
        service = self.service
        refusal = service.plan_limits(self)
        if refusal is not None and not self._let_pass(refusal):
            self._turn_away(refusal)
            return
        if self.plan is None or not self.plan.cells:
            self._decide()
            return
        self._ask_store()

    def _ask_store(self) -> None:
        assert self.plan is not None
        self.stage = Stage.RESERVING
        self.reserving = True
        self.reserve_at = perf_counter()
        self.service.store.reserve(self.plan, self.costs, self._on_reserved)

    def _on_reserved(self, reserved: Reserved) -> None:
        self.reserved = reserved
        self.reserving = False
        self.store_s = perf_counter() - self.reserve_at
        if self.stage == Stage.ENDED or self.conn is None:
            if not reserved.admitted:
                self.reserved = None  # refused, and nothing passes: nothing counts
            self._settle_unsent()
            return
        if not reserved.admitted:
            refusal = self.service.limit_refusal(self, reserved)
            if not self._let_pass(refusal):
                self._turn_away(refusal)
                return
        self._decide()

    def _turn_away(self, refusal: Refusal) -> None:
        """Refuse, unless the policy would rather slow a throttled client down."""
        if refusal.action != "throttle" or not self.service.hold(self, refusal):
            self.refuse(refusal)

    def on_held(self) -> None:
        """The throttled client has waited long enough."""
        if self.stage == Stage.ENDED or self.conn is None:
            return
        self.reserved = None
        if self.service.free_plan(self):
            self._ask_store()
        else:
            self._decide()

    # -- 5 score, 6 decide --------------------------------------------------------

    def _decide(self) -> None:
        if self.identity is not None and self.identity.policy.anomaly.enabled:
            self.service.score(self, self.identity)
        self.read_at = perf_counter()  # from here on the upstream has it
        self._forward()

    # -- 7 forward ----------------------------------------------------------------

    def _forward(self, *, fresh: bool = False) -> None:
        route = self.prepared.route
        assert route is not None
        self.stage = Stage.CONNECTING
        self.sent_at = perf_counter()
        up = route.pool.acquire(self, fresh=fresh)
        if up is not None:
            self.on_connected(up)

    def on_connected(self, up: UpstreamConnection) -> None:
        if self.stage != Stage.CONNECTING:
            up.release()
            return
        self.up = up
        self.stage = Stage.SENT
        head = self._request_head(up)
        drop = RATE_LIMIT_FIELDS if self.plan and self.plan.cells else NO_FIELDS
        up.send(self, self.head.method, head, self.body, drop)
        if self.upload is not None:
            self.upload.connected(up)
        conn = self.conn
        if conn is not None:
            route = self.prepared.route
            now = self.service.now()
            self.last_rx = now
            if self.stream_until == FOREVER:
                self.stream_until = now + self.prepared.longest_s
            first_byte_s = route.first_byte_s if route is not None else 0.0
            conn.deadline = min(conn.deadline, now + first_byte_s, self.stream_until)

    def _request_head(self, up: UpstreamConnection) -> bytes:
        prepared = self.prepared
        if self.upload is not None:
            framing = self.upload.framing
        elif self.body or self.hold:
            framing = b"Content-Length: %d\r\n" % len(self.body)
        else:
            framing = b"Content-Length: 0\r\n" if self.length == 0 else b""
        head = prepared.head_for(up.target)
        if self.asked_usage:
            # In a coded stream the chunk could not be taken out again.
            head = head.replace(b"\r\n" + GZIP_LINE, b"\r\n" + IDENTITY_LINE, 1)
        if self.action in _MARKED:
            head += verdict_line(self.verdict)
        return b"%b%bX-Request-Id: %b\r\n%b\r\n" % (
            head,
            self.own_lines,
            self.request_id,
            framing,
        )

    def on_connect_failed(self, status: int, reason: str) -> None:
        if self.stage != Stage.CONNECTING:
            return
        self.outcome = "timeout" if status == 504 else "upstream_error"
        self.refuse(Refusal.upstream(status, reason))

    def on_upstream_lost(self, status: int, reason: str, *, retry: bool) -> None:
        self.up = None
        if self.stage != Stage.SENT:
            return
        if retry and not self.retried and self.upload is None and self.conn:
            # Nothing came back on a connection that had been used before: it was
            # closed while idle, and the request never ran.
            self.retried = True
            self._forward(fresh=True)
            return
        self.outcome = "upstream_error"
        self.refuse(Refusal.upstream(status, reason))

    # -- the answer ---------------------------------------------------------------

    def on_interim(self, status: int, lines: bytes) -> None:
        """103 and the like pass to whoever speaks HTTP/1.1."""
        if self.conn is not None and not self.head.http10:
            self.conn.transport.write(b"%b%b\r\n" % (status_line(status), lines))

    def on_answer_head(self, answer: AnswerHead) -> None:
        self.first_at = perf_counter()
        self.stage = Stage.ANSWERING
        self.answer = answer
        self.status = answer.status
        if answer.status == 101:
            return  # on_upgraded follows
        match, facts = self.prepared.match, self.facts
        metering = None
        if (
            match is not None
            and facts is not None
            and self.head.method == "POST"
            and not answer.no_body
        ):
            settings = self.service.tables.settings
            metering = open_metering(match, facts, answer, settings, self.asked_usage)
            self.metering = metering
        conn = self.conn
        if conn is None:
            return
        keep = not (conn.close_after or conn.body_pending or self.service.draining)
        self.writer.head(
            self.head,
            answer,
            self._own_fields(answer),
            keep=keep,
            rewritten=metering is not None and metering.filter is not None,
        )
        route = self.prepared.route
        self.last_rx = now = self.service.now()
        if route is not None:
            conn.deadline = min(conn.deadline, now + route.idle_s, self.stream_until)

    def _own_fields(self, answer: AnswerHead) -> bytes:
        fields = b""
        if self.reserved is not None and self.plan is not None:
            fields = self.service.limit_fields(self.plan, self.reserved)
        if not answer.request_id:
            fields += b"X-Request-Id: %b\r\n" % self.request_id
        return fields

    def on_answer_body(self, data: bytes) -> None:
        metering = self.metering
        if metering is not None:
            data = metering.take(data)
        if data:
            self.writer.pieces.append(data)

    def on_answer_flush(self) -> None:
        if self.stage == Stage.ANSWERING:
            self.last_rx = self.service.now()
            self.writer.flush()
            if self.metering is not None:
                self.metering.read()

    def on_answer_end(self, complete: bool) -> None:
        up, self.up = self.up, None
        ended_at = perf_counter()
        metering = self.metering
        if metering is not None and metering.filter is not None:
            self.writer.pieces.append(metering.filter.flush())
        conn, self.conn = self.conn, None
        if not complete:
            self.outcome = "upstream_error"
            self.writer.flush()
            if up is not None:
                up.abandon()
            self._settle(complete=False, ended_at=ended_at)
            if conn is not None:
                conn.abort(reset=self.writer.until_close)
            return
        # The record first: a worker that is killed here has answered nobody without one.
        self._settle(complete=True, ended_at=ended_at)
        self.writer.finish()
        if up is not None:
            if self.upload is not None and not self.upload.done:
                up.spent = True  # it answered before it had the whole request
            up.release()
        if conn is not None:
            conn.exchange_done(keep=self.writer.keep)

    def on_upgraded(self, leftover: bytes) -> None:
        answer, asked = self.answer, self.prepared.upgrade.split(b", ")
        if answer is None or answer.upgrade not in asked:
            self.stage = Stage.SENT
            self.outcome = "upstream_error"
            why = "the upstream switched to a protocol that was not asked for"
            self.refuse(Refusal.upstream(502, why))
            return
        self.stage = Stage.TUNNEL
        tunnelled.open_tunnel(self, leftover)

    # -- back-pressure and time ---------------------------------------------------

    def on_body_end(self) -> None:
        if self.upload is not None:
            self.upload.end()
            self.last_rx = now = self.service.now()
            self.on_deadline(now)  # from here on it is the upstream's turn

    def on_client_writable(self, writable: bool) -> None:
        up = self.up
        if up is not None:
            up.resume_reading() if writable else up.pause_reading()

    def on_upstream_writable(self, writable: bool) -> None:
        if self.upload is not None:
            self.upload.upstream_writable(writable=writable)

    def on_deadline(self, now: float) -> None:
        """A time limit may have passed; find which, or set the next."""
        route, conn = self.prepared.route, self.conn
        if route is None or conn is None:
            return
        until, why = FOREVER, ""
        if self.stage == Stage.SENT:
            until, why = self._answer_due(conn, route)
        elif self.stage in (Stage.ANSWERING, Stage.TUNNEL):
            since = self.last_rx if conn.writable else now
            until, why = since + route.idle_s, "the upstream fell silent"
        if self.stream_until <= until:
            until, why = self.stream_until, "the exchange took too long"
        if now >= until:
            self._time_out(why)
        else:
            conn.deadline = min(conn.deadline, until)

    def _answer_due(self, conn: ClientConnection, route: Route) -> tuple[float, str]:
        """When the upstream must have done what it is waited for, and that."""
        upload = self.upload
        if upload is None or upload.done:
            return (
                self.last_rx + route.first_byte_s,
                "the upstream did not answer in time",
            )
        if upload.stalled_at:
            longest = conn.listener.settings.write_timeout_s
            return upload.stalled_at + longest, "the upstream does not take the request"
        return FOREVER, ""  # it is the client who is waited for

    def _time_out(self, why: str) -> None:
        self.outcome = "timeout"
        up, self.up = self.up, None
        if up is not None:
            up.abandon()
        if self.tunnel is not None:
            self.tunnel.break_off()
        elif self.stage in (Stage.CONNECTING, Stage.SENT):
            self.refuse(Refusal.upstream(504, why))
        else:
            self._break_answer()

    def _break_answer(self) -> None:
        """The answer has begun and cannot be brought to its end."""
        up, self.up = self.up, None
        if up is not None:
            up.abandon()
        conn, self.conn = self.conn, None
        self._settle(complete=False, ended_at=perf_counter())
        if conn is not None:
            conn.abort(reset=self.writer.until_close)

    # -- ends before the answer's own ---------------------------------------------

    def on_body_refused(self, status: int, reason: str) -> None:
        if self.stage == Stage.ANSWERING:
            self.outcome = "client_closed"
            self._break_answer()
            return
        code = "payload_too_large" if status == 413 else "invalid_request"
        self.refuse(Refusal(status, code, reason))

    def refuse(self, refusal: Refusal) -> None:
        """Answer in place of the upstream, give back what was reserved, end."""
        if self.stage == Stage.ENDED:
            return
        up, self.up = self.up, None
        if up is not None:
            up.abandon()
        conn = self.conn
        answer = compose_refusal(self, refusal)
        self.conn = None
        self._settle_unsent()
        self.writer.write(answer)
        if conn is not None and not self.opening:
            conn.exchange_done(keep=self.writer.keep)

    def on_client_gone(self) -> None:
        conn, self.conn = self.conn, None
        self.writer.conn = None
        if conn is None or self.stage == Stage.ENDED:
            return
        self.outcome = "client_closed"
        if self.reserving:
            return  # settled when the store has answered
        if (
            self.stage in (Stage.SENT, Stage.ANSWERING)
            and (self.upload is None or self.upload.done)
            and self.service.may_drain(self)
        ):
            return
        self.leave_upstream()

    def leave_upstream(self) -> None:
        """Nobody waits for this answer: close the upstream, settle what passed."""
        if self.stage == Stage.ENDED:
            return  # only its tokens are still being counted
        up, self.up = self.up, None
        if up is not None:
            up.abandon()
        match, facts = self.prepared.match, self.facts
        if self.stage == Stage.SENT and self.hold and match and facts:
            self.metering = open_lost_metering(match, facts)
        if self.stage in (Stage.SENT, Stage.ANSWERING):
            self._settle(complete=False, ended_at=perf_counter())
        else:
            self._settle_unsent()

    # -- 8 settle, 9 record -------------------------------------------------------

    def settle_tunnel(self, usage: Usage) -> None:
        """A tunnel has ended; the frames said what it cost."""
        self.conn = None
        self.stage = Stage.ENDED
        self.settled(usage, perf_counter())

    def _settle_unsent(self) -> None:
        """Nothing was used: tokens and money go back, the request stays counted."""
        if self.reserving:
            self.stage = Stage.ENDED  # _on_reserved comes back here
            return
        self.metering = None
        self._settle(complete=True, ended_at=perf_counter())

    def _settle(self, *, complete: bool, ended_at: float) -> None:
        self.stage = Stage.ENDED
        usage: Usage | CountTask | None = NO_TOKENS
        if self.metering is not None:
            self.metering.read()
            usage = self.metering.finish(complete=complete)
        if isinstance(usage, CountTask):
            usage.body = b"" if self.prepared.request_encoding else self.body
            usage.prompt_estimate = self.prompt_estimate
            self.service.count(self, usage, ended_at)
        else:
            self.settled(usage or NO_TOKENS, ended_at)

    def settled(self, usage: Usage, ended_at: float) -> None:
        nanos = settle(self, usage)
        record(self, usage, nanos, ended_at)
        self.service.closed(self)

    def _record(self) -> None:
        self.stage = Stage.ENDED
        record(self, NO_TOKENS, 0, perf_counter())
        self.service.closed(self)

    def _endpoint(self) -> str:
        match = self.prepared.match
        return "other" if match is None else match.endpoint

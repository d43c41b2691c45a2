"""Step 7, towards the client: the upstream's answer, metered, or a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.core.model import Usage
from gateway.http.answer import AnswerWriter
from gateway.metering.dialects import OPEN_STREAM, NullMeter
from gateway.metering.dialects.refused import names_stream_options, refuses_member
from gateway.metering.inflate import InflateError, Inflater
from gateway.proxy.caps import deployment_of, rename_cap
from gateway.proxy.later import PaidLater, is_poll, paid_later
from gateway.proxy.local_reply import compose_refusal
from gateway.proxy.metering import Metering, open_lost_metering, open_metering
from gateway.proxy.overrun import growing, last_event
from gateway.proxy.settle import metering_failed, reserved_usage
from gateway.proxy.steps.reserve import limit_lines

if TYPE_CHECKING:
    from gateway.core.refusal import Refusal
    from gateway.http.handler import ClientSide
    from gateway.http.response import AnswerHead
    from gateway.metering.dialects import CountTask
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

NO_USAGE = Usage()
# Status of an answer that refuses a member of the request, and bytes of it that are held.
_REFUSALS = frozenset({400, 422})
HELD_BYTES = 64 * 1024


def _plain(body: bytes, answer: AnswerHead) -> bytes:
    """The error decoded, as far as it can be."""
    coding = answer.content_encoding.lower()
    if not coding or coding == b"identity":
        return body
    try:
        return Inflater(coding.decode("latin-1"), HELD_BYTES).feed(body)
    except InflateError:
        return b""


def _remember(flow: Flow) -> None:
    """Write the next requests in the form that the upstream took this time."""
    route, facts = flow.context.route, flow.facts
    if route is None or facts is None:
        return
    tenant = "" if flow.identity is None else flow.identity.tenant.name
    if "usage" in flow.resent:
        route.remember_unasked(tenant, facts.model)
    cap = flow.written_cap
    if cap is not None and "cap" in flow.resent:
        route.cap_names.put((tenant, deployment_of(flow)), cap.name)


class AnswerRelay(AnswerWriter):
    """One answer on its way to the client, with the meter that reads it.

    ``exchange`` appends the pieces of the body itself, which saves a call per piece.
    """

    __slots__ = ("held", "metering")

    def __init__(self, conn: ClientSide) -> None:
        AnswerWriter.__init__(self, conn)  # faster than super() in 3.11
        self.metering: Metering | None = None
        # The head of an answer that may refuse the gateway's request for usage; its body
        # is in ``pieces``.
        self.held: AnswerHead | None = None

    def begin(
        self, flow: Flow, shared: Shared, answer: AnswerHead, conn: ClientSide | None
    ) -> None:
        """Open the meter; take the head. ``conn`` None: the client is gone, the answer
        is only metered.
        """
        if flow.resent and answer.status < 300:
            _remember(flow)
        try:
            metering = open_metering(flow, answer, shared.tables.settings)
            if flow.unbounded and metering is not None:
                metering = growing(flow, shared, answer, metering)
        except Exception as error:  # noqa: BLE001
            metering = Metering(NullMeter())
            metering.error = error
        self.metering = metering
        if conn is None:
            return
        origin, route = flow.head.fields.get(b"origin"), flow.context.route
        if origin is not None and route is not None:
            route.origins.learn(origin, answer, preflight=flow.context.preflight)
        lines = b"" if flow.reserved is None else limit_lines(flow, shared)
        self.head(
            flow.head,
            answer,
            lines,
            flow.request_id,
            keep=not (conn.close_after or conn.body_pending or shared.draining),
            rewritten=metering is not None and metering.filter is not None,
        )

    def hold(self, answer: AnswerHead) -> bool:
        """Hold an answer that may refuse what the gateway has written into the body: the
        request for usage, or a cap.
        """
        if answer.status in _REFUSALS:
            self.held = answer
        return self.held is not None

    def refuses_edit(self, flow: Flow, *, complete: bool) -> bool:
        """Drop the held answer if it refuses what the gateway has written in, and change
        the body, so that it is sent again. False: ``let_go`` passes the answer on.
        """
        if not complete or self.held is None:
            return False
        error, cap = _plain(b"".join(self.pieces), self.held), flow.written_cap
        if flow.usage_requested and names_stream_options(error, flow.client_body):
            flow.take_back_request()
        elif cap and "cap" not in flow.resent and refuses_member(error, cap.name):
            rename_cap(flow, cap)
        else:
            return False
        self.pieces = []
        self.held = None
        return True

    def let_go(self, flow: Flow, shared: Shared, conn: ClientSide | None) -> None:
        """Pass the held answer on."""
        answer, self.held = self.held, None
        pieces, self.pieces = self.pieces, []
        if answer is not None:
            self.begin(flow, shared, answer, conn)
            self.pieces += pieces

    def holds_on(self, flow: Flow, shared: Shared, conn: ClientSide | None) -> bool:
        """Hold the answer until its end; False: it is too long and passes on."""
        if sum(map(len, self.pieces)) <= HELD_BYTES:
            return True
        self.let_go(flow, shared, conn)
        return False

    def meter_lost(self, flow: Flow) -> None:
        """Charge the prompt of an answer that will not be read."""
        self.metering = open_lost_metering(flow)

    def take_rest(self) -> None:
        """Take what the filter holds back at the end of the answer."""
        metering = self.metering
        if metering is not None and metering.filter is not None:
            self.pieces.append(metering.flush())

    def end(self) -> str:
        """How the answer stands, by its own marks."""
        metering = self.metering
        if metering is None:
            return OPEN_STREAM
        metering.read()
        return metering.end()

    def usage(
        self, flow: Flow, shared: Shared, *, complete: bool
    ) -> Usage | CountTask | PaidLater:
        """The usage of the bytes relayed so far, or a task that counts it, or work that is
        paid later. After a fault of the gateway: what was reserved.
        """
        metering = self.metering
        if metering is None:
            return NO_USAGE
        if not complete:
            flow.note_cut()
        metering.read()
        usage = metering.finish(flow, complete=complete)
        if metering.failed and not is_poll(flow):
            flow.fail_inside()
        if metering.unreadable and flow.status == 200 and not is_poll(flow):
            flow.note_metering("unread")
        if metering.error is not None:
            return metering_failed(flow, shared, metering.error)
        if metering.meter.implausible:
            flow.note_metering("implausible")
            if usage is None or (isinstance(usage, Usage) and usage.source == "none"):
                return reserved_usage(flow)
        if metering.work is not None:
            return paid_later(flow, shared, metering.work, usage or NO_USAGE)
        return usage or NO_USAGE

    def cut(self, flow: Flow) -> bool:
        """End a stream that has outgrown its limits, in its own protocol, with a reason.
        False: its protocol or framing cannot state one.
        """
        metering = self.metering
        if metering is None or metering.over is None:
            return False
        growth = metering.over
        flow.cut_by(growth)
        event = last_event(flow, metering, growth.reason)
        if not event or not (self.chunked or self.until_close):
            return False
        self.pieces.append(event)
        self.finish()
        return True

    def compose(
        self, flow: Flow, shared: Shared, refusal: Refusal, conn: ClientSide | None
    ) -> bytes:
        """A refusal for ``write``; b"" when the client is gone."""
        if conn is None:
            return b""
        if conn.body_pending:
            conn.close_after = True
        self.keep = keep = not (conn.close_after or shared.draining)
        match, date = flow.context.match, shared.http_date()
        origin, route = flow.head.fields.get(b"origin"), flow.context.route
        if origin is not None and route is not None:
            lines = refusal.header_lines + route.origins.lines(origin)
            refusal = msgspec.structs.replace(refusal, header_lines=lines)
        return compose_refusal(
            refusal, flow.head, match, flow.request_id, date, keep=keep
        )

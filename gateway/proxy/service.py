"""Opens the exchanges of one worker, and runs their periodic work once a second."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.proxy.exchange import Exchange
from gateway.proxy.later import drop_late
from gateway.proxy.local_reply import compose_own, wire_error_body, wire_error_lines
from gateway.proxy.prepare import prepare
from gateway.proxy.settle import record_opened

if TYPE_CHECKING:
    from gateway.http.handler import ClientSide
    from gateway.http.heads import CachedHead, RequestFields
    from gateway.proxy.prepare import RequestContext
    from gateway.proxy.shared import Shared

# A request that is open for longer is recorded before it ends.
RECORD_OPENED_AFTER_S = 0.5
# Leases are renewed at a third of their lifetime (60 s).
RENEW_S = 20.0
# Work that nobody has fetched is asked for in this interval.
LATE_WORK_S = 60.0


class Service:
    """Opens an exchange for each request head (``http.handler.ExchangeFactory``)."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.open_exchanges: set[Exchange] = set()
        self._on_end = self.open_exchanges.discard
        self._renewed_at = self._swept_at = shared.now()

    def open(
        self, conn: ClientSide, cached: CachedHead, own: RequestFields
    ) -> Exchange | None:
        """Open an exchange. None: already answered, the body is not needed."""
        shared = self.shared
        context = prepare(
            shared.tables,
            cached,
            conn.peer_ip,
            conn.tls,
            shared.epoch + perf_counter(),
            traced=shared.tracer is not None,
        )
        if context.answer_here:
            self._answer(conn, context)
            return None
        exchange = Exchange(shared, conn, context, own, self._on_end)
        self.open_exchanges.add(exchange)
        return exchange if exchange.begin() else None

    def _answer(self, conn: ClientSide, context: RequestContext) -> None:
        """Answer a request for the gateway itself: not forwarded, not recorded."""
        draining = self.shared.draining
        keep = not (conn.close_after or conn.body_pending or draining)
        conn.close_after = not keep
        date = self.shared.http_date()
        conn.transport.write(
            compose_own(context.head, date, draining=draining, keep=keep)
        )

    def refuse_wire(self, status: int, reason: str) -> tuple[bytes, bytes]:
        """Header lines and body of the answer to bytes that are not a request."""
        lines = wire_error_lines(self.shared.http_date())
        return lines, wire_error_body(status, reason)

    def tick(self) -> None:
        """Once a second: the clock, leases, records of long exchanges, drains, pools, work
        that nobody has fetched.
        """
        shared = self.shared
        now = shared.now()
        shared.sync_clock()
        if now - self._renewed_at >= RENEW_S:
            self._renewed_at = now
            self._renew_leases()
        self._record_opened(perf_counter() - RECORD_OPENED_AFTER_S)
        for exchange in [e for e in self.open_exchanges if e.leaving.until <= now]:
            exchange.leave_upstream()  # read for too long
        for route in shared.tables.routes:
            route.pool.prune(now)
        if now - self._swept_at >= LATE_WORK_S:
            self._swept_at = now
            drop_late(shared)

    def leave_rest(self) -> None:
        """End the exchanges whose clients have left: the worker ends."""
        for exchange in [e for e in self.open_exchanges if e.client is None]:
            exchange.leave_upstream()

    def _record_opened(self, before: float) -> None:
        """Record the exchanges that were opened earlier and still run."""
        for exchange in self.open_exchanges:
            if exchange.flow.opened_at < before:
                record_opened(exchange.flow, self.shared)

    def _renew_leases(self) -> None:
        for exchange in self.open_exchanges:
            reserved = exchange.flow.leased
            if reserved is not None and reserved.admitted and reserved.lease:
                self.shared.store.renew(reserved)
            if exchange.flow.growth is not None:
                exchange.flow.growth.renew()

    @property
    def upstream_connections(self) -> int:
        """Open connections to upstreams, in use or idle."""
        return sum(
            len(target.connections)
            for route in self.shared.tables.routes
            for target in route.pool.targets
        )

    @property
    def busy(self) -> int:
        """Exchanges that are not settled yet."""
        return len(self.open_exchanges)

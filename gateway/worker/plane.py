"""The data plane of one worker: starts, reconfigures and drains its parts."""

from __future__ import annotations

import asyncio
import ssl
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.http.listener import Listener
from gateway.identity.ids import secret_id
from gateway.limits.gate import Gate
from gateway.metering.counting import TokenCounter
from gateway.proxy.service import Service
from gateway.proxy.shared import Shared
from gateway.serve.tls import ServerTls
from gateway.worker.build import Builder, wire_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.structs import Config
    from gateway.http.tracing import Tracer
    from gateway.limits.ports import Store
    from gateway.serve.link import Message

# Interval of the check whether a drain has ended.
POLL_S = 0.02
# Exchanges aborted at the drain timeout may settle for this long.
SETTLE_ABORTED_S = 4.0


class Plane:
    """Serves requests; its configuration can be replaced.

    ``secret`` is the one of user ids (``identity``). The constructor and ``apply`` raise
    ValueError and OSError, as ``Builder.build`` does.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        builder: Builder,
        config: Config,
        secret: bytes,
        store: Store,
        gate: Gate,
        append_record: Callable[[bytes], bool],
        tracer: Tracer | None = None,
    ) -> None:
        self.loop = loop
        self.builder = builder
        self.config = config
        self.secret = secret
        self.store = store
        self.gate = gate
        self.counter = TokenCounter(loop)
        tables = builder.build(config, secret)
        self.shared = Shared(
            loop,
            tables,
            store=store,
            gate=gate,
            counter=self.counter,
            append_record=append_record,
            prefix=config.store.prefix.encode(),
            tracer=tracer,
        )
        self.service = Service(self.shared)
        server = config.server
        self.listener = Listener(
            loop, self.service, wire_settings(server), is_trusted_proxy=tables.trusts
        )
        self.tls: ServerTls | None = None
        if server.tls is not None:
            self.tls = ServerTls(server.tls.cert, server.tls.key)

    async def start(self, host: str, port: int) -> None:
        """Accept connections."""
        context = self.tls.context if self.tls is not None else None
        await self.listener.start(host, port, context)

    def apply(self, config: Config) -> None:
        """Use a new configuration for later requests; open exchanges keep theirs."""
        tables = self.builder.build(config, self.secret)
        self.shared.tables = tables
        self.listener.apply(wire_settings(config.server), tables.trusts)
        self.gate.forget_all()
        self.config = config
        if self.tls is not None:
            self.tls.refresh()

    def take_secret(self, secret: bytes) -> None:
        """Derive the user ids of later requests from another secret; open exchanges keep
        theirs. Raises as ``apply`` does; then nothing has changed.
        """
        previous, self.secret = self.secret, secret
        try:
            self.apply(self.config)
        except (ValueError, OSError):
            self.secret = previous
            raise

    def take_baselines(self, message: Message) -> None:
        """Take the expected rates from control, in requests per minute."""
        subjects = {
            (tenant, kind, id_): float(rate)
            for tenant, kind, id_, rate in message["subjects"]
        }
        self.shared.scoring.inline.take_baselines(subjects, message["busy"])

    def tick(self) -> str:
        """Once a second. Returns why the certificate could not be reloaded, if so."""
        self.service.tick()
        self.gate.drop_expired(self.shared.epoch + perf_counter())
        try:
            if self.tls is not None:
                self.tls.refresh()
        except (OSError, ssl.SSLError) as error:
            return str(error)
        return ""

    def begin_drain(self) -> None:
        """Stop accepting connections."""
        if not self.shared.draining:
            self.shared.draining = True
            self.listener.begin_drain()

    async def drain(self) -> None:
        """Finish open exchanges until ``drain_timeout``, abort the rest, settle, close."""
        self.begin_drain()
        await self._until_settled(float(self.config.server.drain_timeout))
        self.listener.abort_all()
        self.service.leave_rest()
        await self._until_settled(SETTLE_ABORTED_S)
        await self.store.close()
        self.listener.close()
        self.builder.close()
        self.counter.close()
        self.shared.decoder.close()

    async def _until_settled(self, longest_s: float) -> None:
        until = self.loop.time() + longest_s
        service, listener = self.service, self.listener
        while (service.busy or listener.unsent) and self.loop.time() < until:  # noqa: ASYNC110
            # Polled: a signal would cost the hot path something for each exchange.
            await asyncio.sleep(POLL_S)

    def stats(self) -> Message:
        """Gauges and counters of this worker, for control."""
        service, listener, store = self.service, self.listener, self.store
        shared = self.shared
        heads = listener.state.heads
        turned_away = dict(listener.counters)
        turned_away["records"] = shared.dropped_records
        turned_away["drain"] = shared.drain_refused
        turned_away["status"] = shared.status_waits_refused
        turned_away["decode"] = shared.decoder.refused
        turned_away["blocks"] = self.gate.dropped_blocks
        turned_away["delays"] = shared.scoring.delays_refused
        stats: Message = {
            "type": "stats",
            "secret_id": secret_id(self.secret),
            "inflight": service.busy,
            "connections": len(listener.connections),
            "upstream_connections": service.upstream_connections,
            "accepted": listener.state.accepted,
            "store_up": store.up,
            "breakers": int(not store.up),
            "head_hits": heads.hits,
            "head_misses": heads.misses,
            "plan_evictions": shared.tables.plans.evictions,
            "count_turned_away": self.counter.overflows,
            "over_limit": self.gate.over_limit_cells,
            "delayed": shared.scoring.delayed,
            "works_accepted": shared.works_accepted,
            "works_settled": shared.works_settled,
            "works_reserved": shared.works_reserved,
            "session_overdue": shared.session_overdue,
            "session_pauses": shared.session_pauses,
            "turned_away": turned_away,
        }
        turned_away |= store.dropped_counts()
        return stats | store.statistics()

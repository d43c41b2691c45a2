"""What the exchanges of one worker share: its clocks, tables, stores and counters."""

from __future__ import annotations

import secrets
import time
from email.utils import formatdate
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.lru import Lru
from gateway.limits.plans import DEFAULT_PREFIX
from gateway.metering.usage import (
    CompletionExpectation,
    OutsidePrompts,
    PromptEstimator,
)
from gateway.proxy.decoding import BodyDecoder
from gateway.proxy.scoring import Scoring

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.http.tracing import Tracer
    from gateway.limits.gate import Gate
    from gateway.limits.ports import Store
    from gateway.metering.counting import TokenCounter
    from gateway.metering.prices import PriceTable
    from gateway.proxy.tables import Tables

# Accepted credentials that a worker remembers, about 300 bytes each. A forgotten one is
# known again with its next answer.
MAX_ACCEPTED = 20_000


class Shared:
    """Made once for each worker. ``tables`` is replaced when the configuration changes:
    later requests see the new ones.

    Three clocks: ``now`` (the loop's, for deadlines), ``perf_counter`` (durations), and
    epoch seconds, which are ``epoch + perf_counter()``.
    """

    __slots__ = (
        "_date",
        "_date_at",
        "_id_count",
        "_id_prefix",
        "accepted",
        "append_record",
        "counter",
        "decoder",
        "drain_refused",
        "draining",
        "dropped_records",
        "epoch",
        "estimator",
        "expectation",
        "fault_logged_at",
        "faults",
        "gate",
        "loop",
        "now",
        "on_fault",
        "outside",
        "scoring",
        "session_overdue",
        "session_pauses",
        "status_waits",
        "status_waits_refused",
        "store",
        "suspects",
        "tables",
        "tracer",
        "work_tenants",
        "works_accepted",
        "works_reserved",
        "works_settled",
    )

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
        self.now = loop.time
        self.epoch = 0.0
        self.sync_clock()
        self.tables = tables
        self.store = store
        self.gate = gate
        self.counter = counter
        self.append_record = append_record  # False: the ring is full
        self.tracer = tracer
        self.estimator = PromptEstimator()
        self.expectation = CompletionExpectation()
        self.outside = OutsidePrompts()
        self.scoring = Scoring(prefix)
        self.decoder = BodyDecoder(loop)
        self.draining = False
        self.dropped_records = 0
        # Errors of the gateway while it metered, settled or recorded an answer, and the
        # worker's log of them.
        self.faults = 0
        self.fault_logged_at = float("-inf")
        self.on_fault: Callable[[str, BaseException], None] = lambda _step, _error: None
        # Senders whose credential an upstream has accepted (``prepare``: ``stranger``).
        self.accepted: Lru[tuple[str, str, str], bool] = Lru(MAX_ACCEPTED)
        # Until when an address is a suspect, after an invalid credential.
        self.suspects: Lru[str, float] = Lru(MAX_ACCEPTED)
        # Calls that wait for their status after their client has left, and those that
        # could not, as too many waited.
        self.status_waits = self.status_waits_refused = 0
        self.drain_refused = 0  # answers of clients that left, over ``drain_max``
        # Work that is paid later: accepted; settled by its end; charged as reserved, as
        # its end stated no usage, was never seen, or could not be waited for.
        self.works_accepted = self.works_settled = self.works_reserved = 0
        # Answers of WebSocket sessions whose end the upstream did not name; and times
        # that a session was not read because its client sent too many frames.
        self.session_overdue = self.session_pauses = 0
        # By hash tag: tenants whose work this worker has accepted, and their prices.
        self.work_tenants: dict[bytes, PriceTable | None] = {}
        self._id_prefix = secrets.token_hex(8).encode()
        self._id_count = 0
        self._date = b""
        self._date_at = 0

    def sync_clock(self) -> None:
        """Follow the system's clock, which may be set while the worker runs."""
        self.epoch = time.time() - perf_counter()

    def report_fault(self, step: str, error: BaseException) -> None:
        """Count an error in ``step`` that must not stop the exchange; log one a second."""
        self.faults += 1
        now = self.now()
        if now - self.fault_logged_at >= 1.0:
            self.fault_logged_at = now
            self.on_fault(step, error)

    def next_request_id(self) -> bytes:
        """Return an id for a request whose client sent none."""
        self._id_count += 1
        return b"%b%08x" % (self._id_prefix, self._id_count)

    def http_date(self) -> bytes:
        """The value of ``Date``, made once a second (RFC 9110, section 6.6.1)."""
        now = int(self.epoch + perf_counter())
        if now != self._date_at:
            self._date_at = now
            self._date = formatdate(now, usegmt=True).encode()
        return self._date

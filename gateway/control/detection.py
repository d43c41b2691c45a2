"""Detection in the running gateway: records in, verdicts and incidents out.

Runs in control only. Verdicts go through ``Enforcer`` to every worker. The learned state
is saved periodically (``baselines.py``), so that a restart continues with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.control.enforcer import Enforcer
from gateway.control.incidents import LocalIncidents
from gateway.core.model import ANONYMOUS_TENANT, CLOSED, RequestRecord
from gateway.core.pace import is_due
from gateway.detect.blocked_templates import (
    blocked_templates,
    established_clients,
    spared_users,
)
from gateway.detect.detectors import DetectionSettings, Detectors, settings_of
from gateway.detect.event_mapping import event_from_request
from gateway.detect.export import (
    ExpectedRate,
    SubjectActivity,
    expectations,
    expected_rate_of,
    subject_activity,
)
from gateway.detect.incidents import latest_output
from gateway.detect.model import REFUSED_STATUS, Event, Output
from gateway.identity.identify import ANONYMOUS
from gateway.serve.link import Message

if TYPE_CHECKING:
    from gateway.config.resolve import Resolved

# Interval of ``tick``, seconds.
TICK_S = 1.0
# Interval at which continuing tags and throttles are prolonged, seconds.
RENEW_S = 30.0
# Interval at which workers get the expected rates, seconds.
EXPECT_S = 60.0
# Interval of the expected rate in the console: one bucket of its charts, seconds.
RATE_S = 10.0
# Tenants without a request for longer do not count in that rate, seconds.
_IDLE_S = 3600.0
# Largest batch (about 20 ms of records) of which each record becomes an event. Larger
# batches are grouped: similar requests of one client become one event, with the
# fingerprint of the first. This bounds the cost of detection under load.
FULL_DETAIL = 40
# Verdicts that may restrict all clients behind an address.
_OF_ADDRESSES = frozenset({"client.throttled", "client.blocked"})


class Detection:
    """Detection of one gateway."""

    def __init__(
        self,
        enforcer: Enforcer,
        incidents: LocalIncidents,
        broadcast: Callable[[Message], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.enforcer = enforcer
        self.incidents = incidents
        self._broadcast = broadcast
        self._clock = clock
        self._detectors = Detectors(DetectionSettings(None))
        self._parked: bytes | None = None  # learned state while detection is off
        self._expected: Message | None = None
        self._established: Message | None = None
        self._spared: Message | None = None
        self._template_blocks: dict[str, float] = {}
        self._renewed_at = self._expected_at = self._rate_at = 0.0
        self.on_expected_rate: Callable[[float, ExpectedRate | None], None] = (
            lambda _now, _rate: None
        )
        """Called every 10 s with the expected rate of all tenants together."""

    # -- configuration and learned state -------------------------------------------------------

    def configure(self, resolved: Resolved) -> None:
        """Apply a configuration; verdicts of tenants without detection are removed."""
        policies = {tenant.name: tenant.policy for tenant in resolved.tenants}
        if resolved.anonymous is not None:
            policies[ANONYMOUS_TENANT] = resolved.anonymous
        settings = settings_of(policies, resolved.default, resolved.campaigns)
        if settings != self._detectors.settings:
            self._apply_settings(settings)
        self.enforcer.configure(policies, resolved.default)
        self._block_templates()
        self._send_established()
        self._send_spared(self.enforcer.judged_tenants(), anew=True)
        self.incidents.end(
            lambda name: self._detectors.engine_of(name) is not None, self._clock()
        )

    def _apply_settings(self, settings: DetectionSettings) -> None:
        """Replace the detectors; learned state survives while detection is off."""
        learned = self._parked
        if learned is None and self._detectors.engines:
            learned = self._detectors.state()
        self._detectors = Detectors(settings, learned)
        if self._parked is not None:
            # Verdicts were removed while detection was off: start without actions.
            for engine in self._detectors.engines:
                for state in engine.responses.states.values():
                    state.action = "allow"
        self._parked = None if self._detectors.engines else learned
        self._recall()

    def load(self, baselines: bytes) -> None:
        """Load learned state. Raises BaselinesError."""
        self._detectors = Detectors(self._detectors.settings, baselines)
        self._parked = None if self._detectors.engines else baselines
        self._recall()

    def _recall(self) -> None:
        """Restore incidents that were open in the learned state."""
        for engine in self._detectors.engines:
            ongoing = engine.responses.incidents.values()
            self.incidents.recall(
                latest_output(one) for one in ongoing if one.announced
            )

    def state(self) -> bytes | None:
        """The learned state; None if there is none."""
        return self._parked or (
            self._detectors.state() if self._detectors.engines else None
        )

    @property
    def learned(self) -> int:
        """Number of events processed."""
        return sum(engine.events for engine in self._detectors.engines)

    # -- records -----------------------------------------------------------------------

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Process records of finished exchanges, and of those that are still open."""
        out: list[Output] = []
        detectors = self._detectors
        for event, phase in _events(records):
            if phase != CLOSED:
                out += detectors.observe(event)
            elif event.status != REFUSED_STATUS:
                out += detectors.observe_outcome(event)
        if out:
            self._act(out)

    def _act(self, outputs: list[Output]) -> None:
        self.incidents.take(outputs)
        self.enforcer.take(outputs)
        judged = {one.tenant for one in outputs if one.type in _OF_ADDRESSES}
        self._send_spared(judged | self._spared_tenants(), anew=False)
        if self._block_templates():
            self._send_established()

    def _block_templates(self) -> bool:
        """Block templates of distributed attacks; whether any is new."""
        now, engines = self._clock(), self._detectors.engines
        return self.enforcer.block_templates(
            template
            for engine in engines
            for template in blocked_templates(engine, now)
        )

    def _send_established(self, *, anew: bool = False) -> None:
        """Send workers the clients that were established before the blocked templates of
        any gateway. Costs a pass over the whole block list.
        """
        now = self._clock()
        blocked = self.enforcer.template_blocks()
        if blocked == self._template_blocks and not (anew and blocked):
            return
        self._template_blocks = blocked
        tenants: dict[str, bytes] = {}
        for name, born in blocked.items():
            engine = self._detectors.engine_of(name)
            tenant = engine.tenants.get(name) if engine else None
            if tenant is not None:  # else established clients are not known here
                tenants[name] = established_clients(tenant, born, now)
        self._established = {"type": "settled", "tenants": tenants} if tenants else None
        self._broadcast({"type": "settled", "tenants": tenants})

    def _send_spared(self, names: set[str], *, anew: bool) -> None:
        """Send workers the users that entries on addresses do not apply to, of the
        tenants that have such entries or template blocks.
        """
        sent = self._spared_tenants()
        if names == sent and not (anew and names):
            return
        now = self._clock()
        tenants: dict[str, bytes] = {}
        for name in names:
            engine = self._detectors.engine_of(name)
            tenant = engine.tenants.get(name) if engine else None
            tenants[name] = b"" if tenant is None else spared_users(tenant, now)
        message: Message = {"type": "spared", "tenants": tenants}
        self._spared = message if tenants else None
        self._broadcast(message)

    def _spared_tenants(self) -> set[str]:
        return set(self._spared["tenants"]) if self._spared else set()

    # -- time --------------------------------------------------------------------------

    async def run(self) -> None:
        """Advance event time every second, without events as well."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Expire, prolong and publish; called once a second."""
        now = self._clock()
        self.enforcer.tick()
        out = self._detectors.advance(now)
        if out:
            self._act(out)
        renews = is_due(self._renewed_at, RENEW_S, now)
        self._block_templates()
        self._send_established(anew=renews)
        self._send_spared(self.enforcer.judged_tenants(), anew=renews)
        if renews:
            self._renewed_at = now
            for engine in self._detectors.engines:
                self.enforcer.renew(engine.responses.states.items())
        if is_due(self._rate_at, RATE_S, now):
            self._rate_at = now
            self.on_expected_rate(now, self._expected_rate(now))
        if is_due(self._expected_at, EXPECT_S, now):
            self._expected_at = now
            self._expected = self._expectations()
            self._broadcast(self._expected)

    def _expected_rate(self, now: float) -> ExpectedRate | None:
        """Expected requests per second; None while that of an active tenant is unknown."""
        expected = notable = 0.0
        active = False
        for engine in self._detectors.engines:
            for name, tenant in engine.tenants.items():
                if tenant.minute * 60.0 < now - _IDLE_S:
                    continue
                rate = expected_rate_of(engine, name)
                if rate is None:
                    return None
                active = True
                expected += rate.expected
                notable += rate.notable
        return ExpectedRate(expected, notable) if active else None

    def activity_of(
        self, kind: str, id_: str, tenant: str, *, history: bool = False
    ) -> SubjectActivity | None:
        """Observed and expected activity of a subject; None if it is unknown."""
        engine = self._detectors.engine_of(tenant)
        if engine is None:
            return None
        return subject_activity(
            engine, tenant, kind, id_, self._clock(), history=history
        )

    def _expectations(self) -> Message:
        subjects: list[Any] = []
        busy: dict[str, float] = {}
        for engine in self._detectors.engines:
            expected, busiest = expectations(engine)
            subjects += [[*key, rate] for key, rate in expected.items()]
            busy |= busiest
        return {"type": "baselines", "subjects": subjects, "busy": busy}

    def greeting(self) -> Iterable[Message]:
        """Messages for a worker that connects."""
        return filter(None, (self._expected, self._established, self._spared))


def _events(records: Sequence[RequestRecord]) -> Iterator[tuple[Event, int]]:
    """Events with their phase, in the order of their first record."""
    if len(records) <= FULL_DETAIL:
        for record in records:
            yield event_from_request(record), record.phase
        return
    for group in group_records(records):
        yield group.event(), group.record.phase


class RecordGroup:
    """Requests of one client with the same result; ``record`` is the first of them."""

    __slots__ = ("completion", "prompt", "record", "times", "total", "usd")

    def __init__(self, record: RequestRecord) -> None:
        self.record = record
        self.times = 0
        self.prompt = self.completion = self.total = 0
        self.usd = 0.0

    def event(self) -> Event:
        """The first request as an event, with the totals of all of them."""
        return msgspec.structs.replace(
            event_from_request(self.record),
            prompt_tokens=self.prompt,
            completion_tokens=self.completion,
            total_tokens=self.total,
            usd=self.usd,
            times=self.times,
        )


def group_records(records: Iterable[RequestRecord]) -> Iterable[RecordGroup]:
    """Group similar requests; the totals of counts, tokens and cost are exact."""
    groups: dict[tuple[object, ...], RecordGroup] = {}
    for r in records:
        user = ANONYMOUS if r.unnamed else r.user
        key = (r.client_ip, user, r.status, r.model, r.tenant, r.phase, r.outcome)
        group = groups.get(key)
        if group is None:
            group = groups[key] = RecordGroup(r)
        group.times += 1
        group.prompt += r.prompt_tokens
        group.completion += r.completion_tokens
        group.total += r.total_tokens or r.prompt_tokens + r.completion_tokens
        group.usd += r.usd
    return groups.values()

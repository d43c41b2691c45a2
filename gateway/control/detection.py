"""The live room of the detector: records in, verdicts and incidents out.

Control alone runs it, beside the data plane. What it decides goes through ``Enforcer``
to every worker; what it has learned goes into the store now and then, so that a restart
begins with it.
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
from gateway.detect.blocked_templates import blocked_templates, established_clients
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

TICK_S = 1.0
# How often tags and throttles that go on are prolonged for workers.
RENEW_S = 30.0
# How often workers learn what may be expected.
EXPECT_S = 60.0
# How often the tide that the console shows is looked at: once a bucket of its charts.
TIDE_S = 10.0
# A tenant without a request for so long has no part in it.
_IDLE_S = 3600.0
# Largest batch (about 20 ms of records) of which each record becomes an event. Larger
# batches are grouped: similar requests of one client become one event, with the
# fingerprint of the first. This bounds the cost of detection under load.
FULL_DETAIL = 40


class Detection:
    """Detection of one gateway."""

    def __init__(
        self,
        enforcer: Enforcer,
        book: LocalIncidents,
        broadcast: Callable[[Message], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.enforcer = enforcer
        self.book = book
        self._broadcast = broadcast
        self._clock = clock
        self._rooms = Detectors(DetectionSettings(None))
        self._put_aside: bytes | None = None  # what was learned, while nobody detects
        self._expected: Message | None = None
        self._settled: Message | None = None
        self._flooded: dict[str, float] = {}
        self._renewed_at = self._told_at = self._tide_at = 0.0
        self.on_tide: Callable[[float, ExpectedRate | None], None] = (
            lambda _now, _tide: None
        )
        """Hears every ten seconds what may be expected of all tenants together."""

    # -- configuration and memory -------------------------------------------------------

    def configure(self, resolved: Resolved) -> None:
        """Settings in force from now on; whoever is not watched any more is let go."""
        policies = {tenant.name: tenant.policy for tenant in resolved.tenants}
        if resolved.anonymous is not None:
            policies[ANONYMOUS_TENANT] = resolved.anonymous
        settings = settings_of(policies, resolved.default, resolved.campaigns)
        if settings != self._rooms.settings:
            self._settle_in(settings)
        self.enforcer.configure(policies, resolved.default)
        self._hold_floods()
        self._tell_settled()
        self.book.end(
            lambda name: self._rooms.engine_of(name) is not None, self._clock()
        )

    def _settle_in(self, settings: DetectionSettings) -> None:
        """Detection that is switched off and on again knows what it knew."""
        learned = self._put_aside
        if learned is None and self._rooms.engines:
            learned = self._rooms.state()
        self._rooms = Detectors(settings, learned)
        if self._put_aside is not None:
            # Everybody was let go meanwhile: who goes on is found anew.
            for engine in self._rooms.engines:
                for standing in engine.responses.states.values():
                    standing.action = "allow"
        self._put_aside = None if self._rooms.engines else learned
        self._recall()

    def load(self, baselines: bytes) -> None:
        """Take up what was learned before. Raises BaselinesError."""
        self._rooms = Detectors(self._rooms.settings, baselines)
        self._put_aside = None if self._rooms.engines else baselines
        self._recall()

    def _recall(self) -> None:
        """Incidents that were open when it was learned still are."""
        for engine in self._rooms.engines:
            ongoing = engine.responses.incidents.values()
            self.book.recall(latest_output(one) for one in ongoing if one.announced)

    def state(self) -> bytes | None:
        """What was learned; None: nothing at all."""
        return self._put_aside or (self._rooms.state() if self._rooms.engines else None)

    @property
    def learned(self) -> int:
        """Events taken in."""
        return sum(engine.events for engine in self._rooms.engines)

    # -- records -----------------------------------------------------------------------

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Finished exchanges, and those announced as open."""
        out: list[Output] = []
        observe, settle = self._rooms.observe, self._rooms.observe_outcome
        for event, phase in _events(records):
            if phase != CLOSED:
                out += observe(event)
            elif event.status != REFUSED_STATUS:
                out += settle(event)
        if out:
            self._act(out)

    def _act(self, outputs: list[Output]) -> None:
        self.book.take(outputs)
        self.enforcer.take(outputs)
        if self._hold_floods():
            self._tell_settled()

    def _hold_floods(self) -> bool:
        """Refuse what crowds send; whether there is anything new."""
        now, engines = self._clock(), self._rooms.engines
        return self.enforcer.hold_floods(
            flood for engine in engines for flood in blocked_templates(engine, now)
        )

    def _tell_settled(self, *, anew: bool = False) -> None:
        """Let workers know who was there before the floods of any gateway; looks through
        the whole list.
        """
        now = self._clock()
        flooded = self.enforcer.flooded()
        if flooded == self._flooded and not (anew and flooded):
            return
        self._flooded = flooded
        tenants: dict[str, bytes] = {}
        for name, born in flooded.items():
            engine = self._rooms.engine_of(name)
            tenant = engine.tenants.get(name) if engine else None
            if tenant is not None:  # else nobody knows here who is new
                tenants[name] = established_clients(tenant, born, now)
        self._settled = {"type": "settled", "tenants": tenants} if tenants else None
        self._broadcast({"type": "settled", "tenants": tenants})

    # -- time --------------------------------------------------------------------------

    async def run(self) -> None:
        """Event time passes without events as well."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Once a second: what has calmed down, what goes on, what to expect."""
        now = self._clock()
        self.enforcer.tick()
        out = self._rooms.advance(now)
        if out:
            self._act(out)
        renews = is_due(self._renewed_at, RENEW_S, now)
        self._hold_floods()
        self._tell_settled(anew=renews)
        if renews:
            self._renewed_at = now
            for engine in self._rooms.engines:
                self.enforcer.renew(engine.responses.states.items())
        if is_due(self._tide_at, TIDE_S, now):
            self._tide_at = now
            self.on_tide(now, self._tide(now))
        if is_due(self._told_at, EXPECT_S, now):
            self._told_at = now
            self._expected = self._expectations()
            self._broadcast(self._expected)

    def _tide(self, now: float) -> ExpectedRate | None:
        """Requests a second; None while that of an active tenant is not known."""
        expected = notable = 0.0
        active = False
        for engine in self._rooms.engines:
            for name, tenant in engine.tenants.items():
                if tenant.minute * 60.0 < now - _IDLE_S:
                    continue
                tide = expected_rate_of(engine, name)
                if tide is None:
                    return None
                active = True
                expected += tide.expected
                notable += tide.notable
        return ExpectedRate(expected, notable) if active else None

    def usual(
        self, kind: str, id_: str, tenant: str, *, history: bool = False
    ) -> SubjectActivity | None:
        """What is known of a subject; None for a stranger."""
        engine = self._rooms.engine_of(tenant)
        if engine is None:
            return None
        return subject_activity(
            engine, tenant, kind, id_, self._clock(), history=history
        )

    def _expectations(self) -> Message:
        subjects: list[Any] = []
        busy: dict[str, float] = {}
        for engine in self._rooms.engines:
            expected, busiest = expectations(engine)
            subjects += [[*key, rate] for key, rate in expected.items()]
            busy |= busiest
        return {"type": "baselines", "subjects": subjects, "busy": busy}

    def greeting(self) -> Iterable[Message]:
        """For a worker that comes."""
        return filter(None, (self._expected, self._settled))


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

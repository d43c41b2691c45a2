"""The product's own detector behind the interface of everything that is judged."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.detect.blocked_templates import refuses
from gateway.detect.engine import Engine
from gateway.detect.model import (
    REFUSED_STATUS,
    Campaign,
    DetectSettings,
    Event,
    Output,
)
from gateway.identity.identify import ANONYMOUS
from loadtests.scenarios.detectors import Finding
from loadtests.scenarios.labels import Ledger
from loadtests.scenarios.rows import Row


def event_of(row: Row) -> Event:
    """The event of a request; the label stays behind."""
    return Event(
        row.ts,
        row.client_ip,
        row.user,
        row.tenant,
        row.model,
        row.endpoint,
        row.prompt_tokens,
        row.completion_tokens,
        row.total_tokens,
        row.status,
        row.usd,
        row.fingerprint,
    )


class EngineDetector:
    """The product's own detector."""

    name = "tidegate"

    def __init__(self, settings: DetectSettings) -> None:
        self._engine = Engine(settings)
        self._now = 0.0

    @classmethod
    def knowing(cls, ledger: Ledger) -> EngineDetector:
        """One that is told what operators know beforehand: their own campaigns."""
        known = tuple(
            Campaign(since=c.start, to=c.end, expect=c.declared, tenant=c.tenant)
            for c in ledger.causes
            if c.declared
        )
        return cls(DetectSettings(campaigns=known))

    def observe(self, row: Row) -> Sequence[Finding]:
        self._now = row.ts
        outputs = self._engine.observe(event_of(row))
        return [self._finding(out) for out in outputs] if outputs else ()

    def refused(self, row: Row, *, read: bool) -> Sequence[Finding]:
        self._now = row.ts
        outputs = self._engine.observe(
            Event(
                row.ts,
                row.client_ip,
                row.user,
                row.tenant,
                endpoint=row.endpoint,
                status=REFUSED_STATUS,
                fingerprint=row.fingerprint if read else None,
            )
        )
        return [self._finding(out) for out in outputs]

    def advance(self, now: float) -> Sequence[Finding]:
        self._now = now
        return [self._finding(out) for out in self._engine.advance(now)]

    def floods(self, row: Row) -> bool:
        if row.fingerprint is None:
            return False
        ids = {"client_ip": row.client_ip, "user": row.user}
        if row.user == ANONYMOUS:
            del ids["user"]
        return refuses(self._engine, row.tenant, ids, row.fingerprint)

    def action_for(self, kind: str, id_: str, tenant: str) -> str:
        return self._engine.action_for(kind, id_, tenant)

    def _finding(self, out: Output) -> Finding:
        return Finding(
            ts=self._now,
            type=out.type,
            id=out.id,
            severity=out.severity,
            cls=out.cls,
            subject=(out.subject.kind, out.subject.id),
            tenant=out.tenant,
            action=out.action,
            subjects=tuple((ref.kind, ref.id) for ref in out.subjects),
        )

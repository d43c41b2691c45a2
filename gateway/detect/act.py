"""Who stands where, and which incidents are open: verdicts in, outputs out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.detect.classify import Finding
from gateway.detect.features import Track
from gateway.detect.incidents import (
    CALM_S,
    SHARED,
    Incident,
    incident_id,
    name_worst,
    worsen,
    worst_of,
)
from gateway.detect.ladder import Standing, decide_rung, raise_to, relax
from gateway.detect.model import (
    HARMLESS,
    RUNGS,
    AttackClass,
    DetectSettings,
    LadderSettings,
    Output,
    OutputType,
    Ref,
    Rung,
    Severity,
    Window,
    format_time,
)

if TYPE_CHECKING:
    from gateway.detect.population import Tenant
    from gateway.detect.templates import Template

# Evidence must last for so many looks and so long before an incident opens, unless it
# is overwhelming.
_LOOKS = 2
_LASTS_S = 2.0
# Volume without behaviour has to last longer: a burst is not an incident.
_VOLUME_LOOKS = 4
_VOLUME_LASTS_S = 60.0
_OVERWHELMING = 7.0
# A crowd's template stays marked so long after its last hit.
_MARKED_S = 600.0
_LINES: dict[Rung, OutputType] = {
    "tag": "client.tagged",
    "throttle": "client.throttled",
    "block": "client.blocked",
}
Key = tuple[str, str, str]  # tenant, kind, id


class Case(msgspec.Struct):
    """A finding about one subject and what is known around it."""

    tenant: Tenant
    subject: Ref
    known: bool
    finding: Finding
    now: float
    since: float
    observed: dict[str, float]
    expected: dict[str, float]


class Bench:
    """Standings and incidents of all subjects that were ever found."""

    def __init__(self, settings: DetectSettings) -> None:
        self.settings = settings
        self.standings: dict[Key, Standing] = {}
        self.incidents: dict[str, Incident] = {}
        self._tenants: dict[tuple[str, str], set[str]] = {}  # where a subject stands

    # -- single subjects ---------------------------------------------------------------

    def calm(self, track: Track) -> None:
        """A look found nothing: running evidence is void."""
        standing = self.standings.get((track.tenant, track.kind, track.id))
        if standing is not None and standing.evidence:
            standing.evidence = 0

    def verdict(self, case: Case, partner: Ref) -> list[Output]:
        """A look found something: count it, and act when it has lasted."""
        finding, now = case.finding, case.now
        key = (case.tenant.name, case.subject.kind, case.subject.id)
        standing = self._standing(key)
        if not standing.evidence:
            standing.first = now
        standing.evidence += 1
        if not self._lasts(standing, finding, now):
            return []
        return self._act(case, key, standing, partner)

    def _lasts(self, standing: Standing, finding: Finding, now: float) -> bool:
        if standing.incident in self.incidents:
            return True
        looks, lasts = (
            (_LOOKS, _LASTS_S)
            if finding.behaviour
            else (_VOLUME_LOOKS, _VOLUME_LASTS_S)
        )
        if finding.behaviour and finding.score >= _OVERWHELMING:
            lasts = 0.0
        return standing.evidence >= looks and now - standing.first >= lasts

    def _act(
        self, case: Case, key: Key, standing: Standing, partner: Ref
    ) -> list[Output]:
        finding, now = case.finding, case.now
        rung = self._rung(case, key)
        incident, opened = self._incident_of(case, standing, partner, rung)
        standing.incident = incident.id
        severity = self._severity(finding)
        incident.last = now
        name_worst(incident, case.subject, finding.score)
        out: list[Output] = []
        if opened:
            out.append(self._line("incident.opened", incident, now))
        elif worsen(incident, finding.score, severity, rung):
            incident.reasons = finding.reasons
            out.append(self._line("incident.updated", incident, now))
        return out + self._raise(key, rung, incident, finding, now)

    def _raise(
        self,
        key: Key,
        rung: Rung,
        incident: Incident,
        finding: Finding,
        now: float,
    ) -> list[Output]:
        if rung == "allow":
            return []
        settings = self._ladder(finding.cls)
        standing = self._standing(key)
        if not raise_to(standing, rung, now, settings):
            return []
        line = self._line(_LINES[rung], incident, now)
        return [
            msgspec.structs.replace(
                line,
                subject=Ref(key[1], key[2]),
                action=rung,
                until=format_time(standing.until),
                score=round(finding.score, 2),
                subjects=(),
            )
        ]

    def _rung(self, case: Case, key: Key) -> Rung:
        finding = case.finding
        if self.settings.observe or finding.cls in HARMLESS:
            return "allow"
        if f"{key[1]}:{key[2]}" in self.settings.allow:
            return "allow"
        rung = decide_rung(
            finding.score,
            self._ladder(finding.cls),
            behaviour=finding.behaviour,
            critical=self.settings.critical,
        )
        if rung == "block" and case.known and not self._room(case.tenant, key):
            return "throttle"
        if rung == "throttle" and not finding.behaviour and not case.known:
            # A newcomer's volume has no usual to be held to.
            return "tag"
        return rung

    def _room(self, tenant: Tenant, key: Key) -> bool:
        """Whether one more known subject of it may be blocked without a human."""
        blocked = tenant.blocked_known
        if key[2] in blocked:
            return True
        if len(blocked) + 1 > max(
            1.0, self.settings.max_blocked_share * tenant.population()
        ):
            return False
        blocked.add(key[2])
        return True

    def _ladder(self, cls: str) -> LadderSettings:
        return self.settings.class_ladders.get(cls, self.settings.ladder)

    def _severity(self, finding: Finding) -> Severity:
        if finding.cls in HARMLESS:
            return "info"
        return "critical" if finding.score >= self.settings.critical else "warning"

    # -- incidents ---------------------------------------------------------------------

    def _incident_of(
        self, case: Case, standing: Standing, partner: Ref, rung: Rung
    ) -> tuple[Incident, bool]:
        """The incident that a verdict belongs to, and whether it is a new one."""
        own = self.incidents.get(standing.incident)
        if own is not None:
            return own, False
        tenant = case.tenant.name
        other = self.standings.get((tenant, partner.kind, partner.id))
        if other is not None and other.incident in self.incidents:
            return self.incidents[other.incident], False
        if case.finding.cls in SHARED:
            for incident in self.incidents.values():
                if incident.tenant == tenant and incident.cls in SHARED:
                    incident.subject = Ref("tenant", tenant)
                    return incident, False
        return self._open(case, rung), True

    def _open(self, case: Case, rung: Rung) -> Incident:
        finding, subject, now = case.finding, case.subject, case.now
        tenant = case.tenant.name
        name = f"{subject.kind}:{subject.id}"
        incident = Incident(
            id=incident_id(tenant, finding.cls, name, now),
            tenant=tenant,
            cls=finding.cls,
            subject=subject,
            opened=case.since,
            last=now,
            score=finding.score,
            severity=self._severity(finding),
            action=rung,
            reasons=finding.reasons,
            observed=case.observed,
            expected=case.expected,
        )
        self.incidents[incident.id] = incident
        return incident

    def _line(self, kind: OutputType, incident: Incident, now: float) -> Output:
        return Output(
            type=kind,
            id=incident.id,
            ts=format_time(now),
            severity=incident.severity,
            cls=incident.cls,
            score=round(incident.score, 2),
            subject=incident.subject,
            tenant=incident.tenant,
            action=incident.action,
            until=None,
            window=Window(format_time(incident.opened), format_time(now)),
            observed=incident.observed,
            expected=incident.expected,
            reasons=incident.reasons,
            subjects=worst_of(incident),
        )

    # -- crowds and tenants --------------------------------------------------------------

    def crowd(
        self, tenant: Tenant, template: Template, finding: Finding, now: float
    ) -> list[Output]:
        """A template is flooded: an incident of the tenant; its senders join it."""
        if finding.score < self.settings.warning:
            return []
        template.abusive_until = now + _MARKED_S
        return self._of_tenant(tenant, finding, now, template.requests)

    def whole(self, tenant: Tenant, finding: Finding, now: float) -> list[Output]:
        """A surge or an outage of the tenant."""
        if finding.cls == "surge" and self._open_crowd(tenant.name) is not None:
            return []  # the excess has a name already
        return self._of_tenant(tenant, finding, now, tenant.requests)

    def _open_crowd(self, tenant: str, cls: str | None = None) -> Incident | None:
        for incident in self.incidents.values():
            if incident.tenant == tenant and incident.subject.kind == "tenant":
                if cls == incident.cls:
                    return incident
                if cls is None and incident.cls not in HARMLESS:
                    return incident
        return None

    def _of_tenant(
        self, tenant: Tenant, finding: Finding, now: float, requests: int
    ) -> list[Output]:
        cls: AttackClass = finding.cls
        incident = self._open_crowd(tenant.name, cls)
        if incident is None and cls in {"ddos", "scraping"}:
            incident = self._open_crowd(tenant.name)
        if incident is not None:
            incident.last = now
            if worsen(incident, finding.score, self._severity(finding), "allow"):
                incident.reasons = finding.reasons
                return [self._line("incident.updated", incident, now)]
            return []
        case = Case(
            tenant=tenant,
            subject=Ref("tenant", tenant.name),
            known=True,
            finding=finding,
            now=now,
            since=now,
            observed={"requests_10m": float(requests)},
            expected={},
        )
        return [self._line("incident.opened", self._open(case, "allow"), now)]

    def join(
        self,
        tenant: Tenant,
        template: Template,
        ip: Track,
        user: Track | None,
        now: float,
    ) -> list[Output]:
        """A newcomer sends a flooded template: it is part of the crowd."""
        template.abusive_until = now + _MARKED_S
        incident = self._open_crowd(tenant.name)
        if incident is None:
            return []
        incident.last = now
        out: list[Output] = []
        for track in (ip, user):
            if track is not None and not track.known(now):
                track.judged = True
                out += self._join_one(tenant, incident, track, now)
        return out

    def _join_one(
        self, tenant: Tenant, incident: Incident, track: Track, now: float
    ) -> list[Output]:
        key = (tenant.name, track.kind, track.id)
        standing = self._standing(key)
        if standing.rung == "block":
            return []
        finding = Finding(incident.cls, incident.score, True, incident.reasons)
        case = Case(
            tenant=tenant,
            subject=Ref(track.kind, track.id),
            known=False,
            finding=finding,
            now=now,
            since=now,
            observed=incident.observed,
            expected=incident.expected,
        )
        rung = self._rung(case, key)
        standing.incident = incident.id
        name_worst(incident, case.subject, finding.score)
        incident.action = max(incident.action, rung, key=RUNGS.index)
        return self._raise(key, rung, incident, finding, now)

    # -- time ------------------------------------------------------------------------------

    def sweep(self, now: float) -> list[Output]:
        """Come down from what is over, resolve what is calm."""
        out: list[Output] = []
        for key, standing in list(self.standings.items()):
            left = relax(standing, now)
            if left == "block":
                out += self._unblocked(key, standing, now)
            if standing.rung == "allow" and now - standing.first > 86_400.0:  # noqa: PLR2004
                self._forget(key)
        for incident in list(self.incidents.values()):
            if now - incident.last > CALM_S:
                del self.incidents[incident.id]
                out.append(self._line("incident.resolved", incident, now))
        return out

    def _unblocked(self, key: Key, standing: Standing, now: float) -> list[Output]:
        incident = self.incidents.get(standing.incident)
        if incident is None:
            return []
        line = self._line("client.unblocked", incident, now)
        subject = Ref(key[1], key[2])
        return [
            msgspec.structs.replace(
                line, subject=subject, action="allow", until=None, subjects=()
            )
        ]

    def close(self, now: float) -> list[Output]:
        """Resolve every open incident."""
        open_ones = list(self.incidents.values())
        self.incidents.clear()
        return [self._line("incident.resolved", one, now) for one in open_ones]

    def action_for(self, kind: str, id_: str, tenant: str | None, now: float) -> Rung:
        """The rung that a subject stands on; ``tenant`` None: the highest anywhere."""
        if tenant is not None:
            standing = self.standings.get((tenant, kind, id_))
            return _rung_now(standing, now)
        tenants = self._tenants.get((kind, id_))
        if tenants is None:
            return "allow"
        rungs = (_rung_now(self.standings.get((t, kind, id_)), now) for t in tenants)
        return max(rungs, key=RUNGS.index)

    def _standing(self, key: Key) -> Standing:
        standing = self.standings.get(key)
        if standing is None:
            standing = self.standings[key] = Standing()
            self._tenants.setdefault(key[1:], set()).add(key[0])
        return standing

    def _forget(self, key: Key) -> None:
        del self.standings[key]
        tenants = self._tenants[key[1:]]
        tenants.discard(key[0])
        if not tenants:
            del self._tenants[key[1:]]

    # -- state -----------------------------------------------------------------------------

    def state(self) -> list[object]:
        """Standings and incidents, for ``load``."""
        return [list(self.standings.items()), list(self.incidents.values())]

    def load(self, saved: bytes) -> None:
        """Take over a state."""
        standings, incidents = msgspec.msgpack.decode(saved, type=_Saved)
        for key, standing in standings:
            self._standing(key)
            self.standings[key] = standing
        self.incidents = {incident.id: incident for incident in incidents}


_Saved = tuple[list[tuple[Key, Standing]], list[Incident]]


def _rung_now(standing: Standing | None, now: float) -> Rung:
    if standing is None or now >= standing.until:
        return "allow"
    return standing.rung

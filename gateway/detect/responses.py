"""The response manager: which subjects are acted on, and which incidents are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from gateway.core.model import AttackClass, Ladder
from gateway.detect.enforcement import EnforcementStates, Key
from gateway.detect.incidents import (
    CALM_S,
    SHARED,
    IncidentState,
    concerns,
    incident_id,
    know_crowd,
    name_worst,
    same_crowd,
    share_out,
    sharpen,
    widen,
    worsen,
    worst_of,
)
from gateway.detect.ladder import (
    EnforcementState,
    decide_action,
    forgive,
    raise_to,
)
from gateway.detect.model import (
    ACTIONS,
    HARMLESS,
    DetectSettings,
    Event,
    EvidenceWindow,
    Output,
    OutputType,
    Ref,
    ResponseAction,
    Severity,
    format_time,
)
from gateway.detect.peers import LEAST_PEERS
from gateway.detect.rules.crowd import PERSISTS
from gateway.detect.rules.facts import Signal
from gateway.detect.subject import SubjectState
from gateway.detect.templates import SOURCES, is_member
from gateway.identity.identify import AllowList

if TYPE_CHECKING:
    from gateway.detect.templates import Template
    from gateway.detect.tenant import TenantState

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
# Members of a crowd ask seldom: their first block is as long as another's third.
_CROWD_STRIKES = 2
_LINES: dict[ResponseAction, OutputType] = {
    "tag": "client.tagged",
    "throttle": "client.throttled",
    "block": "client.blocked",
}


class CandidateAlert(msgspec.Struct):
    """A signal about one subject, with the context for an incident."""

    tenant: TenantState
    subject: Ref
    known: bool
    signal: Signal
    now: float
    since: float
    observed: dict[str, float]
    expected: dict[str, float]
    prints: list[int] = []  # fingerprints of the subject's recent prompts


class ResponseManager:
    """Enforcement states and incidents: signals in, outputs out."""

    def __init__(self, settings: DetectSettings) -> None:
        self.settings = settings
        self.allow_list = AllowList(settings.allow)
        self.states = EnforcementStates()
        self.incidents: dict[str, IncidentState] = {}
        self.unlisted = 0  # of a crowd, beyond what is remembered

    # -- single subjects ---------------------------------------------------------------

    def calm(self, track: SubjectState) -> None:
        """A look found nothing: running evidence is void."""
        standing = self.states.get((track.tenant, track.kind, track.id))
        if standing is not None and standing.evidence:
            standing.evidence = 0

    def verdict(self, case: CandidateAlert, partner: Ref) -> list[Output]:
        """A look found something: count it, and act when it has lasted."""
        finding, now = case.signal, case.now
        key = (case.tenant.name, case.subject.kind, case.subject.id)
        standing = self.states.obtain(key)
        if not standing.evidence:
            standing.first = now
        standing.evidence += 1
        if not self._lasts(standing, finding, now):
            return []
        return self._act(case, key, standing, partner)

    def _lasts(self, standing: EnforcementState, finding: Signal, now: float) -> bool:
        held = self.incidents.get(standing.incident)
        if held is not None and held.announced:
            return True
        looks, lasts = (
            (_LOOKS, _LASTS_S)
            if finding.behaviour or finding.sudden
            else (_VOLUME_LOOKS, _VOLUME_LASTS_S)
        )
        if finding.behaviour and finding.score >= _OVERWHELMING:
            lasts = 0.0
        if finding.behaviour and not finding.page_worthy:
            return True  # a tag costs nobody anything
        return standing.evidence >= looks and now - standing.first >= lasts

    def _act(
        self, case: CandidateAlert, key: Key, standing: EnforcementState, partner: Ref
    ) -> list[Output]:
        finding, now = case.signal, case.now
        rung = self._action(case, key)
        if self.allow_list.holds_subject(key[0], partner.kind, partner.id):
            rung = "allow"  # what an allowed address sends is no fault of its key
        incident, opened = self._incident_of(case, standing, partner, rung)
        standing.incident = incident.id
        severity = self._severity(finding)
        incident.last = now
        name_worst(incident, case.subject, finding.score)
        if finding.cls in SHARED and incident.subject == case.subject:
            for one in case.prints:
                know_crowd(incident, one)
        out: list[Output] = []
        if opened:
            out.append(self._line("incident.opened", incident, now))
        elif (
            share_out(incident, case.subject, partner, finding.cls)
            + sharpen(incident, finding.cls)
            + worsen(incident, finding.score, severity, rung)
        ):
            incident.reasons = finding.reasons
            incident.observed, incident.expected = case.observed, case.expected
            if incident.announced:
                out.append(self._line("incident.updated", incident, now))
        return out + self._raise(key, rung, incident, finding, now)

    def _raise(
        self,
        key: Key,
        rung: ResponseAction,
        incident: IncidentState,
        finding: Signal,
        now: float,
    ) -> list[Output]:
        if rung == "allow":
            return []
        settings = self._ladder(finding.cls)
        standing = self.states.obtain(key)
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

    def _action(self, case: CandidateAlert, key: Key) -> ResponseAction:
        finding = case.signal
        if self.settings.observe or finding.cls in HARMLESS:
            return "allow"
        if self.allow_list.holds_subject(*key):
            return "allow"
        if not finding.page_worthy:
            return "tag"
        rung = decide_action(
            finding.score,
            self._ladder(finding.cls),
            behaviour=finding.behaviour,
            critical=self.settings.critical,
        )
        held = rung in ("throttle", "block")
        if held and not case.known and self._lonely(case.tenant, case.now):
            return "tag"
        if rung == "block" and case.known and not self._room(case.tenant, key):
            return "throttle"
        if rung == "throttle" and not (finding.behaviour or finding.sudden):
            # A newcomer's volume has no usual to be held to, but for its peers'.
            return "throttle" if case.known else "tag"
        return rung

    def _lonely(self, tenant: TenantState, now: float) -> bool:
        """Whether a tenant of few clients in its first day may just be trying things
        out: there is nobody to be compared with, and nobody else to be protected.
        """
        cold = now - tenant.born < self.settings.grace_s
        return cold and tenant.company() < LEAST_PEERS

    def _room(self, tenant: TenantState, key: Key) -> bool:
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

    def _ladder(self, cls: str) -> Ladder:
        return self.settings.class_ladders.get(cls, self.settings.ladder)

    def _severity(self, finding: Signal) -> Severity:
        if finding.cls in HARMLESS or finding.informational:
            return "info"
        return "critical" if finding.score >= self.settings.critical else "warning"

    # -- incidents ---------------------------------------------------------------------

    def _incident_of(
        self,
        case: CandidateAlert,
        standing: EnforcementState,
        partner: Ref,
        rung: ResponseAction,
    ) -> tuple[IncidentState, bool]:
        """The incident that a verdict belongs to, and whether it is a new one."""
        own = self.incidents.get(standing.incident)
        if own is not None and (own.announced or not case.signal.page_worthy):
            return own, False
        found = self._related(case, partner)
        if found is not None:
            return found, False
        if own is not None:
            self._announce(own, case, rung)
            return own, True
        return self._open(case, rung), case.signal.page_worthy

    def _announce(
        self, incident: IncidentState, case: CandidateAlert, rung: ResponseAction
    ) -> None:
        """What was only tagged so far is worth an incident now."""
        finding = case.signal
        incident.announced = True
        incident.cls, incident.score = finding.cls, finding.score
        incident.severity, incident.action = self._severity(finding), rung
        incident.reasons = finding.reasons
        incident.observed, incident.expected = case.observed, case.expected

    def _related(self, case: CandidateAlert, partner: Ref) -> IncidentState | None:
        """An announced incident of the same cause."""
        tenant = case.tenant.name
        other = self.states.get((tenant, partner.kind, partner.id))
        if other is not None:
            incident = self.incidents.get(other.incident)
            if incident is not None and incident.announced:
                return incident
        if case.signal.cls in SHARED:
            return next(
                (one for one in self._shared(tenant) if _joins(one, case)), None
            )
        return None

    def _shared(self, tenant: str) -> Iterator[IncidentState]:
        """Announced incidents of the tenant that may have several sources."""
        for incident in self.incidents.values():
            shared = incident.announced and incident.cls in SHARED
            if shared and concerns(incident, tenant):
                yield incident

    def _open(self, case: CandidateAlert, rung: ResponseAction) -> IncidentState:
        finding, subject, now = case.signal, case.subject, case.now
        tenant = case.tenant.name
        name = f"{subject.kind}:{subject.id}"
        incident = IncidentState(
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
            announced=finding.page_worthy,
        )
        self.incidents[incident.id] = incident
        return incident

    def _line(self, kind: OutputType, incident: IncidentState, now: float) -> Output:
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
            window=EvidenceWindow(format_time(incident.opened), format_time(now)),
            observed=incident.observed,
            expected=incident.expected,
            reasons=incident.reasons,
            subjects=worst_of(incident),
        )

    # -- crowds and tenants --------------------------------------------------------------

    def crowd(
        self, tenant: TenantState, template: Template, finding: Signal, now: float
    ) -> list[Output]:
        """A template is flooded: an incident of the tenant; its senders join it."""
        if finding.score < self.settings.warning:
            return []
        template.abusive_until = now + _MARKED_S
        template.judge_senders()
        same = next(
            (one for one in self.crowds() if same_crowd(one, template.print)), None
        )
        nobody = Ref("", "")
        out = [
            self._line("incident.updated", one, now)
            for one in self._shared(tenant.name)
            if same_crowd(one, template.print)
            and share_out(one, nobody, nobody, finding.cls)
        ]
        out += self._of_tenant(tenant, finding, now, template.requests, same)
        incident = self._open_crowd(tenant.name)
        assert incident is not None  # opened or joined just now
        know_crowd(incident, template.print)
        # As many as were counted, and not only as many as it seemed at first.
        if len(template.sources) >= SOURCES and sharpen(incident, finding.cls):
            out.append(self._line("incident.updated", incident, now))
        template.unsure = not finding.behaviour
        return out

    def whole(self, tenant: TenantState, finding: Signal, now: float) -> list[Output]:
        """A surge or an outage of the tenant."""
        if finding.cls == "surge" and self._open_crowd(tenant.name) is not None:
            return []  # the excess has a name already
        # Upstreams are shared: what fails in several tenants is one outage.
        same = next(
            (one for one in self.crowds("outage") if finding.cls == one.cls), None
        )
        return self._of_tenant(tenant, finding, now, tenant.requests, same)

    def crowds(self, cls: str | None = None) -> Iterator[IncidentState]:
        """Open incidents of whole tenants: of one class, or all that are abuse."""
        for incident in self.incidents.values():
            wanted = cls == incident.cls if cls else incident.cls not in HARMLESS
            if wanted and incident.subject.kind == "tenant":
                yield incident

    def _open_crowd(self, tenant: str, cls: str | None = None) -> IncidentState | None:
        return next((one for one in self.crowds(cls) if concerns(one, tenant)), None)

    def _of_tenant(
        self,
        tenant: TenantState,
        finding: Signal,
        now: float,
        requests: int,
        same: IncidentState | None,
    ) -> list[Output]:
        """``same``: an open incident of any tenant that has the same cause."""
        cls: AttackClass = finding.cls
        incident = self._open_crowd(tenant.name, cls)
        if incident is None and cls in SHARED:
            incident = self._open_crowd(tenant.name)
        wider = incident is None and same is not None
        if wider and same is not None:
            incident = same
            widen(same, tenant.name)
        if incident is not None:
            incident.last = now
            worse = worsen(incident, finding.score, self._severity(finding), "allow")
            if worse:
                incident.reasons = finding.reasons
                incident.observed = {"requests_10m": requests}
            return [self._line("incident.updated", incident, now)] * (worse or wider)
        case = CandidateAlert(
            tenant=tenant,
            subject=Ref("tenant", tenant.name),
            known=True,
            signal=finding,
            now=now,
            since=now,
            observed={"requests_10m": requests},
            expected={},
        )
        return [self._line("incident.opened", self._open(case, "allow"), now)]

    def join(
        self,
        tenant: TenantState,
        template: Template,
        ip: SubjectState,
        user: SubjectState | None,
        now: float,
        *,
        refused: bool = False,
    ) -> list[Output]:
        """A newcomer sends a flooded template: it is part of the crowd, unless upstreams
        refuse the crowd and not this one (``refused``), or the crowd is elsewhere.
        """
        if template.denied and not refused:
            return []
        if template.narrow and not template.has_neighbours(ip.id):
            return []
        incident = self._open_crowd(tenant.name)
        if incident is None or self.allow_list.holds_subject(
            tenant.name, ip.kind, ip.id
        ):
            return []
        out: list[Output] = []
        for track in (ip, user):
            if track is not None and is_member(template.born, track, now):
                template.abusive_until = now + _MARKED_S
                incident.last = now
                track.judged = True
                patient = template.soft and track.worded < PERSISTS
                most: ResponseAction = "tag" if template.unsure or patient else "block"
                out += self._join_one(tenant, incident, track, now, most)
        return out

    def crowd_blocked(self, tenant: TenantState, now: float) -> IncidentState | None:
        """The crowd of a tenant whose newcomers are blocked, where there is one."""
        incident = self._open_crowd(tenant.name)
        if incident is None:
            return None
        any_of_it = Ref("tenant", tenant.name)
        case = _member_case(tenant, incident, any_of_it, now)
        rung = self._action(case, (tenant.name, any_of_it.kind, any_of_it.id))
        return incident if rung == "block" else None

    def _join_one(
        self,
        tenant: TenantState,
        incident: IncidentState,
        track: SubjectState,
        now: float,
        most: ResponseAction,
    ) -> list[Output]:
        key = (tenant.name, track.kind, track.id)
        if key not in self.states and self.states.full:
            self.unlisted += 1
            return []
        standing = self.states.obtain(key)
        if standing.action == "block":
            return []
        standing.first = standing.first or now
        case = _member_case(tenant, incident, Ref(track.kind, track.id), now)
        finding = case.signal
        rung = min(self._action(case, key), most, key=ACTIONS.index)
        standing.incident = incident.id
        if rung == "block":
            forgive(standing, now)
            standing.strikes = max(standing.strikes, _CROWD_STRIKES)
            standing.forgiven_at = now
        name_worst(incident, case.subject, finding.score)
        incident.action = max(incident.action, rung, key=ACTIONS.index)
        return self._raise(key, rung, incident, finding, now)

    # -- time ------------------------------------------------------------------------------

    def observe_blocked_retry(self, event: Event) -> None:
        """Somebody was refused: while who is blocked goes on, nothing has calmed down."""
        for kind, id_ in (("user", event.user), ("client_ip", event.client_ip)):
            standing = self.states.get((event.tenant, kind, id_))
            if standing is None or standing.action != "block":
                continue
            incident = self.incidents.get(standing.incident)
            if incident is not None:
                incident.last = max(incident.last, event.ts)

    def sweep(self, now: float) -> list[Output]:
        """Come down from what is over, resolve what is calm."""
        out: list[Output] = []
        for key, standing in self.states.expire(now):
            out += self._unblocked(key, standing, now)
        for incident in list(self.incidents.values()):
            if now - incident.last > CALM_S:
                del self.incidents[incident.id]
                if incident.announced:
                    out.append(self._line("incident.resolved", incident, now))
        return out

    def _unblocked(
        self, key: Key, standing: EnforcementState, now: float
    ) -> list[Output]:
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
        return [
            self._line("incident.resolved", one, now)
            for one in open_ones
            if one.announced
        ]

    def action_for(
        self, kind: str, id_: str, tenant: str | None, now: float
    ) -> ResponseAction:
        """The action on a subject; ``tenant`` None: the strictest in any tenant."""
        return self.states.action_for(kind, id_, tenant, now)

    # -- state -----------------------------------------------------------------------------

    def state(self) -> list[object]:
        """Standings and incidents, for ``load``."""
        return [list(self.states.items()), list(self.incidents.values())]

    def load(
        self, saved: bytes, keep: Callable[[str], bool] = lambda _tenant: True
    ) -> None:
        """Take over a state, of the tenants that ``keep`` wants."""
        standings, incidents = msgspec.msgpack.decode(saved, type=_Saved)
        for key, standing in standings:
            if keep(key[0]):
                self.states.put(key, standing)
        for incident in incidents:
            if keep(incident.tenant):
                self.incidents[incident.id] = incident


_Saved = tuple[list[tuple[Key, EnforcementState]], list[IncidentState]]


def _member_case(
    tenant: TenantState, incident: IncidentState, subject: Ref, now: float
) -> CandidateAlert:
    """A newcomer of a crowd, of whom nothing is known but what its crowd does."""
    return CandidateAlert(
        tenant=tenant,
        subject=subject,
        known=False,
        signal=Signal(incident.cls, incident.score, True, incident.reasons),
        now=now,
        since=now,
        observed=incident.observed,
        expected=incident.expected,
    )


def _joins(incident: IncidentState, case: CandidateAlert) -> bool:
    """Whether a subject does what the subjects of an incident do: any of a crowd's, or
    one that is called the same, or sends the same.
    """
    if incident.subject.kind == "tenant" or incident.cls == case.signal.cls:
        return True
    return any(same_crowd(incident, one) for one in case.prints)

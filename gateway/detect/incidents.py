"""One incident per cause: opened once, updated when it worsens, resolved on calm."""

from __future__ import annotations

from base64 import b32encode
from hashlib import blake2b

import msgspec

from gateway.core.model import AttackClass
from gateway.detect.model import (
    ACTIONS,
    EvidenceWindow,
    Output,
    Ref,
    ResponseAction,
    Severity,
    format_time,
)
from gateway.detect.templates import NEAR_BITS

# An incident without evidence for so long is over.
CALM_S = 1800.0
# Several sources of these classes in one tenant at one time are one cause.
SHARED = frozenset({"ddos", "scraping", "probing"})
WORST = 20
# The subject of what goes on in several tenants.
EVERYWHERE = "*"
# Templates of a crowd by which it is known in other tenants.
MOST_PRINTS = 16
_SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


class IncidentState(msgspec.Struct, array_like=True):
    """The state of one incident: signals of one cause. ``subject`` is the tenant for a
    distributed attack. Until it is ``announced`` it only gives tags an id, without alert.
    """

    id: str
    tenant: str
    cls: AttackClass
    subject: Ref
    opened: float
    last: float
    score: float
    severity: Severity
    action: ResponseAction
    reasons: tuple[str, ...]
    observed: dict[str, float]
    expected: dict[str, float]
    worst: dict[str, float] = {}  # "kind:id" -> score
    announced: bool = True
    tenants: list[str] = []  # beside ``tenant``: where else the same goes on
    prints: list[int] = []  # templates of its crowd


def incident_id(tenant: str, cls: str, subject: str, opened: float) -> str:
    """The same 30 characters at every replay."""
    cause = f"{tenant}\0{cls}\0{subject}\0{opened:.3f}".encode()
    digest = blake2b(cause, digest_size=17).digest()
    return "inc_" + b32encode(digest).decode().lower()[:26]


def worsen(
    incident: IncidentState, score: float, severity: Severity, action: ResponseAction
) -> bool:
    """Take a further verdict in; whether severity or action rose."""
    rose = _SEVERITIES.index(severity) > _SEVERITIES.index(incident.severity)
    if rose:
        incident.severity = severity
    if ACTIONS.index(action) > ACTIONS.index(incident.action):
        incident.action = action
        rose = True
    incident.score = max(incident.score, score)
    return rose


def concerns(incident: IncidentState, tenant: str) -> bool:
    """Whether it goes on in this tenant."""
    return incident.tenant == tenant or tenant in incident.tenants


def widen(incident: IncidentState, tenant: str) -> None:
    """The same goes on in one more tenant: it is the service's, ``*``."""
    if incident.tenant != EVERYWHERE:
        incident.tenants.append(incident.tenant)
        incident.tenant = EVERYWHERE
        incident.subject = Ref("tenant", EVERYWHERE)
    if tenant not in incident.tenants:
        incident.tenants.append(tenant)


def same_crowd(incident: IncidentState, print_: int) -> bool:
    """Whether a template is one that its crowd sends."""
    return any((one ^ print_).bit_count() <= NEAR_BITS for one in incident.prints)


def know_crowd(incident: IncidentState, print_: int) -> None:
    """Remember a template by which the same crowd is known elsewhere."""
    if len(incident.prints) < MOST_PRINTS and not same_crowd(incident, print_):
        incident.prints.append(print_)


def sharpen(incident: IncidentState, cls: AttackClass) -> bool:
    """Call it by what was done as soon as that is known, and not by how much it was; a
    crowd that turns out to be larger than readers are is a flood.
    """
    crowd = incident.subject.kind == "tenant"
    flood = crowd and incident.cls == "scraping" and cls == "ddos"
    vague = incident.cls == "volume" and cls not in {"volume", "surge", "outage"}
    if not (flood or vague):
        return False
    incident.cls = cls
    return True


def share_out(
    incident: IncidentState, subject: Ref, partner: Ref, cls: AttackClass
) -> bool:
    """Lay what a second source does, too, to the tenant; whether that is news."""
    own = incident.subject
    if cls not in SHARED or own.kind == "tenant" or own in (subject, partner):
        return False
    incident.subject = Ref("tenant", incident.tenant)
    return True


def name_worst(incident: IncidentState, subject: Ref, score: float) -> None:
    """Remember one of the worst subjects."""
    worst = incident.worst
    key = f"{subject.kind}:{subject.id}"
    if key in worst or len(worst) < WORST:
        worst[key] = max(score, worst.get(key, 0.0))
        return
    least = min(worst, key=lambda known: (worst[known], known))
    if worst[least] < score:
        del worst[least]
        worst[key] = score


def latest_output(incident: IncidentState) -> Output:
    """The current state of an incident as an ``incident.updated`` output."""
    return Output(
        type="incident.updated",
        id=incident.id,
        ts=format_time(incident.last),
        severity=incident.severity,
        cls=incident.cls,
        score=round(incident.score, 2),
        subject=incident.subject,
        tenant=incident.tenant,
        action=incident.action,
        until=None,
        window=EvidenceWindow(format_time(incident.opened), format_time(incident.last)),
        observed=incident.observed,
        expected=incident.expected,
        reasons=incident.reasons,
        subjects=worst_of(incident),
    )


def worst_of(incident: IncidentState) -> tuple[Ref, ...]:
    """The worst subjects, worst first."""
    ranked = sorted(incident.worst.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Ref(*key.split(":", 1)) for key, _ in ranked)

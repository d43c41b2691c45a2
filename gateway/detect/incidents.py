"""One incident per cause: opened once, updated when it worsens, resolved on calm."""

from __future__ import annotations

from base64 import b32encode
from hashlib import blake2b

import msgspec

from gateway.detect.model import RUNGS, AttackClass, Ref, Rung, Severity

# An incident without evidence for so long is over.
CALM_S = 1800.0
# Several sources of these classes in one tenant at one time are one cause.
SHARED = frozenset({"ddos", "scraping", "probing"})
WORST = 20
_SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


class Incident(msgspec.Struct, array_like=True):
    """Verdicts of one cause. ``subject`` is the tenant for a crowd."""

    id: str
    tenant: str
    cls: AttackClass
    subject: Ref
    opened: float
    last: float
    score: float
    severity: Severity
    action: Rung
    reasons: tuple[str, ...]
    observed: dict[str, float]
    expected: dict[str, float]
    worst: dict[str, float] = {}  # "kind:id" -> score


def incident_id(tenant: str, cls: str, subject: str, opened: float) -> str:
    """The same 30 characters at every replay."""
    cause = f"{tenant}\0{cls}\0{subject}\0{opened:.3f}".encode()
    digest = blake2b(cause, digest_size=17).digest()
    return "inc_" + b32encode(digest).decode().lower()[:26]


def worsen(incident: Incident, score: float, severity: Severity, action: Rung) -> bool:
    """Take a further verdict in; whether severity or action rose."""
    rose = _SEVERITIES.index(severity) > _SEVERITIES.index(incident.severity)
    if rose:
        incident.severity = severity
    if RUNGS.index(action) > RUNGS.index(incident.action):
        incident.action = action
        rose = True
    incident.score = max(incident.score, score)
    return rose


def name_worst(incident: Incident, subject: Ref, score: float) -> None:
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


def worst_of(incident: Incident) -> tuple[Ref, ...]:
    """The worst subjects, worst first."""
    ranked = sorted(incident.worst.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Ref(*key.split(":", 1)) for key, _ in ranked)

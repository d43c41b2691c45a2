"""Templates of distributed attacks, for refusing members at their first prompt.

Members of a large botnet send few requests each, so each would be answered once before
it is blocked. Once an attack is certain, its templates are blocked for all clients that
are not established.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.core.model import AttackClass
from gateway.detect.engine import Engine
from gateway.detect.subject import SubjectState
from gateway.detect.templates import Template, is_member
from gateway.detect.tenant import TenantState
from gateway.limits.gate import SERVED, SETTLED, pack_client_hashes

# New networks within about an hour from which a user is not exempt at any address.
_MANY_NETWORKS = 6.0
# Templates of one tenant, the newest first; a crowd has some dozens of wordings.
MOST_TEMPLATES = 64


class BlockedTemplate(msgspec.Struct, frozen=True, gc=False):
    """A template that is blocked for clients that are not established. ``born`` and
    ``until`` are epoch seconds: when it appeared, and when the block ends.
    """

    tenant: str
    print: int
    born: float
    until: float
    cls: AttackClass
    score: float
    reason: str


def blocked_templates(engine: Engine, now: float) -> Iterator[BlockedTemplate]:
    """The templates whose crowds are blocked now."""
    if not any(engine.responses.crowds()):
        return
    for tenant in engine.tenants.values():
        incident = engine.responses.crowd_blocked(tenant, now)
        if incident is None:
            continue
        flooded = tenant.templates.flooded(now)
        refused = [one for one in flooded if is_refused(one, now)]
        for template in refused[-MOST_TEMPLATES:]:
            yield BlockedTemplate(
                tenant=tenant.name,
                print=template.print,
                born=template.born,
                until=template.abusive_until,
                cls=incident.cls,
                score=incident.score,
                reason=incident.reasons[0] if incident.reasons else "",
            )


def is_refused(template: Template, now: float) -> bool:
    """Whether a newcomer is refused for this template alone: not where upstreams refuse
    its crowd anyway, nor where the crowd is at few sites.
    """
    sure = not (template.unsure or template.soft)
    sure = sure and not (template.denied or template.narrow)
    return sure and template.abusive_until > now


def established_clients(tenant: TenantState, born: float, now: float) -> bytes:
    """Marks of clients that are no members of an attack whose template appeared at
    ``born``.
    """
    return pack_client_hashes(
        (kind, track.id)
        for kind, tracks in tenant.subjects.items()
        for track in tracks.values()
        if not is_member(born, track, now)
    )


def spared_users(tenant: TenantState, now: float) -> bytes:
    """Marks of the users that blocks and throttles of an address do not apply to."""
    return pack_client_hashes(
        (kind, track.id)
        for track in tenant.users.values()
        if track.answered
        for kind in ((SERVED, SETTLED) if is_settled(track, now) else (SERVED,))
    )


def is_settled(user: SubjectState, now: float) -> bool:
    """Whether the habits of a user are known, and it is not in many new networks."""
    if not user.familiar(now):
        return False
    user.fade(now)
    return user.new_networks < _MANY_NETWORKS


def refuses(engine: Engine, tenant: str, ids: dict[str, str], print_: int) -> bool:
    """Whether a prompt of these subjects (by kind) is refused as a crowd's: what
    workers do, asked of the detector itself.
    """
    now = engine.clock.now
    held = engine.tenants.get(tenant)
    if held is None or engine.responses.crowd_blocked(held, now) is None:
        return False
    template, _ = held.templates.find(print_)
    if template is None or not is_refused(template, now):
        return False
    user = held.users.get(ids.get("user", ""))
    if user is not None and is_settled(user, now):
        return False
    tracks = [held.subjects[kind].get(id_) for kind, id_ in ids.items()]
    return any(
        track is None or is_member(template.born, track, now) for track in tracks
    )

"""What of a detector survives a restart."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.detect.baseline import Envelope
from gateway.detect.score import Tail
from gateway.detect.service_maximum import Reach
from gateway.detect.subject import Track
from gateway.detect.templates import Template
from gateway.detect.tenant import Tenant

# Templates of a tenant that a state keeps.
_SAVED_TEMPLATES = 512


class SavedTenant(msgspec.Struct, array_like=True):
    """A tenant without its subjects."""

    born: float
    tide: Envelope
    window: int
    requests: int
    peers: list[list[float]]
    templates: list[Template]


class Saved(msgspec.Struct):
    """All of it; ``bench`` is the bench's own business."""

    now: float
    started: float
    tails: dict[str, Tail]
    tracks: list[Track]
    tenants: dict[str, SavedTenant]
    bench: msgspec.Raw
    reach: dict[str, Reach] = {}


def save_tenant(tenant: Tenant) -> SavedTenant:
    """Its tide, peers and newest templates."""
    return SavedTenant(
        born=tenant.born,
        tide=tenant.tide,
        window=tenant.window,
        requests=tenant.requests,
        peers=[peers.bins for peers in tenant.all_peers()],
        templates=tenant.templates.all()[-_SAVED_TEMPLATES:],
    )


def tracks_of(tenant: Tenant) -> Iterable[Track]:
    """Subjects of both kinds."""
    for tracks in tenant.tracks.values():
        yield from tracks.values()

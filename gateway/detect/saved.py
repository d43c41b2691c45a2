"""The part of a detector that survives a restart. Field names of array-like structs are
not stored; ``Saved`` maps its names to the stored ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.detect.baseline import UpperBaseline
from gateway.detect.score import Tail
from gateway.detect.service_maximum import ServiceMaximum
from gateway.detect.subject import SubjectState
from gateway.detect.templates import Template
from gateway.detect.tenant import TenantState

# Templates of a tenant that a state keeps.
_SAVED_TEMPLATES = 512


class SavedTenant(msgspec.Struct, array_like=True):
    """A tenant without its subjects."""

    born: float
    seasonal_baseline: UpperBaseline
    window: int
    requests: int
    peers: list[list[float]]
    templates: list[Template]


class Saved(
    msgspec.Struct,
    rename={"subjects": "tracks", "responses": "bench", "service_maxima": "reach"},
):
    """The whole detector; ``responses`` is what the response manager saved."""

    now: float
    started: float
    tails: dict[str, Tail]
    subjects: list[SubjectState]
    tenants: dict[str, SavedTenant]
    responses: msgspec.Raw
    service_maxima: dict[str, ServiceMaximum] = {}


def save_tenant(tenant: TenantState) -> SavedTenant:
    """A tenant's seasonal baseline, peers and newest templates."""
    return SavedTenant(
        born=tenant.born,
        seasonal_baseline=tenant.seasonal_baseline,
        window=tenant.window,
        requests=tenant.requests,
        peers=[peers.bins for peers in tenant.all_peers()],
        templates=tenant.templates.all()[-_SAVED_TEMPLATES:],
    )


def subjects_of(tenant: TenantState) -> Iterable[SubjectState]:
    """Subjects of both kinds."""
    for tracks in tenant.subjects.values():
        yield from tracks.values()

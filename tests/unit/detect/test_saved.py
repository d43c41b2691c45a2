"""The saved form of a tenant."""

from __future__ import annotations

import msgspec

from gateway.detect.saved import SavedTenant, save_tenant, subjects_of
from gateway.detect.subject import SubjectState
from gateway.detect.tenant import TenantState

T = 1_767_600_000.0


def test_a_tenant_is_saved_with_its_newest_templates():
    """A tenant is saved with at most 512 templates, the newest, and decodes to the same
    values.
    """
    tenant = TenantState("t", 10, T)
    tenant.requests = 7
    for n in range(600):
        tenant.templates.add(n * 0x0123_4567_89AB_CDEF % 2**64, T + n)
    saved = save_tenant(tenant)
    assert len(saved.templates) <= 512
    assert saved.templates[-1].born == T + 599
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=SavedTenant)
    assert (again.born, again.requests) == (T, 7)
    assert again.peers == saved.peers


def test_subjects_of_both_kinds_are_kept():
    """Addresses and users are saved."""
    tenant = TenantState("t", 10, T)
    for kind in ("client_ip", "user"):
        tenant.subjects[kind].put(
            "x", SubjectState(kind=kind, id="x", tenant="t", born=T, last=T)
        )
    assert [track.kind for track in subjects_of(tenant)] == ["client_ip", "user"]

"""Peers and the tenant as a whole."""

from __future__ import annotations

from gateway.detect.features import FAILED, OK, Track
from gateway.detect.model import Event
from gateway.detect.population import Peers, Subjects, Tenant

T = 1_767_607_200.0


def test_peers_are_believed_before_they_are_known():
    """A handful of requests a minute at first, what they do afterwards."""
    peers = Peers()
    assert 4 < peers.busy() < 10
    for _ in range(5000):
        peers.learn(100.0)
    assert 80 < peers.busy() < 140
    copy = Peers()
    copy.restore(peers.bins)
    assert copy.busy() == peers.busy()
    assert copy.seen == peers.seen


def test_peers_forget_slowly_and_are_bounded():
    """Counts are halved; the busiest bin takes whatever is beyond."""
    peers = Peers()
    for _ in range(20_100):
        peers.learn(1e30)
    assert peers.seen < 20_000
    assert peers.busy() > 1e7
    empty = Peers()
    empty.restore([0.0] * len(empty.bins))
    assert empty.busy() == 1.0


def test_subjects_are_listed():
    """All that are remembered, bounded by the capacity."""
    subjects = Subjects(4)
    for n in range(9):
        subjects.put(f"u{n}", Track("user", f"u{n}", "t", T, T))
    assert 1 <= len(subjects.values()) <= 4


def test_a_tenant_counts_its_minute_and_its_failures():
    """Errors of the last one to two minutes, by how many clients they hit."""
    tenant = Tenant("t", 100, T)
    for n in range(10):
        tenant.count(Event(T + n, f"10.0.0.{n}", f"u{n}"), FAILED)
        tenant.count(Event(T + n, f"10.0.0.{n}", f"u{n}"), OK)
    assert tenant.failed_share() == 0.5
    assert len(tenant.failed_users) == 10
    tenant.count(Event(T + 60, "10.0.0.1"), OK)
    assert tenant.answers_b[FAILED] == 10
    assert tenant.requests_b == 20
    tenant.count(Event(T + 30, "10.0.0.1"), OK)
    tenant.count(Event(T + 300, "10.0.0.1"), OK)
    assert tenant.failed_share() == 0.0
    assert tenant.failed_users == set()
    for n in range(100):
        tenant.count(Event(T + 301, f"10.0.1.{n}"), FAILED)
    assert len(tenant.failed_users) == 64
    assert tenant.population() == 0


def test_a_tenant_knows_its_rate_and_its_tide():
    """Sixty seconds across the turn of a minute; a tide after six hours."""
    tenant = Tenant("t", 100, T)
    tenant.minute, tenant.requests_m, tenant.requests_b = int(T // 60), 10, 40
    assert tenant.rate_m(T + 30) == 30.0
    assert tenant.rate_m(T + 600) == 10.0
    window = int(T // 600)
    tenant.window = window
    assert tenant.tide_m() == 0.0
    for index in range(window - 40, window):
        tenant.tide.learn(index, 600.0)
    assert 55.0 < tenant.tide_m() < 120.0
    tenant.window = window - 1
    assert tenant.tide_m() == 0.0

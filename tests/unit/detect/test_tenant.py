"""Peers and the tenant as a whole."""

from __future__ import annotations

from gateway.detect.model import Event
from gateway.detect.subject import FAILED, OK, SubjectState
from gateway.detect.tenant import HistoricalPeers, Subjects, TenantState

T = 1_767_607_200.0


def test_peers_are_believed_before_they_are_known():
    """A handful of requests a minute at first, what they do afterwards."""
    peers = HistoricalPeers()
    assert 4 < peers.busy() < 10
    for _ in range(5000):
        peers.learn(100.0)
    assert 80 < peers.busy() < 140
    copy = HistoricalPeers()
    copy.restore(peers.bins)
    assert copy.busy() == peers.busy()
    assert copy.seen == peers.seen


def test_peers_forget_slowly_and_are_bounded():
    """Counts are halved; the busiest bin takes whatever is beyond."""
    peers = HistoricalPeers()
    for _ in range(20_100):
        peers.learn(1e30)
    assert peers.seen < 20_000
    assert peers.busy() > 1e7
    empty = HistoricalPeers()
    empty.restore([0.0] * len(empty.bins))
    assert empty.busy() == 1.0


def test_subjects_are_listed():
    """All that are remembered, bounded by the capacity."""
    subjects = Subjects(4)
    for n in range(9):
        subjects.put(f"u{n}", SubjectState("user", f"u{n}", "t", T, T))
    assert 1 <= len(subjects.values()) <= 4


def test_a_tenant_counts_its_minute_and_its_failures():
    """Errors of the last one to two minutes, by how many clients they hit."""
    tenant = TenantState("t", 100, T)
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
    tenant = TenantState("t", 100, T)
    tenant.minute, tenant.requests_m, tenant.requests_b = int(T // 60), 10, 40
    assert tenant.rate_m(T + 30) == 30.0
    assert tenant.rate_m(T + 600) == 10.0
    window = int(T // 600)
    tenant.window = window
    assert tenant.expected_rate_m() == 0.0
    for index in range(window - 40, window):
        tenant.seasonal_baseline.learn(index, 600.0)
    assert 55.0 < tenant.expected_rate_m() < 120.0
    tenant.window = window - 1
    assert tenant.expected_rate_m() == 0.0


def test_what_several_established_clients_ask_is_an_applications():
    """Three of them; the last prompt of each, and of the last two hundred and fifty."""
    tenant = TenantState("t", 100, T)
    for n in range(3):
        assert not tenant.is_asked(0)
        tenant.learn_asked(f"c{n}", 1 << n)
    assert tenant.is_asked(0)
    assert not tenant.is_asked(2**40 - 1)
    tenant.learn_asked("c0", 2**64 - 1)
    assert not tenant.is_asked(0)
    for n in range(300):
        tenant.learn_asked(f"d{n}", 2**50 - 1)
    assert len(tenant.asked) == 256
    assert "c1" not in tenant.asked


def test_further_wordings_of_what_newcomers_share():
    """Near to one of their templates, within ten minutes; the oldest makes room."""
    tenant = TenantState("t", 100, T)
    tenant.share(0, T)
    tenant.share(0, T + 1.0)
    assert tenant.is_worded_anew(2**18 - 1, T + 600.0)
    assert not tenant.is_worded_anew(2**19 - 1, T + 1.0)
    assert not tenant.is_worded_anew(0, T + 601.0)
    for n in range(16):
        tenant.share((n + 1) << 40, T + 2.0)
    assert len(tenant.wordings) == 16
    assert 0 not in tenant.wordings


def test_wordings_of_one_crowd_are_one_template_as_old_as_its_wave():
    """Nobody's own, however long it lasts; after a pause it is another one."""
    tenant = TenantState("t", 100, T)
    for n in range(20):
        crowd = tenant.count_worded(n, T + 300.0 * n, f"s{n}", refused=False, times=1)
    assert (crowd.born, crowd.windows) == (T - 600.0, 0)
    later = tenant.count_worded(9, T + 9000.0, "s", refused=True, times=1)
    assert (later.born, later.refused) == (T + 8400.0, 1)


def test_who_insists_is_remembered_for_a_window():
    """Sixty-four of them; and whether what they share is as unlike as people's words."""
    tenant = TenantState("t", 100, T)
    for n in range(70):
        tenant.insist(f"s{n}")
    assert len(tenant.insistent) == 64
    tenant.shared_prompts, tenant.loose = 10, 4
    assert tenant.soft
    tenant.loose = 3
    assert not tenant.soft
    tenant.turn_newcomers()
    assert not tenant.insistent

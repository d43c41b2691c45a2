"""The historical peer group, and the state of a tenant."""

from __future__ import annotations

from gateway.detect.model import Event
from gateway.detect.subject import FAILED, OK, SubjectState
from gateway.detect.tenant import HistoricalPeers, Subjects, TenantState

T = 1_767_607_200.0


def test_peers_start_from_a_prior():
    """The busy rate of peers starts from a prior and follows what is learned."""
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
    """Counts are halved when there are many; the last bin takes all higher rates."""
    peers = HistoricalPeers()
    for _ in range(20_100):
        peers.learn(1e30)
    assert peers.seen < 20_000
    assert peers.busy() > 1e7
    empty = HistoricalPeers()
    empty.restore([0.0] * len(empty.bins))
    assert empty.busy() == 1.0


def test_subjects_are_listed():
    """The list of subjects is bounded by the capacity."""
    subjects = Subjects(4)
    for n in range(9):
        subjects.put(f"u{n}", SubjectState("user", f"u{n}", "t", T, T))
    assert 1 <= len(subjects.values()) <= 4


def test_a_tenant_counts_its_minute_and_its_failures():
    """The failures and the affected clients are those of the last one to two minutes."""
    tenant = TenantState("t", 100, T)
    for n in range(10):
        tenant.count(Event(T + n, f"10.0.0.{n}", f"u{n}"), FAILED)
        tenant.count(Event(T + n, f"10.0.0.{n}", f"u{n}"), OK)
    assert tenant.answers_m[FAILED] == tenant.answers_m[OK] == 10
    assert len(tenant.failed_users) == 10
    tenant.count(Event(T + 60, "10.0.0.1"), OK)
    assert tenant.answers_b[FAILED] == 10
    assert tenant.requests_b == 20
    tenant.count(Event(T + 30, "10.0.0.1"), OK)
    tenant.count(Event(T + 300, "10.0.0.1"), OK)
    assert tenant.answers_m[FAILED] == tenant.answers_b[FAILED] == 0
    assert tenant.failed_users == set()
    for n in range(100):
        tenant.count(Event(T + 301, f"10.0.1.{n}"), FAILED)
    assert len(tenant.failed_users) == 64
    assert tenant.population() == 0


def test_a_tenant_has_a_rate_and_an_expected_rate():
    """The rate slides over 60 s; the expected rate is known after hours of history, for
    the current window only.
    """
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


def test_a_prompt_of_three_established_clients_is_of_an_application():
    """A prompt that three established clients sent last is one of an application; the
    last 256 clients are kept.
    """
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
    """A prompt near to one that newcomers share within ten minutes is a further
    wording; 16 wordings are kept.
    """
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


def test_wordings_of_newcomers_are_one_template():
    """Wordings of newcomers count as one template, which starts anew after a pause."""
    tenant = TenantState("t", 100, T)
    for n in range(20):
        crowd = tenant.count_worded(n, T + 300.0 * n, f"s{n}", refused=False, times=1)
    assert (crowd.born, crowd.windows) == (T - 600.0, 0)
    later = tenant.count_worded(9, T + 9000.0, "s", refused=True, times=1)
    assert (later.born, later.refused) == (T + 8400.0, 1)


def test_insistent_clients_are_kept_for_a_window():
    """Up to 64 insistent newcomers are kept for a window; ``soft`` says that shared
    prompts vary as those of people.
    """
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

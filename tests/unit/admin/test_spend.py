"""Money of the last 30 days, and what observing let through."""

from __future__ import annotations

import pytest

from gateway.admin import spend as module
from gateway.admin.spend import DAY_S, DAYS, GatewayDay, SpendHistory, TenantDay
from tests.records import make_record

NOW = 1_763_916_380.0
TODAY = int(NOW) // DAY_S


def stopped(action="block", **changes):
    """What enforcing would have stopped."""
    return make_record(ts=NOW, action=action, would=action, **changes)


def test_money_by_day_for_a_month():
    """Whole nano-dollars; of several tenants together; days beyond thirty are gone."""
    spend = SpendHistory()
    for day in range(DAYS + 5):
        spend.observe(make_record(ts=NOW + day * DAY_S, usd_nanos=1_000_000))
    end = NOW + (DAYS + 4) * DAY_S
    spend.observe(make_record(ts=end, tenant="other", usd_nanos=2_000_000))
    shown = spend.public(["acme", "other"], end)
    assert len(shown["days"]) == len(spend.own_days()) == DAYS
    assert abs(shown["usd"] - 0.001 * DAYS - 0.002) < 1e-12
    assert shown["requests"] == DAYS + 1
    assert abs(spend.spend_today(end) - 0.003) < 1e-12
    assert f"{shown['since']:%Y-%m-%d}" == "2025-11-28"


def test_what_observing_let_through():
    """Requests by action, people and money; yesterday's are not today's."""
    spend = SpendHistory()
    for user in ("a", "a", "b"):
        spend.observe(stopped(user=user, usd_nanos=5))
    spend.observe(stopped("throttle", user="anonymous"))
    spend.observe(stopped("limit", user="a"))
    spend.observe(make_record(ts=NOW, action="tag", would="tag"))
    spend.observe(make_record(ts=NOW, action="block"))
    today = spend.public(["acme"], NOW)["would_today"]
    assert (today["requests"], today["clients"], today["tokens"]) == (5, 3, 35)
    assert (today["limited"], today["throttled"], today["blocked"]) == (1, 1, 3)
    later = spend.public(["acme"], NOW + DAY_S)
    assert later["would_today"]["requests"] == later["would_today"]["clients"] == 0
    assert later["would"]["requests"] == later["days"][0]["would"] == 5


def test_each_tenant_the_dearest_first(monkeypatch):
    """So many at most."""
    monkeypatch.setattr(module, "MOST_TENANTS", 2)
    spend = SpendHistory()
    for nanos, tenant in enumerate(("a", "b", "c")):
        spend.observe(make_record(ts=NOW, tenant=tenant, usd_nanos=nanos))
    shown = spend.public(["a", "b", "c", "unseen"], NOW)
    assert [one["tenant"] for one in shown["tenants"]] == ["c", "b"]
    assert shown["requests"] == 3


def test_nothing_yet():
    """Zero, since nobody knows when."""
    shown = SpendHistory().public(["acme"], NOW)
    assert (shown["since"], shown["days"], shown["usd"]) == (None, [], 0.0)


def test_people_are_bounded(monkeypatch):
    """All tenants together; requests go on being counted."""
    monkeypatch.setattr(module, "MOST_PEOPLE", 3)
    spend = SpendHistory()
    for n in range(5):
        spend.observe(stopped(user=f"u{n}", tenant=f"t{n % 2}"))
    today = spend.public(["t0", "t1"], NOW)["would_today"]
    assert (today["clients"], today["requests"]) == (3, 5)


@pytest.mark.parametrize("counted", [0, 2])
def test_what_was_counted_before_a_restart_is_added_once(counted):
    """Also when it is read late; the same person is one."""
    before = SpendHistory()
    before.observe(stopped(user="a", usd_nanos=7))
    spend = SpendHistory()
    for _ in range(counted):
        spend.observe(stopped(user="a", usd_nanos=1))
    spend.restore(
        {**before.own_days(), TODAY - DAYS: GatewayDay(1.0, {"acme": TenantDay(9)})}
    )
    today = spend.public(["acme"], NOW)["would_today"]
    assert (today["requests"], today["clients"]) == (1 + counted, 1)
    assert spend.changed == ({TODAY} if counted else set())


def test_other_gateways_count_and_a_person_is_one():
    """Their pages replace what was known of them."""
    other, spend = SpendHistory(), SpendHistory()
    other.observe(stopped(user="a", usd_nanos=7))
    other.observe(stopped(user="b", usd_nanos=7))
    spend.observe(stopped(user="a", usd_nanos=1))
    for _ in range(2):
        spend.set_others({TODAY: list(other.own_days().values())})
    shown = spend.public(["acme"], NOW)
    assert (shown["requests"], shown["would_today"]["clients"]) == (3, 2)
    assert spend.spend_today(NOW) == pytest.approx(15e-9)

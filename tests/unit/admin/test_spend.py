"""Spend of the last 30 days, and refusals in observe mode."""

from __future__ import annotations

import pytest

from gateway.admin import spend as module
from gateway.admin.spend import DAY_S, DAYS, GatewayDay, SpendHistory, TenantDay
from tests.records import make_record

NOW = 1_763_916_380.0
TODAY = int(NOW) // DAY_S


def stopped(action="block", **changes):
    """A record that enforce mode would have refused."""
    return make_record(ts=NOW, action=action, would=action, **changes)


def test_spend_by_day_for_thirty_days():
    """Spend is exact, summed over tenants, and kept for 30 days."""
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


def test_refusals_of_observe_mode():
    """Requests are counted by action and distinct client, separately for today."""
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


def test_tenants_by_spend(monkeypatch):
    """Tenants are listed by spend, at most MAX_TENANTS."""
    monkeypatch.setattr(module, "MAX_TENANTS", 2)
    spend = SpendHistory()
    for nanos, tenant in enumerate(("a", "b", "c")):
        spend.observe(make_record(ts=NOW, tenant=tenant, usd_nanos=nanos))
    shown = spend.public(["a", "b", "c", "unseen"], NOW)
    assert [one["tenant"] for one in shown["tenants"]] == ["c", "b"]
    assert shown["requests"] == 3


def test_no_spend_yet():
    """Without records all values are empty."""
    shown = SpendHistory().public(["acme"], NOW)
    assert (shown["since"], shown["days"], shown["usd"]) == (None, [], 0.0)


def test_distinct_clients_are_bounded(monkeypatch):
    """Distinct clients are bounded over all tenants; requests are still counted."""
    monkeypatch.setattr(module, "MAX_DIGESTS", 3)
    spend = SpendHistory()
    for n in range(5):
        spend.observe(stopped(user=f"u{n}", tenant=f"t{n % 2}"))
    today = spend.public(["t0", "t1"], NOW)["would_today"]
    assert (today["clients"], today["requests"]) == (3, 5)


@pytest.mark.parametrize("counted", [0, 2])
def test_what_was_counted_before_a_restart_is_added_once(counted):
    """Stored days are added once, also when read late; clients are deduplicated."""
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


def test_other_gateways_count_and_clients_are_deduplicated():
    """Days of other gateways replace the earlier values."""
    other, spend = SpendHistory(), SpendHistory()
    other.observe(stopped(user="a", usd_nanos=7))
    other.observe(stopped(user="b", usd_nanos=7))
    spend.observe(stopped(user="a", usd_nanos=1))
    for _ in range(2):
        spend.set_others({TODAY: list(other.own_days().values())})
    shown = spend.public(["acme"], NOW)
    assert (shown["requests"], shown["would_today"]["clients"]) == (3, 2)
    assert spend.spend_today(NOW) == pytest.approx(15e-9)

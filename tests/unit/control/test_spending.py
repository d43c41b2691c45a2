"""The spend of the last 30 days over restarts, in a real store and in a file."""

from __future__ import annotations

import pytest
from redis.exceptions import RedisError

from gateway.admin.spend import DAY_S, SpendHistory
from gateway.control.spending import Spending
from gateway.store.client import open_redis
from tests.records import make_record

NOW = 1_767_600_000.0


class Place:
    """The storage of gateways; ``start`` starts one."""

    def __init__(self, tmp_path, client=None):
        self.path = f"{tmp_path}/run"
        self.client = client

    def start(self, me="gw1", now=NOW) -> tuple[SpendHistory, Spending]:
        history = SpendHistory()
        kept = Spending(history, self.client, "t:", self.path, me, lambda: now)
        return history, kept


@pytest.fixture(name="store")
async def _store(engine, tmp_path):
    engine.command(b"FLUSHALL")
    client = open_redis(engine.url)
    yield Place(tmp_path, client)
    await client.aclose()


@pytest.fixture(name="place", params=["store", "file"])
def _place(request, tmp_path):
    return (
        Place(tmp_path) if request.param == "file" else request.getfixturevalue("store")
    )


def spend(history, times=1, ts=NOW) -> None:
    """Count requests of one dollar each."""
    for _ in range(times):
        history.observe(make_record(ts=ts, usd_nanos=1_000_000_000))


async def test_spend_survives_a_restart(place):
    """Spend survives restarts and counts once however often it is saved."""
    history, kept = place.start()
    spend(history, 2)
    spend(history, 1, NOW - 3 * DAY_S)
    await kept.save()
    spend(history)
    await kept.save()
    await kept.save()
    for count in (4, 5):
        again, kept = place.start()
        await kept.load()
        assert again.public(["acme"], NOW)["usd"] == pytest.approx(count)
        spend(again)
        await kept.save()


async def test_spend_before_the_first_read_is_added(place):
    """Spend that was counted before the saved value was read is added to it."""
    history, kept = place.start()
    spend(history, 2)
    await kept.save()
    late, kept = place.start()
    spend(late)
    await kept.save()
    again, kept = place.start()
    await kept.load()
    assert again.spend_today(NOW) == late.spend_today(NOW) == pytest.approx(3)


async def test_gateways_of_a_store_show_the_sum(store):
    """Each gateway of a store shows the sum of all, also one started a day later."""
    (one, kept), (two, followed) = store.start("gw1"), store.start("gw2")
    spend(one, 2)
    spend(two, 3)
    for each in (kept, followed, kept):
        await each.save()
        await each.follow()
    assert one.spend_today(NOW) == two.spend_today(NOW) == pytest.approx(5)
    new, third = store.start("gw3", NOW + DAY_S)
    await third.load()
    assert new.public(["acme"], NOW + DAY_S)["usd"] == pytest.approx(5)
    (name,) = await store.client.keys("t:1:{spend}:*")
    assert 30 * DAY_S < await store.client.ttl(name) <= 31 * DAY_S


async def test_spend_is_kept_while_the_store_is_down(tmp_path):
    """While the store is down spend is counted and stays to be saved."""
    client = open_redis(f"unix://{tmp_path}/nobody")
    history, kept = Place(tmp_path, client).start()
    spend(history)
    with pytest.raises((RedisError, OSError, TimeoutError)):
        await kept.save()
    assert history.changed
    assert history.spend_today(NOW) == pytest.approx(1)
    await client.aclose()


async def test_spend_of_another_version_is_skipped(store):
    """An unreadable entry of another gateway is skipped."""
    history, kept = store.start()
    spend(history)
    await kept.save()
    day = int(NOW) // DAY_S
    await store.client.hset(f"t:1:{{spend}}:{day}", "gw9", b"\xc1")
    again, kept = store.start("gw2")
    await kept.load()
    assert again.spend_today(NOW) == pytest.approx(1)

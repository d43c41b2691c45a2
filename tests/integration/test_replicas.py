"""Gateways on one store know how many workers share each limit."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.control.replicas import Replicas
from tests.engines import engine_binaries, running_engine


@pytest.fixture(name="url", scope="module")
def _url():
    """Address of a server of our own."""
    binaries = engine_binaries()
    if not binaries:
        pytest.skip("no valkey-server or redis-server on this machine")
    with running_engine(next(iter(binaries.values()))) as engine:
        yield engine.url


async def test_workers_of_all_gateways_are_counted(url):
    """Two gateways see each other's workers; one that leaves is not counted."""
    told: list[Any] = []
    async with Redis.from_url(url) as redis:
        one = Replicas(redis, "t:", "one", 2, told.append)
        two = Replicas(redis, "t:", "two", 3, told.append)
        await one._beat()
        await two._beat()
        await one._beat()
        assert (one.count, two.count) == (5, 5)
        await two.leave()
        await one._beat()
        assert one.message() == {"type": "replicas", "count": 2}
        assert [message["count"] for message in told] == [5, 5, 2]


async def test_a_silent_gateway_is_gone_after_a_while(url):
    """A gateway that was killed stops counting when its beats have stopped."""
    async with Redis.from_url(url) as redis:
        seconds, _ = await redis.time()
        await redis.zadd("u:1:gateways", {"dead:4": seconds - 16})
        live = Replicas(redis, "u:", "live", 1, lambda _message: None)
        await live._beat()
        assert live.count == 1

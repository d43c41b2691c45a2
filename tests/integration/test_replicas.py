"""Gateways on one store count the workers that share each limit."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.control.replicas import Replicas
from tests.engines import engine_binaries, running_engine


@pytest.fixture(name="url", scope="module")
def _url():
    """The address of an engine for this module."""
    binaries = engine_binaries()
    if not binaries:
        pytest.skip("no valkey-server or redis-server on this machine")
    with running_engine(next(iter(binaries.values()))) as engine:
        yield engine.url


async def test_workers_of_all_gateways_are_counted(url):
    """Two gateways count each other's workers; those of a gateway that leaves are not
    counted.
    """
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


async def test_a_gateway_without_heartbeats_is_not_counted(url):
    """A gateway whose last heartbeat is 16 s old is not counted."""
    async with Redis.from_url(url) as redis:
        seconds, _ = await redis.time()
        await redis.zadd("u:1:gateways", {"dead:4": seconds - 16})
        live = Replicas(redis, "u:", "live", 1, lambda _message: None)
        await live._beat()
        assert live.count == 1

"""Caps on connections, and the keys under which they count."""

from __future__ import annotations

import pytest

from gateway.http.shared import MAX_503_ANSWERS, address_key
from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("ip", "subject"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1%eth0", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unix", "unix"),
        ("a:b", "a:b"),
    ],
)
def test_connections_count_by_subject(ip, subject):
    """IPv6 counts by its /64, mapped IPv4 as IPv4, anything else unchanged."""
    assert address_key(ip) == subject


async def test_flood_of_connections_is_not_answered(upstream):
    """Connections far beyond the cap are reset without a 503 answer."""
    async with InProcess(upstream, server="max_connections = 1") as gateway:
        clients = [await gateway.client() for _ in range(MAX_503_ANSWERS + 3)]
        await until(
            lambda: clients[-1].reader.at_eof() or clients[-1].reader.exception()
        )
        assert gateway.plane.listener.counters["connections"] == MAX_503_ANSWERS + 2
        for client in clients:
            client.close()
        await until(lambda: not gateway.plane.listener.connections)
        assert not gateway.plane.listener.state.per_ip

"""What a listener counts, and how it keeps watch."""

from __future__ import annotations

import pytest

from gateway.http.shared import MAX_503_ANSWERS, address_key
from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


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
    """IPv6 by its /64, mapped IPv4 as IPv4, anything else as it is."""
    assert address_key(ip) == subject


async def test_flood_of_connections_is_not_answered(upstream):
    """Far beyond the cap nobody is told why: a socket is all that it would cost."""
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


async def test_idle_connection_is_closed(upstream):
    """A kept-alive connection without requests ends after its time."""
    async with InProcess(upstream, server='keepalive_timeout = "50ms"') as gateway:
        client = await gateway.client()
        client.send(request())
        await client.answer()
        assert await client.rest() == b""


async def test_new_limits_apply_to_later_requests(upstream):
    """After a reload the new limits hold, on connections that were there before."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(request())
        await client.answer()
        gateway.text = gateway.text.replace("[store]", "max_headers = 2\n[store]")
        gateway.reload()
        client.send(request(fields=CLOSE + b"A: 1\r\n"))
        assert (await client.rest()).startswith(b"HTTP/1.1 431 ")

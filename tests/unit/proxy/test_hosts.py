"""Requests of foreign pages and rebound names at a port on loopback."""

from __future__ import annotations

import json

import pytest

from gateway.proxy.hosts import host_check
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BODY = json.dumps({"model": "gpt-4o", "messages": []}).encode()
HOSTS = 'hosts = ["llm.example", "*.apps.example"]\n'


async def ask(gateway: InProcess, host: str, fields: str = "") -> bytes:
    head = (
        f"POST {CHAT.decode()} HTTP/1.1\r\nHost: {host}\r\n{fields}"
        f"Content-Type: text/plain\r\nContent-Length: {len(BODY)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return await gateway.talk(head.encode() + BODY)


@pytest.mark.parametrize(
    ("host", "server", "passes"),
    [
        ("127.0.0.1:8080", "", True),
        ("127.9.9.9", "", True),
        ("localhost:8080", "", True),
        ("LOCALHOST.", "", True),
        ("[::1]:8080", "", True),
        ("app.localhost", "", True),
        ("tidegate:8080", "", True),
        ("evil.example", "", False),
        ("evil.example:8080", "", False),
        ("127.0.0.1.evil.example", "", False),
        ("localhost.evil.example", "", False),
        ("10.0.0.1", "", False),
        ("[::2]", "", False),
        ("llm.example", "", False),
        ("llm.example:8080", HOSTS, True),
        ("a.apps.example", HOSTS, True),
        ("apps.example", HOSTS, False),
        ("evil.example", HOSTS, False),
        ("evil.example", 'hosts = ["*"]\n', True),
        ("evil.example", 'trusted_proxies = ["127.0.0.0/8"]\n', True),
    ],
)
async def test_names(host, server, passes, upstream):
    """A name that is not the gateway's gets 403 and does not reach the upstream."""
    async with InProcess(upstream, server=server) as gateway:
        answer = await ask(gateway, host)
        assert answer.startswith(b"HTTP/1.1 200 " if passes else b"HTTP/1.1 403 ")
        assert (b"bad_host" in answer) is not passes


@pytest.mark.parametrize(
    ("fields", "server", "passes"),
    [
        ("Origin: https://evil.example\r\n", "", False),
        ("Origin: null\r\n", "", False),
        ("Origin: http://127.0.0.1.evil.example\r\n", "", False),
        ("Origin: http://intranet\r\n", "", False),
        ("Origin: http://[\r\n", "", False),
        ("Sec-Fetch-Site: cross-site\r\n", "", False),
        ("Sec-Fetch-Site: none\r\n", "", True),
        ("Sec-Fetch-Site: same-origin\r\n", "", True),
        ("Origin: https://app.test\r\n", "", True),
        ("Origin: http://127.0.0.1:8080\r\n", "", True),
        ("Origin: http://localhost:3000\r\nSec-Fetch-Site: cross-site\r\n", "", True),
        ("Origin: https://a.apps.example\r\n", HOSTS, True),
        ("Origin: https://evil.example\r\n", HOSTS, False),
        ("Origin: https://evil.example\r\n", 'hosts = ["*"]\n', True),
    ],
)
async def test_pages(fields, server, passes, upstream):
    """A page of another site gets 403; pages of this machine and of ``hosts`` pass."""
    async with InProcess(upstream, server=server) as gateway:
        answer = await ask(gateway, "127.0.0.1:8080", fields)
        assert answer.startswith(b"HTTP/1.1 200 " if passes else b"HTTP/1.1 403 ")
        assert (b"cross_site" in answer) is not passes


def test_only_loopback_is_checked_unless_names_are_stated():
    """On other listeners names are checked once they are configured."""
    assert host_check((), "0.0.0.0") is None
    assert host_check((), "192.0.2.7") is None
    assert host_check(("*",), "127.0.0.1") is None
    assert host_check(("llm.example",), "0.0.0.0") is not None
    assert host_check((), "::1") is not None

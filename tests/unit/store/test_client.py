"""redis-py clients for control, and the warning about eviction."""

from __future__ import annotations

import pytest

from gateway.store.client import check_eviction, open_redis


@pytest.mark.parametrize(
    "url",
    ["unix:///s", "redis://u:p@h:1/2", "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false",
     "redis+sentinel://:p@a:1,b:2/m"],
)  # fmt: skip
async def test_every_server_url_opens_a_client(url):
    """Every URL of a server gives a client; nothing connects yet."""
    client = open_redis(url)
    await client.aclose()


@pytest.mark.parametrize(
    ("policy", "maxmemory", "warns"),
    [
        ("noeviction", 5, False),
        ("", 5, False),
        ("allkeys-lru", 0, False),
        ("allkeys-lru", 5, True),
        ("volatile-ttl", 5, True),
    ],
)
def test_eviction_causes_a_warning(policy, maxmemory, warns):
    """There is a warning only if keys may really be evicted."""
    assert (check_eviction(policy, maxmemory) is not None) is warns

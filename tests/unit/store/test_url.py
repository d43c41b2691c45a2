"""Store addresses: what is understood, and what an error says to do."""

from __future__ import annotations

import pytest

from gateway.store.url import StoreUrl, StoreUrlError, check_eviction, parse_store_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory:", StoreUrl("memory")),
        ("embedded:./data", StoreUrl("embedded", path="./data")),
        ("embedded:///var/lib/x", StoreUrl("embedded", path="/var/lib/x")),
        ("unix:///run/x.sock?db=2", StoreUrl("unix", path="/run/x.sock", db=2)),
        ("unix://:pw@/run/x.sock", StoreUrl("unix", path="/run/x.sock", password="pw")),
        ("redis://h", StoreUrl("tcp", host="h")),
        ("redis://h:7/3", StoreUrl("tcp", host="h", port=7, db=3)),
        ("redis://[::1]:7", StoreUrl("tcp", host="::1", port=7)),
        ("valkey://h?db=1", StoreUrl("tcp", host="h", db=1)),
        (
            "rediss://u:p%40@h?ssl_cert_reqs=none",
            StoreUrl(
                "tcp",
                host="h",
                username="u",
                password="p@",
                tls=True,
                options={"ssl_cert_reqs": "none"},
            ),
        ),
        (
            "redis+sentinel://:p@a:1,b/main/2",
            StoreUrl(
                "sentinel",
                password="p",
                db=2,
                service="main",
                sentinels=(("a", 1), ("b", 26379)),
            ),
        ),
    ],
)
def test_addresses_are_taken_apart(url, expected):
    """Every documented form."""
    assert parse_store_url(url) == expected


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("data", "use one of"),
        ("http://h", "use one of"),
        ("embedded:", "embedded:./data"),
        ("unix://", "unix:///run"),
        ("unix://relative/x", "unix:///run"),
        ("redis://", "redis://127.0.0.1:6379/0"),
        ("redis://h:99999", "1 to 65535"),
        ("redis://h/one", "must be a number"),
        ("redis://h?ssl_cert_reqs=none", "known: db"),
        ("rediss://h?sll=1", "ssl_ca_certs"),
        ("redis+sentinel://a:1", "name of the master"),
        ("redis+sentinel://a:x/main", "not host:port"),
        ("redis+cluster://a:1", "not supported yet"),
    ],
)
def test_errors_name_the_fix(url, advice):
    """What is wrong, and what to write instead."""
    with pytest.raises(StoreUrlError, match=advice):
        parse_store_url(url)


def test_the_password_is_not_shown():
    """Addresses end up in logs."""
    assert "secret" not in repr(parse_store_url("redis://u:secret@h"))


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
def test_eviction_is_warned_of(policy, maxmemory, warns):
    """Only where keys may really go."""
    assert (check_eviction(policy, maxmemory) is not None) is warns

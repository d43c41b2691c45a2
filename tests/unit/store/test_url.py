"""URLs of servers: the forms that are understood, and errors that name the remedy."""

from __future__ import annotations

import pytest

from gateway.store.url import (
    RedisAddress,
    StoreUrlError,
    masked_url,
    parse_redis_url,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/x.sock?db=2", RedisAddress("unix", path="/run/x.sock", db=2)),
        (
            "unix://:pw@/run/x.sock",
            RedisAddress("unix", path="/run/x.sock", password="pw"),
        ),
        ("redis://h", RedisAddress("tcp", host="h")),
        ("redis://h:7/3", RedisAddress("tcp", host="h", port=7, db=3)),
        ("redis://[::1]:7", RedisAddress("tcp", host="::1", port=7)),
        ("valkey://h?db=1", RedisAddress("tcp", host="h", db=1)),
        (
            "rediss://u:p%40@h?ssl_cert_reqs=none",
            RedisAddress(
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
            RedisAddress(
                "sentinel",
                password="p",
                db=2,
                service="main",
                sentinels=(("a", 1), ("b", 26379)),
            ),
        ),
    ],
)
def test_urls_are_parsed(url, expected):
    """Every documented form is understood."""
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("unix://", "unix:///run"),
        ("unix://relative/x", "unix:///run"),
        ("redis://", "redis://127.0.0.1:6379/0"),
        ("redis://h:99999", "1 to 65535"),
        ("redis://h/one", "must be a number"),
        ("redis://h?ssl_cert_reqs=none", "known: db"),
        ("rediss://h?sll=1", "ssl_ca_certs"),
        ("redis+sentinel://a:1", "name of the master"),
        ("redis+sentinel://a:x/main", "not host:port"),
        ("redis+cluster://a:1", "comes with a later version"),
    ],
)
def test_errors_name_the_fix(url, advice):
    """An error says what is wrong and what to write instead."""
    with pytest.raises(StoreUrlError, match=advice):
        parse_redis_url(url)


def test_the_password_is_not_shown():
    """The text form of an address, which is logged, has no password."""
    assert "secret" not in repr(parse_redis_url("redis://u:secret@h"))


def test_a_masked_url_has_no_secrets():
    """Status page and logs show neither user, password nor query."""
    assert masked_url("redis://u:p@h:1/2?x=y") == "redis://h:1/2"
    assert masked_url("unix://:p@/s?db=1") == "unix:///s"
    assert masked_url("memory:") == "memory:"

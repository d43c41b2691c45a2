"""redis-py connections for control: block list, secret. Workers have their own way."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.store.url import parse_store_url

# Control asks seldom and off the hot path: it can wait a little.
TIMEOUT_S = 2.0
_FALSE = ("false", "no", "0")


def open_redis(url: str) -> Redis:
    """A client for the store at ``url`` (any but ``memory:`` and ``embedded:``).

    Connects when first used. Raises StoreUrlError.
    """
    at = parse_store_url(url)
    options: dict[str, Any] = {
        "db": at.db,
        "protocol": 2,
        "socket_connect_timeout": TIMEOUT_S,
        "socket_timeout": TIMEOUT_S,
        "username": at.username or None,
        "password": at.password or None,
        # Once more for a connection that went stale; the callers know how to wait.
        "retry": Retry(NoBackoff(), 1),
    }
    if at.kind == "unix":
        return Redis(unix_socket_path=at.path, **options)
    if at.tls:
        options |= {"ssl": True, **at.options}
        check = at.options.get("ssl_check_hostname", "true").lower() not in _FALSE
        options["ssl_check_hostname"] = check
    if at.kind == "sentinel":
        timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
        opened: Any = Sentinel  # its constructor has no annotations
        sentinel = opened(list(at.sentinels), sentinel_kwargs=timeouts)
        master: Redis = sentinel.master_for(at.service, **options)
        return master
    return Redis(host=at.host, port=at.port, **options)

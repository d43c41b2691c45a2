"""redis-py clients for control's data; workers use ``channel.py``."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.store.url import RedisAddress, parse_redis_url

# Seconds. Control's calls are rare and off the hot path.
TIMEOUT_S = 2.0
_FALSE = ("false", "no", "0")


def open_redis(url: str | RedisAddress) -> Redis:
    """A client for a Redis or Valkey server; connects on first use.

    Raises StoreUrlError.
    """
    at = parse_redis_url(url) if isinstance(url, str) else url
    options: dict[str, Any] = {
        "db": at.db,
        "protocol": 2,
        "socket_connect_timeout": TIMEOUT_S,
        "socket_timeout": TIMEOUT_S,
        "username": at.username or None,
        "password": at.password or None,
        # One retry for a stale connection; longer outages are the callers' business.
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


async def eviction_warning(client: Redis) -> str | None:
    """A warning if the server may evict keys; raises RedisError, OSError."""
    asked: Any = client  # redis-py's annotations are too loose
    memory = await asked.info("memory")
    policy = str(memory.get("maxmemory_policy", ""))
    return check_eviction(policy, int(memory.get("maxmemory", 0)))


def check_eviction(policy: str, maxmemory: int) -> str | None:
    """A warning for a ``maxmemory-policy``; ``maxmemory`` in bytes, 0: unlimited."""
    if policy in ("", "noeviction") or maxmemory == 0:
        return None
    return (
        f"the store may evict keys (maxmemory-policy {policy}): limits would forget "
        "what was used; set maxmemory-policy noeviction"
    )

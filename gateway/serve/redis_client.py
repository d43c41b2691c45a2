"""redis-py connections for control: block list, secret. Workers have their own way."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis, Sentinel

from gateway.config.structs import StoreTable
from gateway.store.url import parse_store_url

# Control asks seldom and off the hot path: it can wait a little.
TIMEOUT_S = 2.0


def open_redis(url: str, table: StoreTable) -> Redis:
    """A client for the store at ``url`` (not ``memory:``), with the table's credentials.

    Connects when first used. Raises StoreUrlError.
    """
    at = parse_store_url(url)
    options: dict[str, Any] = {
        "db": at.db,
        "protocol": 2,
        "socket_connect_timeout": TIMEOUT_S,
        "socket_timeout": TIMEOUT_S,
        "username": table.username or at.username or None,
        "password": table.password.reveal() if table.password else at.password or None,
    }
    if at.tls:
        options |= {"ssl": True, "ssl_ca_certs": table.ca_file, **at.options}
        if not table.tls_verify:
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    if at.kind == "unix":
        return Redis(unix_socket_path=at.path, **options)
    if at.kind == "sentinel":
        timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
        opened: Any = Sentinel  # its constructor has no annotations
        sentinel = opened(list(at.sentinels), sentinel_kwargs=timeouts)
        master: Redis = sentinel.master_for(at.service, **options)
        return master
    return Redis(host=at.host, port=at.port, **options)

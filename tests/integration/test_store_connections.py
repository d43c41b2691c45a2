"""Connections to a store by TCP, TLS and Sentinel, with passwords and databases."""

from __future__ import annotations

import pytest
import trustme

from gateway.limits.ports import Plan
from gateway.store.client import eviction_warning, open_redis
from gateway.store.embedded import EmbeddedEngine
from gateway.store.memory import MemoryStore
from gateway.store.opening import open_store
from gateway.store.redis import RedisStore
from gateway.store.url import StoreUrlError
from tests.cells import reserve, sliding
from tests.engines import engine_binaries, running_engine, running_sentinel
from tests.ports import free_port

PLAN = Plan((sliding("reach", 1000, meter="requests"),))


@pytest.fixture(name="binary")
def _binary() -> str:
    for name in ("redis", "embedded"):
        if name in engine_binaries():
            return engine_binaries()[name]
    pytest.skip("no engine on this machine")


async def count_once(url: str) -> None:
    """Connect, count one request in the store itself, and close."""
    store = RedisStore(url, timeout_s=5.0)  # a loaded machine must not open the breaker
    await store.start()
    assert store.up, store.last_error
    answer = await reserve(store, PLAN, 1)
    assert (answer.admitted, answer.local) == (True, False)
    await store.close()


async def test_tcp_with_password_and_database(binary):
    """The URL's password and database are used."""
    port = free_port()
    extra = ("--port", str(port), "--requirepass", "se cret")
    with running_engine(binary, *extra):
        await count_once(f"redis://:se%20cret@127.0.0.1:{port}/3")
        store = RedisStore(f"redis://:wrong@127.0.0.1:{port}")
        await store.start()
        assert not store.up
        assert "WRONGPASS" in store.last_error
        await store.close()


async def test_tls_is_verified(binary, tmp_path):
    """A certificate of the configured authority is accepted, any other refused."""
    authority, port = trustme.CA(), free_port()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(tmp_path / "key")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    extra = ("--tls-port", str(port), "--tls-auth-clients", "no")
    extra += ("--tls-cert-file", str(tmp_path / "cert"))
    extra += ("--tls-key-file", str(tmp_path / "key"))
    extra += ("--tls-ca-cert-file", str(tmp_path / "ca"))
    with running_engine(binary, *extra):
        await count_once(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca")
        await count_once(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none")
        store = RedisStore(f"rediss://127.0.0.1:{port}")
        await store.start()
        assert not store.up
        assert "CERTIFICATE_VERIFY_FAILED" in store.last_error
        await store.close()


async def test_sentinel_names_the_master(binary):
    """The server's address comes from Sentinel."""
    port = free_port()
    with (
        running_engine(binary, "--port", str(port)),
        running_sentinel(binary, port) as sentinel,
    ):
        await count_once(f"redis+sentinel://127.0.0.1:{sentinel}/main")
        store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel}/other")
        await store.start()
        assert "other" in store.last_error
        await store.close()


async def test_a_server_that_does_not_exist(binary):
    """Without a server there is a readable error, and limits are local."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}")
    await store.start()
    assert (await reserve(store, PLAN, 1)).local
    assert (
        "refused" in store.last_error.lower() or "connect" in store.last_error.lower()
    )
    await store.close()


async def test_a_store_that_may_evict_keys_causes_a_warning(binary):
    """The warning is based on the server's own settings."""
    with running_engine(binary) as engine:
        client = open_redis(engine.url)
        assert await eviction_warning(client) is None
        engine.command(b"CONFIG SET maxmemory 1gb")
        engine.command(b"CONFIG SET maxmemory-policy allkeys-lru")
        assert "allkeys-lru" in (await eviction_warning(client) or "")
        await client.aclose()


async def test_open_store_picks_the_kind(tmp_path):
    """The URL's scheme selects the store."""
    engine = EmbeddedEngine(tmp_path / "d")
    assert isinstance(open_store("memory:"), MemoryStore)
    embedded = open_store(f"embedded:{tmp_path}/d")
    assert isinstance(embedded, RedisStore)
    assert embedded.address.path == engine.socket_path
    with pytest.raises(StoreUrlError):
        open_store("redis+cluster://h")

"""The secret that user ids are derived from: one for all gateways of a store.

Kept in the store (``<prefix>1:secret``, created by the first gateway). A copy in this
user's runtime directory, mode 0600, keeps ids stable for a gateway that starts while the
store is down. Without a copy a temporary secret is generated; the store's secret replaces
it later and ids change once: records of that time name such users differently, and what
they used counts for their tenant and address, not for their new id.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.identity.ids import secret_id
from gateway.serve.runtime import runtime_base, write_private
from gateway.store.opening import open_backend

SECRET_BYTES = 32


class SecretKeeper:
    """The store's secret, else the copy, else a temporary one. ``value`` is hex text."""

    def __init__(self, store_url: str, prefix: str, base: str | None = None) -> None:
        name = hashlib.blake2b(f"{store_url}\0{prefix}".encode(), digest_size=8)
        self._path = f"{base or runtime_base()}/secret-{name.hexdigest()}"
        self._key = f"{prefix}1:secret"
        copy = self._read_copy()
        self.value = copy or secrets.token_hex(SECRET_BYTES)
        self.used = bool(copy)
        """Whether user ids were derived from ``value``."""
        self.shared = False
        """Whether ``value`` is the store's secret."""

    @property
    def id(self) -> str:
        """A hash by which gateways and workers can be compared; it may be shown."""
        return secret_id(self.value.encode())

    async def fetch(self, client: Redis) -> bool:
        """Read the store's secret, or create it; True if ``value`` changed. Raises
        RedisError, OSError.
        """
        redis: Any = client
        stored: bytes | None = await redis.get(self._key)
        if not stored:
            # Of two gateways that start at once, one creates it. Read first: a full
            # store refuses SET even where the key exists.
            await redis.set(self._key, self.value, nx=stored is None)
            stored = await redis.get(self._key)
        value = (stored or self.value.encode()).decode("latin-1")
        changed = value != self.value
        self.value = value
        if changed or not self.shared:
            self.keep_copy()
        self.shared = True
        return changed

    async def peek(self, client: Redis | None) -> str:
        """The secret of the store, else the copy, without creating one; "" without any.
        Raises RedisError, OSError.
        """
        redis: Any = client
        stored: bytes | None = None if client is None else await redis.get(self._key)
        return stored.decode("latin-1") if stored else self._read_copy()

    def keep_copy(self) -> None:
        """Save the copy for a start without a store (with ``memory:``: for every start)."""
        with suppress(OSError):
            write_private(self._path, self.value.encode())

    def _read_copy(self) -> str:
        with suppress(OSError, ValueError), open(self._path, "rb") as file:
            text = file.read(256).decode("ascii").strip()
            if len(bytes.fromhex(text)) >= SECRET_BYTES:
                return text
        return ""


def find_secret(url: str, prefix: str) -> str:
    """The secret of the gateway with this store, in hex; "" if there is none yet."""
    engine = open_backend(url).engine(runtime_base())
    if engine is not None:
        url = engine.url
    keeper = SecretKeeper(url, prefix)

    async def find() -> str:
        client = open_backend(url).open_client()
        try:
            return await keeper.peek(client)
        except (RedisError, OSError):
            return await keeper.peek(None)
        finally:
            if client is not None:
                await client.aclose()

    return asyncio.run(find())

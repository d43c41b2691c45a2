"""The secret that user ids are made with: one for all gateways of a store.

It lives in the store (``<prefix>1:secret``, made by whoever comes first). A copy is kept
in this user's runtime directory, mode 0600, for a gateway that starts while the store is
away: ids then stay what they were. Without a copy a secret is made up for the time
being; when the store answers, its own replaces it, and ids change once. (Records of that
time then name such users differently; limits restart for them.)
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

from gateway.serve.runtime import runtime_base, write_private

SECRET_BYTES = 32


class SecretKeeper:
    """Knows the best secret there is. ``value`` is hex text."""

    def __init__(self, store_url: str, prefix: str, base: str | None = None) -> None:
        name = hashlib.blake2b(f"{store_url}\0{prefix}".encode(), digest_size=8)
        self._path = f"{base or runtime_base()}/secret-{name.hexdigest()}"
        self._key = f"{prefix}1:secret"
        self.value = self._read_copy() or secrets.token_hex(SECRET_BYTES)
        self.shared = False
        """Whether ``value`` is the store's."""

    async def fetch(self, client: Redis) -> bool:
        """Take (or make) the store's; True when ``value`` changed. Raises RedisError,
        OSError.
        """
        asked: Any = client
        await asked.set(self._key, self.value, nx=True)
        stored: bytes | None = await asked.get(self._key)
        value = (stored or self.value.encode()).decode()
        changed = value != self.value
        self.value = value
        self.shared = True
        self.keep_copy()
        return changed

    def keep_copy(self) -> None:
        """For the next start without a store (or, with ``memory:``, for every one)."""
        with suppress(OSError):
            write_private(self._path, self.value.encode())

    def _read_copy(self) -> str:
        with suppress(OSError, ValueError), open(self._path, "rb") as file:
            text = file.read(256).decode("ascii").strip()
            if len(bytes.fromhex(text)) >= SECRET_BYTES:
                return text
        return ""

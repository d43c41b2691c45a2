"""Fetch the JSON Web Key Sets of tenants and push them to the workers (RFC 7517)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec

from gateway.core.model import Tenant
from gateway.serve.link import Message

# Interval between fetches, seconds.
REFRESH_S = 600.0
# Interval after a failure, also for a URL without keys so far, seconds.
RETRY_S = 15.0
# Limit of one fetch, seconds.
TIMEOUT_S = 10.0
# A key set has a handful of keys of 1 to 3 KB.
MAX_BYTES = 1024 * 1024


class JwksFetchError(Exception):
    """The response is not a key set."""


class JwksFetcher:
    """The latest key set of every URL in the configuration.

    ``on_keys`` gets the message for the workers when a key set changes; ``on_error`` gets
    URL and error text of a failed fetch. ``fetch`` returns the body of a URL.
    """

    def __init__(
        self,
        on_keys: Callable[[Message], None],
        on_error: Callable[[str, str], None],
        fetch: Callable[[str], Awaitable[bytes]] | None = None,
    ) -> None:
        self._on_keys = on_keys
        self._on_error = on_error
        self._fetch = fetch or fetch_bounded
        self._keys: dict[str, Any] = {}
        self._urls: frozenset[str] = frozenset()
        self._due = asyncio.Event()

    def configure(self, tenants: Iterable[Tenant]) -> None:
        """Use these tenants' URLs, and fetch them at once."""
        rules = (tenant.jwt for tenant in tenants)
        self._urls = frozenset(
            rule.jwks_url for rule in rules if rule and rule.jwks_url
        )
        self._keys = {
            url: keys for url, keys in self._keys.items() if url in self._urls
        }
        self._due.set()

    def messages(self) -> list[Message]:
        """Every known key set, for a worker that connects."""
        return [_message(url, keys) for url, keys in sorted(self._keys.items())]

    async def refresh(self) -> float:
        """Fetch all URLs; seconds until the next refresh. A failed URL keeps its old keys."""
        failed = False
        for url in sorted(self._urls):
            try:
                keys = read_key_set(await self._fetch(url))
            except (
                aiohttp.ClientError,
                OSError,
                TimeoutError,
                JwksFetchError,
            ) as error:
                failed = True
                self._on_error(url, str(error) or type(error).__name__)
                continue
            if keys != self._keys.get(url):
                self._keys[url] = keys
                self._on_keys(_message(url, keys))
        return RETRY_S if failed else REFRESH_S

    async def run(self) -> None:
        """Refresh periodically, and at once after ``configure``, until cancelled."""
        while True:
            self._due.clear()
            wait_s = await self.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._due.wait()


def _message(url: str, keys: Any) -> Message:
    return {"type": "jwks", "url": url, "keys": keys}


def read_key_set(body: bytes) -> dict[str, Any]:
    """Parse a response as a key set: a JSON object with a list of ``keys``, which are not
    checked here. Raises JwksFetchError.
    """
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"not JSON: {error}"
        raise JwksFetchError(msg) from error
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        msg = "not a key set: a JSON object with a list of keys is expected"
        raise JwksFetchError(msg)
    return {"keys": found["keys"]}


async def fetch_bounded(url: str) -> bytes:
    """Body of a 200 response, at most MAX_BYTES. Raises aiohttp.ClientError, TimeoutError, JwksError."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(url, headers={"Accept": "application/json"}) as answer,
    ):
        answer.raise_for_status()
        body = await answer.content.read(MAX_BYTES + 1)
        while len(body) <= MAX_BYTES and (
            chunk := await answer.content.read(MAX_BYTES)
        ):
            body += chunk
    if len(body) > MAX_BYTES:
        msg = f"larger than {MAX_BYTES} bytes"
        raise JwksFetchError(msg)
    return body

"""From a URL to a store. A new kind of store is one class and one line of ``BACKENDS``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.store.backend import LimiterOptions, StoreBackend
from gateway.store.backends import EmbeddedBackend, MemoryBackend, RedisBackend
from gateway.store.url import StoreLogin, StoreUrlError

if TYPE_CHECKING:
    from gateway.limits.ports import Store

BACKENDS: tuple[type[StoreBackend], ...] = (
    EmbeddedBackend,
    MemoryBackend,
    RedisBackend,
)
STORE_FORMS = ", ".join(backend.forms for backend in BACKENDS)
# What a gateway falls back to if there is no engine for ``embedded:``.
MEMORY_URL = "memory:"


def backend_of(url: str) -> type[StoreBackend]:
    """The class for a URL's scheme. Raises StoreUrlError."""
    scheme, colon, _ = url.partition(":")
    if not colon:
        msg = f"store url {url!r} has no scheme; use one of: {STORE_FORMS}"
        raise StoreUrlError(msg)
    for backend in BACKENDS:
        if scheme.lower() in backend.schemes:
            return backend
    msg = f"{scheme!r} is not a store; use one of: {STORE_FORMS}"
    raise StoreUrlError(msg)


def open_backend(url: str) -> StoreBackend:
    """The store at a URL; nothing connects yet. Raises StoreUrlError."""
    return backend_of(url)(url)


def complete_url(url: str, login: StoreLogin) -> str:
    """A store URL with credentials and TLS settings. It is a secret: it goes from the
    supervisor to its children only. Raises StoreUrlError.
    """
    return backend_of(url).complete(url, login)


def is_shared(url: str) -> bool:
    """Whether several workers count together; True for a URL that is not valid."""
    try:
        return backend_of(url).is_shared
    except StoreUrlError:
        return True


def directory_in(url: str) -> str | None:
    """The data directory that a store URL names ("": none given); None: it has none."""
    try:
        return backend_of(url).directory_in(url)
    except StoreUrlError:
        return None


def open_store(
    url: str,
    options: LimiterOptions | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Store:
    """The limits of one worker at a URL, not yet started. Raises StoreUrlError."""
    return open_backend(url).open_limiter(options or LimiterOptions(), loop)

"""The port that every kind of store implements.

A store is one class: what its URLs look like, what it can do, and how each process
opens it. ``opening.py`` lists the classes. Nothing outside of this folder asks which
class it has. Imports in the methods are lazy, so that the configuration and the
supervisor stay small.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import msgspec

from gateway.limits.plans import DEFAULT_PREFIX
from gateway.store.url import StoreLogin

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.limits.ports import Store
    from gateway.store.embedded import EmbeddedEngine
    from gateway.store.fallback import WhenDown


# Seconds without data after which a store counts as unavailable.
DEFAULT_TIMEOUT_S = 0.05


class LimiterOptions(msgspec.Struct, frozen=True):
    """How a worker uses a store; see ``RedisStore``."""

    prefix: bytes = DEFAULT_PREFIX
    when_down: WhenDown = "local"
    timeout_s: float = DEFAULT_TIMEOUT_S
    replicas: int = 1


class StoreBackend(ABC):
    """One kind of store, opened by its URL. The constructor raises StoreUrlError."""

    schemes: ClassVar[tuple[str, ...]]
    """Schemes of its URLs."""
    forms: ClassVar[str]
    """How its URLs are written, for error messages."""
    is_shared: ClassVar[bool] = True
    """Whether several workers count together. False: one worker."""
    is_persistent: ClassVar[bool] = True
    """Whether it keeps anything after the gateway ends."""

    @abstractmethod
    def __init__(self, url: str) -> None: ...

    @classmethod
    def directory_in(cls, url: str) -> str | None:  # noqa: ARG003 - the port
        """The data directory that the URL names ("": none given); None: it has none."""
        return None

    @classmethod
    def complete(cls, url: str, login: StoreLogin) -> str:  # noqa: ARG003 - the port
        """The URL with credentials and TLS settings; it is a secret then."""
        return url

    def engine(self, runtime_dir: str) -> EmbeddedEngine | None:
        """The engine that the gateway itself must run; its socket in ``runtime_dir``."""
        return None

    @abstractmethod
    def open_limiter(
        self, options: LimiterOptions, loop: asyncio.AbstractEventLoop | None = None
    ) -> Store:
        """The limits of one worker, not yet started."""

    @abstractmethod
    def open_client(self) -> Redis | None:
        """A client for control's own data: block list, secret, baselines, outbox, spend.

        None: the store holds no such data, and control keeps it in files beside the
        runtime directory. Connects on first use.
        """

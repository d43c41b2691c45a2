"""What the admin API asks of control, and what can go wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.core.model import Block


class Refused(Exception):  # noqa: N818 - becomes an answer
    """The operation cannot be done; the caller is told why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Backend(Protocol):
    """Control, as far as the admin API is concerned."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def clients(self) -> ClientTable: ...

    @property
    def token(self) -> str | None:
        """What ``/api`` asks for as a bearer token; None: nothing."""
        ...

    def not_ready(self) -> list[str]:
        """Why requests cannot be served now; empty when they can."""
        ...

    def status(self) -> dict[str, Any]:
        """The state of every part."""
        ...

    def policies(self) -> list[dict[str, Any]]:
        """Effective policy of each tenant."""
        ...

    def blocks(self) -> list[Block]:
        """Blocks in force, oldest first."""
        ...

    async def add_block(self, block: Block) -> None:
        """Raises Refused."""
        ...

    async def remove_block(self, kind: str, id_: str, tenant: str | None) -> bool:
        """False when there was none. Raises Refused."""
        ...

    async def limits_of(
        self, kind: str, id_: str, tenants: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Each limit of the subject with what is used of it. Raises Refused."""
        ...

    async def reset(self, kind: str, id_: str, tenant: str | None) -> int:
        """Forget the subject's counters; how many. Raises Refused."""
        ...

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. Raises Refused when it is not usable."""
        ...

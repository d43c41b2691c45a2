"""What the admin API asks of control, and what can go wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.admin.activity import ActivityFeed, AuditEntry
from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.admin.sessions import AdminTokens
from gateway.core.model import Block
from gateway.detect.export import Usual


class AdminBackend(Protocol):
    """Control, as far as the admin API is concerned."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def clients(self) -> ClientTable: ...

    @property
    def activity(self) -> ActivityFeed: ...

    @property
    def tokens(self) -> AdminTokens:
        """What ``/api`` asks for as a bearer token."""
        ...

    def audit(self, entry: AuditEntry) -> None:
        """An operator did something, or tried to: the audit log."""
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

    def enforcement_states(self) -> list[Block]:
        """Who is tagged, throttled or let through by an operator, oldest first."""
        ...

    def incidents(self) -> list[dict[str, Any]]:
        """Open and recent incidents, newest first. ``acknowledged`` is null or
        ``{"at", "by"}``.
        """
        ...

    async def acknowledge_incident(self, id_: str, by: str) -> None:
        """Somebody looks after it. Raises Refused (404) when it is not known."""
        ...

    async def resolve_incident(self, id_: str, by: str) -> None:
        """An operator says that it is over. Raises Refused (404)."""
        ...

    def alerts(self) -> dict[str, Any]:
        """Delivery: ``{"targets": [{"name", "type", "state": "ok" | "failing" |
        "disabled", "since", "pending", "sent", "last_error"}], "pending": int,
        "items": [{"id", "type", "incident", "target", "state": "sent" | "pending" |
        "dead", "at", "attempts", "next_at", "answer"}]}``, newest items first.
        """
        ...

    async def resend_alert(self, id_: str) -> int:
        """Try a dead letter once more, or all of a target; how many. Raises Refused."""
        ...

    async def test_alert(self, target: str) -> None:
        """Send a sample to one target. Raises Refused."""
        ...

    def silences(self) -> list[dict[str, Any]]:
        """``{"id", "tenant", "class", "subject", "from", "to", "state": "pending" |
        "active" | "over", "repeat", "reason", "by"}``.
        """
        ...

    async def add_silence(self, silence: dict[str, Any]) -> dict[str, Any]:
        """``since`` and ``until`` (epoch seconds) or ``weekly``, ``tenant``, ``cls``,
        ``subject``, ``reason``, ``by``. Raises Refused.
        """
        ...

    async def remove_silence(self, id_: str) -> None:
        """Raises Refused (404)."""
        ...

    def baseline(
        self, kind: str, id_: str, tenant: str, *, history: bool = False
    ) -> Usual | None:
        """What detection knows of a subject; None for a stranger."""
        ...

    def enforcement_state(self, kind: str, id_: str, tenant: str) -> Block | None:
        """What is done to a subject now, in this tenant or everywhere."""
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

"""The interface between the admin API and the control process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.admin.activity import ActivityFeed, AuditEntry
from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.admin.sessions import AdminTokens
from gateway.core.model import Block
from gateway.detect.export import SubjectActivity


class AdminBackend(Protocol):
    """Operations of the control process that the admin API needs."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def clients(self) -> ClientTable: ...

    @property
    def activity(self) -> ActivityFeed: ...

    @property
    def tokens(self) -> AdminTokens:
        """Bearer tokens accepted under ``/api``."""
        ...

    def audit(self, entry: AuditEntry) -> None:
        """Add an operator action, also a failed one, to the audit log."""
        ...

    def log_failure(self, request_id: str, method: str, path: str) -> None:
        """Log the exception being handled, with its traceback: an admin request failed."""
        ...

    def not_ready(self) -> list[str]:
        """Reasons why the gateway is not ready; empty when it is."""
        ...

    def status(self) -> dict[str, Any]:
        """State of every component."""
        ...

    def policies(self) -> list[dict[str, Any]]:
        """Effective policy of each tenant."""
        ...

    def blocks(self) -> list[Block]:
        """Blocks in force, oldest first."""
        ...

    def enforcement_states(self) -> list[Block]:
        """Tagged, throttled and allowed subjects, oldest first."""
        ...

    def incidents(self) -> list[dict[str, Any]]:
        """Open and recent incidents, newest first. ``acknowledged`` is null or
        ``{"at", "by"}``.
        """
        ...

    async def acknowledge_incident(self, id_: str, by: str) -> None:
        """Mark as being handled. Raises AdminError (404) if unknown."""
        ...

    async def resolve_incident(self, id_: str, by: str) -> None:
        """Close it. Raises AdminError (404)."""
        ...

    def alerts(self) -> dict[str, Any]:
        """State of alert delivery: ``{"targets": [{"name", "type", "state": "ok" | "failing" |
        "disabled", "since", "pending", "sent", "last_error"}], "pending": int,
        "items": [{"id", "type", "incident", "target", "state": "sent" | "pending" |
        "dead", "at", "attempts", "next_at", "answer"}]}``, newest items first.
        """
        ...

    async def resend_alert(self, id_: str) -> int:
        """Queue one dead letter, or all of a target; return the count.
        Raises AdminError.
        """
        ...

    async def test_alert(self, target: str) -> None:
        """Send a test alert to one target. Raises AdminError."""
        ...

    def silences(self) -> list[dict[str, Any]]:
        """Silences: ``{"id", "tenant", "class", "subject", "from", "to", "state": "pending" |
        "active" | "over", "repeat", "reason", "by"}``.
        """
        ...

    async def add_silence(self, silence: dict[str, Any]) -> dict[str, Any]:
        """Add a silence: ``since`` and ``until`` (epoch seconds) or ``weekly``,
        ``tenant``, ``cls``, ``subject``, ``reason``, ``by``. Raises AdminError.
        """
        ...

    async def remove_silence(self, id_: str) -> None:
        """End a silence. Raises AdminError (404)."""
        ...

    def baseline(
        self, kind: str, id_: str, tenant: str, *, history: bool = False
    ) -> SubjectActivity | None:
        """Observed and expected rates of a subject; None if unknown to detection."""
        ...

    def enforcement_state(self, kind: str, id_: str, tenant: str) -> Block | None:
        """Action in force on a subject, in this tenant or in all tenants."""
        ...

    async def add_block(self, block: Block) -> None:
        """Add or replace a block. Raises AdminError."""
        ...

    async def remove_block(self, kind: str, id_: str, tenant: str | None) -> bool:
        """Remove a block; False if there was none. Raises AdminError."""
        ...

    async def limits_of(
        self, kind: str, id_: str, tenants: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Limits of the subject with their usage. Raises AdminError."""
        ...

    async def reset(self, kind: str, id_: str, tenant: str | None) -> int:
        """Reset the subject's counters; return their number. Raises AdminError."""
        ...

    async def reload(self) -> dict[str, Any]:
        """Reload the configuration. Raises AdminError if it is invalid."""
        ...

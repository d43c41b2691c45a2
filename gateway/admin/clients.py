"""Who used how much within the last hour: a bounded table, fed by records.

One row per (kind, tenant, id) for client_ip and user, and one per tenant. A row holds
running sums and the marks they are made of: one per five minutes in which it was seen,
so a stranger costs one mark. The least recently seen row leaves when there is no room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from gateway.core.model import RequestRecord

CAPACITY = 100_000
SPAN_S = 3600
MARK_S = 300
_MARKS = SPAN_S // MARK_S

Kind = Literal["client_ip", "user", "tenant"]
Key = tuple[str, str, str]  # kind, tenant, id
Sort = Literal["tokens", "requests", "score"]


class Client:
    """One row. ``marks`` are [index, requests, tokens, nanos], oldest first."""

    __slots__ = (
        "last_action",
        "last_at",
        "limited",
        "marks",
        "nanos",
        "requests",
        "score",
        "tokens",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.nanos = 0
        self.limited = 0
        """Requests limited or blocked since the row exists."""
        self.last_at = 0.0
        self.last_action = "allow"
        self.score = 0.0
        self.marks: list[list[int]] = []

    def add(self, mark: int, r: RequestRecord) -> None:
        """Count a record that belongs to ``mark``."""
        marks = self.marks
        if not marks or marks[-1][0] < mark:
            self.expire(mark)
            marks.append([mark, 0, 0, 0])
        newest = marks[-1]
        tokens = r.total_tokens
        newest[1] += 1
        newest[2] += tokens
        newest[3] += r.usd_nanos
        self.requests += 1
        self.tokens += tokens
        self.nanos += r.usd_nanos
        self.last_at = r.ts
        self.last_action = action = r.action
        self.score = r.score
        if action in ("limit", "block"):
            self.limited += 1

    def expire(self, mark: int) -> None:
        """Forget what is an hour older than ``mark``."""
        marks = self.marks
        while marks and marks[0][0] <= mark - _MARKS:
            _, requests, tokens, nanos = marks.pop(0)
            self.requests -= requests
            self.tokens -= tokens
            self.nanos -= nanos


class ClientTable:
    """The rows, least recently seen first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[Key, Client] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._rows)

    def observe(self, r: RequestRecord) -> None:
        """Count one finished exchange for its address, user and tenant."""
        mark = int(r.ts) // MARK_S
        tenant = r.tenant
        self._row(("client_ip", tenant, r.client_ip)).add(mark, r)
        self._row(("user", tenant, r.user)).add(mark, r)
        self._row(("tenant", tenant, tenant)).add(mark, r)

    def _row(self, key: Key) -> Client:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Client()
            if len(self._rows) > self._capacity:
                self._rows.popitem(last=False)
                self.evicted += 1
        else:
            self._rows.move_to_end(key)
        return row

    def find(
        self, kind: str, id_: str, tenant: str | None, now: float
    ) -> Iterator[Any]:
        """Rows of one subject, in one tenant or (None) in all of them."""
        for key, row in self._rows.items():
            if key[0] == kind and key[2] == id_ and tenant in (None, key[1]):
                yield public_client(key, row, now)

    def top(
        self, sort: Sort, kind: str | None, now: float, *, start: int, limit: int
    ) -> list[dict[str, Any]]:
        """``limit`` rows from place ``start`` on, most first; idle ones left out."""
        mark = int(now) // MARK_S
        alive: list[tuple[float, Key]] = []
        for key, row in self._rows.items():
            if kind is None or key[0] == kind:
                row.expire(mark)
                if row.requests:
                    alive.append((getattr(row, sort), key))
        alive.sort(key=_most_first)
        return [
            public_client(key, self._rows[key], now)
            for _, key in alive[start : start + limit]
        ]


def _most_first(entry: tuple[float, Key]) -> tuple[float, Key]:
    return -entry[0], entry[1]


def moment(at: float) -> datetime:
    """Epoch seconds as what JSON writes as RFC 3339."""
    return datetime.fromtimestamp(at, UTC)


def public_client(key: Key, row: Client, now: float) -> dict[str, Any]:
    """A row as the admin API shows it."""
    row.expire(int(now) // MARK_S)
    return {
        "kind": key[0],
        "id": key[2],
        "tenant": key[1],
        "requests": row.requests,
        "tokens": row.tokens,
        "usd": row.nanos / 1e9,
        "limited": row.limited,
        "score": row.score,
        "action": row.last_action,
        "last_seen": moment(row.last_at),
    }

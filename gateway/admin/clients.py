"""Usage by client in the last hour: a bounded table fed by records.

One row per (kind, tenant, id) for client_ip and user, and one per tenant. A row holds
the sums of the hour and one slot for each five minutes with requests; a new client has
only the current slot. At capacity the least recently seen row is evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Literal

from gateway.core.model import RequestRecord

CAPACITY = 100_000
SPAN_S = 3600
SLOT_S = 300
_SLOTS = SPAN_S // SLOT_S

_ACTIONS = {name: name for name in ("allow", "tag", "throttle", "limit", "block")}
_REFUSED = frozenset({"limit", "block"})

Kind = Literal["client_ip", "user", "tenant"]
Key = tuple[str, str, str]  # kind, tenant, id
Sort = Literal["now", "tokens", "requests", "usd", "score", "recent"]
# Rows kept from one scan of the table, and the seconds for which they are reused.
_SCAN_ROWS = 200
_SCAN_TTL_S = 1.0


class ClientRow:
    """Sums of one client over the last hour. ``older``: earlier slots as
    [index, requests, tokens, nanos], oldest first; None if there are none.
    ``nanos``: 1e-9 USD.
    """

    __slots__ = (
        "key",
        "last_action",
        "last_at",
        "limited",
        "nanos",
        "newest",
        "newest_requests",
        "older",
        "requests",
        "score",
        "tokens",
    )

    def __init__(self, slot: int) -> None:
        self.requests = 0
        self.tokens = 0
        self.nanos = 0
        self.limited = 0
        """Requests limited or blocked since the row was created."""
        self.last_at = 0.0
        self.last_action = "allow"
        self.score = 0.0
        self.key = ""
        """Name of the key that it used last."""
        self.newest = slot
        self.newest_requests = 0
        self.older: list[list[int]] | None = None

    def add(self, slot: int, r: RequestRecord) -> None:
        """Count a record in ``slot``."""
        if slot > self.newest:
            self._start_slot(slot)
        self.newest_requests += 1
        self.requests += 1
        self.tokens += r.total_tokens
        self.nanos += r.usd_nanos
        self.last_at = r.ts
        self.score = r.score or 0.0
        action = r.action
        # Interned, so that 100,000 rows share the strings.
        self.last_action = _ACTIONS.get(action, action)
        if action in _REFUSED:
            self.limited += 1

    def _start_slot(self, slot: int) -> None:
        """Begin a slot; the previous one gets the sums minus those of older slots."""
        self.expire(slot)
        if self.newest_requests:
            older = self.older or []
            row = [self.newest, self.newest_requests, self.tokens, self.nanos]
            for _, _, tokens, nanos in older:
                row[2] -= tokens
                row[3] -= nanos
            older.append(row)
            self.older = older
        self.newest = slot
        self.newest_requests = 0

    def rate_m(self, now: float) -> float:
        """Requests per minute over a sliding window of five minutes."""
        return _now_values(now)(self) / (SLOT_S / 60)

    def expire(self, slot: int) -> None:
        """Drop slots that are an hour older than ``slot``."""
        oldest = slot - _SLOTS
        if self.newest <= oldest:
            self.requests = self.tokens = self.nanos = self.newest_requests = 0
            self.older = None
            return
        older = self.older
        while older and older[0][0] <= oldest:
            _, requests, tokens, nanos = older.pop(0)
            self.requests -= requests
            self.tokens -= tokens
            self.nanos -= nanos
        if older is not None and not older:
            self.older = None


class ClientTable:
    """Rows by client, least recently seen first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[Key, ClientRow] = OrderedDict()
        self._tops: dict[tuple[Sort, str | None, str | None, str], _TopRows] = {}
        self._tenants: dict[str, str] = {}  # interned tenant names
        self._keys: dict[str, str] = {}  # interned names of keys
        self._slot = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._rows)

    def observe(self, r: RequestRecord) -> None:
        """Count a finished exchange for its address, user and tenant."""
        slot = int(r.ts) // SLOT_S
        if slot == self._slot:
            slot = self._slot  # the same object in every row
        else:
            self._slot = slot
        tenant = self._tenants.setdefault(r.tenant, r.tenant)
        self._row(("client_ip", tenant, r.client_ip), slot).add(slot, r)
        user = self._row(("user", tenant, r.user), slot)
        user.add(slot, r)
        if r.key:
            user.key = self._keys.setdefault(r.key, r.key)
        self._row(("tenant", tenant, tenant), slot).add(slot, r)

    def _row(self, key: Key, slot: int) -> ClientRow:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = ClientRow(slot)
            if len(self._rows) > self._capacity:
                self._rows.popitem(last=False)
                self.evicted += 1
        else:
            self._rows.move_to_end(key)
        return row

    def find(
        self, kind: str, id_: str, tenant: str | None, now: float
    ) -> Iterator[Any]:
        """Rows of one subject as the admin API shows them, in ``tenant`` or (None) in all
        tenants. Scans the table.
        """
        for key, row in self._rows.items():
            if key[0] == kind and key[2] == id_ and tenant in (None, key[1]):
                yield public_client(key, row, now)

    def row(
        self, kind: str, id_: str, tenant: str, now: float
    ) -> dict[str, Any] | None:
        """One row as the admin API shows it; None if there is none."""
        found = self._rows.get((kind, tenant, id_))
        return None if found is None else public_client((kind, tenant, id_), found, now)

    def top(
        self,
        sort: Sort,
        kind: str | None,
        now: float,
        *,
        start: int,
        limit: int,
        tenant: str | None = None,
        text: str = "",
    ) -> list[dict[str, Any]]:
        """Rows ``start`` to ``start + limit`` in descending order, without idle ones.
        ``text``: only rows whose id or tenant contains it, ignoring case.
        """
        wanted = (sort, kind, tenant, text.lower())
        end = start + limit
        cached = self._tops.get(wanted)
        if (
            cached is None
            or not 0 <= now - cached.at < _SCAN_TTL_S
            or cached.most < end
        ):
            cached = _TopRows(now, max(end, _SCAN_ROWS))
            cached.keys = self._find_top(wanted, now, cached.most)
            self._tops = {
                k: v for k, v in self._tops.items() if now - v.at < _SCAN_TTL_S
            }
            self._tops[wanted] = cached
        rows = self._rows
        return [
            public_client(key, rows[key], now)
            for key in cached.keys[start:end]
            if key in rows
        ]

    def _find_top(
        self, wanted: tuple[Sort, str | None, str | None, str], now: float, most: int
    ) -> list[Key]:
        sort, kind, tenant, text = wanted
        slot = int(now) // SLOT_S
        oldest = slot - _SLOTS
        value = _values(sort, now)
        keys: list[Key] = []
        values: list[float] = []
        for key, row in self._rows.items():
            if kind is not None and key[0] != kind:
                continue
            older = row.older
            if (row.newest if older is None else older[0][0]) <= oldest:
                row.expire(slot)
            if not row.requests or (tenant is not None and tenant != key[1]):
                continue
            if text and text not in key[2].lower() and text not in key[1].lower():
                continue
            keys.append(key)
            values.append(value(row))
        return _highest(keys, values, most)


def _highest(keys: list[Key], values: list[float], most: int) -> list[Key]:
    """Keys of the ``most`` highest values, descending; ties keep the table order."""
    if len(values) > most:
        # Sorting 100,000 numbers takes a tenth of the time of sorting pairs.
        cut = sorted(values)[-most]
        sure = [at for at, value in enumerate(values) if value > cut]
        even = (at for at, value in enumerate(values) if value == cut)
        chosen = sure + list(islice(even, most - len(sure)))
    else:
        chosen = list(range(len(values)))
    chosen.sort(key=lambda at: (-values[at], keys[at]))
    return [keys[at] for at in chosen]


class _TopRows:
    """Result of one scan of the table: up to ``most`` keys."""

    __slots__ = ("at", "keys", "most")

    def __init__(self, at: float, most: int) -> None:
        self.at = at
        self.most = most
        self.keys: list[Key] = []


def _values(sort: Sort, now: float) -> Callable[[ClientRow], float]:
    if sort == "now":
        return _now_values(now)
    field = {"usd": "nanos", "recent": "last_at"}.get(sort, sort)
    return attrgetter(field)


def _now_values(now: float) -> Callable[[ClientRow], float]:
    """Requests in a five-minute window: the current slot plus the part of the previous
    one that the window still covers.
    """
    slot = int(now) // SLOT_S
    before = slot - 1
    left = 1.0 - (now / SLOT_S - slot)

    def value(row: ClientRow) -> float:
        at = row.newest
        if at == slot:
            older = row.older
            if older is not None and older[-1][0] == before:
                return row.newest_requests + older[-1][1] * left
            return row.newest_requests
        return row.newest_requests * left if at == before else 0.0

    return value


def moment(at: float) -> datetime:
    """Epoch seconds as a UTC datetime, which JSON encodes as RFC 3339."""
    return datetime.fromtimestamp(at, UTC)


def public_client(key: Key, row: ClientRow, now: float) -> dict[str, Any]:
    """A row as the admin API shows it."""
    row.expire(int(now) // SLOT_S)
    return {
        "kind": key[0],
        "id": key[2],
        "tenant": key[1],
        "key": row.key,
        "requests": row.requests,
        "requests_1m": round(row.rate_m(now), 2),
        "tokens": row.tokens,
        "usd": row.nanos / 1e9,
        "limited": row.limited,
        "score": row.score,
        "action": row.last_action,
        "last_seen": moment(row.last_at),
    }

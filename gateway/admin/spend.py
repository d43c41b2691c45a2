"""Spend and observe-mode refusals of the last 30 days, by tenant and UTC day.

A gateway counts its own days and reads those of the other gateways of its store. The
unit of storage is one gateway's day (``GatewayDay``), which holds totals: writing it
twice is idempotent. Bounded by 30 days, the configured tenants, and MAX_DIGESTS a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.admin.clients import moment
from gateway.admin.timeline import STOPPED
from gateway.core.model import RequestRecord

DAYS = 30
DAY_S = 86_400
# Distinct clients kept per gateway and day, over all tenants; others are left out.
MAX_DIGESTS = 10_000
# Tenants of a policy listed separately, by spend.
MAX_TENANTS = 100
DIGEST_BYTES = 8


class TenantDay(msgspec.Struct, array_like=True):
    """Totals of one tenant and day. ``nanos``: 1e-9 USD.

    ``would_*`` counts the part that observe mode served and enforce mode would have
    refused: requests by action, their tokens and their price.
    """

    requests: int = 0
    tokens: int = 0
    nanos: int = 0
    would_limit: int = 0
    would_throttle: int = 0
    would_block: int = 0
    would_tokens: int = 0
    would_nanos: int = 0

    def add(self, other: TenantDay) -> None:
        """Add the totals of another day."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add_record(self, r: RequestRecord) -> bool:
        """Add a record; return whether enforce mode would have refused it."""
        self.requests += 1
        self.tokens += r.total_tokens
        self.nanos += r.usd_nanos
        if not r.would or r.action not in STOPPED:
            return False
        if r.action == "limit":
            self.would_limit += 1
        elif r.action == "throttle":
            self.would_throttle += 1
        else:
            self.would_block += 1
        self.would_tokens += r.total_tokens
        self.would_nanos += r.usd_nanos
        return True

    @property
    def would(self) -> int:
        """Requests that enforce mode would have refused."""
        return self.would_limit + self.would_throttle + self.would_block


class GatewayDay(msgspec.Struct):
    """Totals of one gateway and day, as stored. ``people``: digests of the clients
    that enforce mode would have refused, kept for the last two days only.
    """

    since: float
    tenants: dict[str, TenantDay] = msgspec.field(default_factory=dict)
    people: dict[str, set[bytes]] = msgspec.field(default_factory=dict)

    def add(self, other: GatewayDay) -> None:
        """Add another gateway's day."""
        self.since = min(self.since, other.since)
        for name, sums in other.tenants.items():
            self.tenants.setdefault(name, TenantDay()).add(sums)
        for name, people in other.people.items():
            self.people.setdefault(name, set()).update(people)


class SpendHistory:
    """Days of this gateway, and the sums of the other gateways of the store."""

    def __init__(self) -> None:
        self._own: dict[int, GatewayDay] = {}
        self._others: dict[int, GatewayDay] = {}
        self._remembered = 0
        self.changed: set[int] = set()
        """Days with changes that are not stored yet."""

    def observe(self, r: RequestRecord) -> None:
        """Count a record for its tenant."""
        day = int(r.ts) // DAY_S
        totals = self._own.get(day) or self._start_day(day, r.ts)
        sums = totals.tenants.get(r.tenant)
        if sums is None:
            sums = totals.tenants[r.tenant] = TenantDay()
        if sums.add_record(r):
            self._remember(totals, r)
        self.changed.add(day)

    def _start_day(self, day: int, now: float) -> GatewayDay:
        totals = self._own[day] = GatewayDay(now)
        newest = max(self._own)
        for kept in (self._own, self._others):
            for old in [one for one in kept if one <= newest - DAYS]:
                del kept[old]
        self.changed.intersection_update(self._own)
        self._remembered = 0
        for one in self._own:
            if one < newest - 1:
                self._own[one].people.clear()
        return totals

    def _remember(self, totals: GatewayDay, r: RequestRecord) -> None:
        """Add the digest of the record's user (of its address without a user)."""
        people = totals.people.setdefault(r.tenant, set())
        before = len(people)
        if self._remembered < MAX_DIGESTS:
            name = r.client_ip if r.user == "anonymous" else r.user
            people.add(_digest(name))
            self._remembered += len(people) - before

    # -- storage ------------------------------------------------------------------------

    def own_day(self, day: int) -> GatewayDay | None:
        """This gateway's totals of a day, for storage."""
        return self._own.get(day)

    def own_days(self) -> dict[int, GatewayDay]:
        """All days of this gateway."""
        return self._own

    def restore(self, days: Mapping[int, GatewayDay]) -> None:
        """Add the days that this gateway stored before a restart."""
        for day, totals in days.items():
            if day in self._own:
                self._own[day].add(totals)
                self.changed.add(day)
            else:
                self._own[day] = totals
        newest = max(self._own, default=0)
        for day in [one for one in self._own if one <= newest - DAYS]:
            del self._own[day]
            self.changed.discard(day)

    def set_others(self, days: Mapping[int, Iterable[GatewayDay]]) -> None:
        """Replace the sums of the other gateways for these days."""
        for day, found in days.items():
            whole = GatewayDay(float("inf"))
            for totals in found:
                whole.add(totals)
            self._others[day] = whole

    # -- output --------------------------------------------------------------------------

    def _totals_of(self, day: int) -> list[GatewayDay]:
        return [p for kept in (self._own, self._others) if (p := kept.get(day))]

    def spend_today(self, now: float) -> float:
        """Spend of the current day in US dollars, all tenants."""
        totals = self._totals_of(int(now) // DAY_S)
        return sum(one.nanos for day in totals for one in day.tenants.values()) / 1e9

    def public(self, tenants: Iterable[str], now: float) -> dict[str, Any]:
        """Totals over 30 days of all ``tenants`` together (sum, and by day) and of each,
        and the requests that enforce mode would have refused in 30 days and today.

        ``since``: when counting began, at most 30 days ago.
        """
        names, today = list(tenants), int(now) // DAY_S
        days: dict[int, TenantDay] = {}
        each: dict[str, TenantDay] = {}
        sinces = []
        for day in range(today - DAYS + 1, today + 1):
            for totals in self._totals_of(day):
                sinces.append(totals.since)
                for name in names:
                    sums = totals.tenants.get(name)
                    if sums is not None:
                        days.setdefault(day, TenantDay()).add(sums)
                        each.setdefault(name, TenantDay()).add(sums)
        whole = TenantDay()
        for sums in days.values():
            whole.add(sums)
        since = min(sinces, default=float("inf"))
        return {
            "since": None if since == float("inf") else moment(since),
            "days": [{"day": _date(day), **_cost(days[day])} for day in sorted(days)],
            "requests": whole.requests,
            "tokens": whole.tokens,
            "usd": whole.nanos / 1e9,
            "tenants": _by_spend(each),
            "would": _would(whole),
            "would_today": _would(days.get(today, TenantDay()))
            | {"clients": self._would_clients(names, today)},
        }

    def _would_clients(self, names: Iterable[str], day: int) -> int:
        """Distinct clients of these tenants that enforce mode would have refused."""
        totals = self._totals_of(day)
        return sum(
            len(set().union(*(one.people.get(name, ()) for one in totals)))
            for name in names
        )


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).digest()


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def _cost(sums: TenantDay) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "tokens": sums.tokens,
        "usd": sums.nanos / 1e9,
        "would": sums.would,
    }


def _by_spend(each: Mapping[str, TenantDay]) -> list[dict[str, Any]]:
    """Rows of tenants by spend, descending."""
    order = sorted(each, key=lambda name: (-each[name].nanos, name))
    return [{"tenant": name, **_cost(each[name])} for name in order[:MAX_TENANTS]]


def _would(sums: TenantDay) -> dict[str, Any]:
    return {
        "requests": sums.would,
        "limited": sums.would_limit,
        "throttled": sums.would_throttle,
        "blocked": sums.would_block,
        "tokens": sums.would_tokens,
        "usd": sums.would_nanos / 1e9,
    }

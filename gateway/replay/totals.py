"""Totals of decisions on recorded requests: overall, by tenant, by subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from gateway.core.model import NANOS_PER_USD
from gateway.detect.model import format_time
from gateway.identity.identify import ANONYMOUS
from gateway.replay.requests import Request
from gateway.replay.simulate import ReplayDecision

# The compared policies: the recorded one, the current file, the draft.
Column = Literal["then", "current", "draft"]
# Subjects with totals of their own; further ones count only overall and by tenant.
MOST_SUBJECTS = 100_000
# Subjects whose requests are counted, for the share that was refused.
_MOST_SENDERS = 500_000

Key = tuple[str, str, str]  # tenant, kind, id


class PolicyTotals(msgspec.Struct):
    """Requests by action of one policy, and the tokens and cost it saved.

    ``newly_refused`` and ``newly_passed``: decided differently from the record. ``by``:
    requests by the limit or attack class behind the action. ``first`` and ``last``:
    times of such requests, epoch seconds.
    """

    allowed: int = 0
    tagged: int = 0
    throttled: int = 0
    limited: int = 0
    blocked: int = 0
    observed_only: int = 0
    newly_refused: int = 0
    newly_passed: int = 0
    tokens_saved: int = 0
    nanos_saved: int = 0
    by: dict[str, int] = {}
    first: float = 0.0
    last: float = 0.0

    @property
    def refused(self) -> int:
        """Requests refused, or that enforcing would have refused."""
        return self.throttled + self.limited + self.blocked

    def count(self, request: Request, decision: ReplayDecision) -> None:
        """Count one request and this policy's decision on it."""
        self._count_action(decision.action)
        if decision.refused and not request.refused:
            self.newly_refused += 1
        elif request.refused and not decision.refused:
            self.newly_passed += 1
        if decision.refused:
            self.tokens_saved += request.usage.total
            self.nanos_saved += decision.nanos
        if decision.action == "allow":
            return
        self.observed_only += decision.observed
        self.first = self.first or request.ts
        self.last = request.ts
        if decision.by:
            self.by[decision.by] = self.by.get(decision.by, 0) + 1

    def _count_action(self, action: str) -> None:
        match action:
            case "allow":
                self.allowed += 1
            case "tag":
                self.tagged += 1
            case "throttle":
                self.throttled += 1
            case "limit":
                self.limited += 1
            case _:
                self.blocked += 1

    def public(self) -> dict[str, Any]:
        """The JSON form of the report."""
        return {
            "allowed": self.allowed,
            "tagged": self.tagged,
            "throttled": self.throttled,
            "limited": self.limited,
            "blocked": self.blocked,
            "observed_only": self.observed_only,
            "newly_refused": self.newly_refused,
            "newly_passed": self.newly_passed,
            "tokens_saved": self.tokens_saved,
            "usd_saved": round(self.nanos_saved / NANOS_PER_USD, 6),
            "by": dict(sorted(self.by.items(), key=lambda item: (-item[1], item[0]))),
            "first": format_time(self.first) if self.first else None,
            "last": format_time(self.last) if self.last else None,
        }


class ComparedTotals(msgspec.Struct):
    """Totals of the same requests by policy."""

    requests: int = 0
    sums: dict[str, PolicyTotals] = {}

    def of(self, column: str) -> PolicyTotals:
        """The totals of a policy, created if needed."""
        found = self.sums.get(column)
        if found is None:
            found = self.sums[column] = PolicyTotals()
        return found

    def weight(self) -> tuple[int, int, int]:
        """Sort key: refused requests by the draft, then by the other policies."""
        draft, current = self.sums.get("draft"), self.sums.get("current")
        then = self.sums.get("then")
        return tuple(one.refused if one else 0 for one in (draft, current, then))  # type: ignore[return-value]  # three in, three out

    def public(self, columns: Iterable[Column]) -> dict[str, Any]:
        """The JSON form of the report."""
        return {
            column: self.sums.get(column, PolicyTotals()).public() for column in columns
        }


class ReplayTotals:
    """Counts every request once for each policy."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self.total = ComparedTotals()
        self.tenants: dict[str, ComparedTotals] = {}
        self.subjects: dict[Key, ComparedTotals] = {}
        self.left_out = 0
        """Decisions on subjects beyond MOST_SUBJECTS."""
        self.assumed = 0
        """Requests refused when recorded: their usage is estimated."""
        self.misfits = 0
        """Requests that the gateway answered itself under any policy."""
        self.tokens = 0
        self.since = self.until = 0.0
        self._senders: dict[Key, int] = {}

    def count(
        self, request: Request, decisions: Mapping[Column, ReplayDecision]
    ) -> None:
        """Count one request and each policy's decision on it."""
        if not self.total.requests:
            self.since = request.ts
        self.until = request.ts
        self.assumed += request.assumed
        self.misfits += request.misfit
        self.tokens += 0 if request.assumed else request.usage.total
        tenant = self.tenants.get(request.tenant)
        if tenant is None:
            tenant = self.tenants[request.tenant] = ComparedTotals()
        self.total.requests += 1
        tenant.requests += 1
        self._count_senders(request)
        for column, decision in decisions.items():
            self.total.of(column).count(request, decision)
            tenant.of(column).count(request, decision)
            if decision.action != "allow":
                self._count_subject(column, request, decision)

    def _count_subject(
        self, column: Column, request: Request, decision: ReplayDecision
    ) -> None:
        key = (request.tenant, decision.kind, decision.id)
        found = self.subjects.get(key)
        if found is None:
            if len(self.subjects) >= MOST_SUBJECTS:
                self.left_out += 1
                return
            found = self.subjects[key] = ComparedTotals()
        found.of(column).count(request, decision)

    def _count_senders(self, request: Request) -> None:
        self._count_sender((request.tenant, "client_ip", request.client_ip))
        if request.user != ANONYMOUS:
            self._count_sender((request.tenant, "user", request.user))

    def _count_sender(self, key: Key) -> None:
        known = self._senders.get(key, 0)
        if known or len(self._senders) < _MOST_SENDERS:
            self._senders[key] = known + 1

    def requests_of(self, key: Key) -> int | None:
        """All requests of a subject; None if not counted (pairs, models)."""
        if key[1] == "tenant":
            return self.tenants[key[0]].requests
        return self._senders.get(key)

    def worst(self) -> list[tuple[Key, ComparedTotals]]:
        """Subjects with any action, most refused first."""
        return sorted(
            self.subjects.items(),
            key=lambda item: (tuple(-one for one in item[1].weight()), item[0]),
        )

    def touched(self, column: Column) -> dict[str, int]:
        """Distinct subjects that a policy tagged, throttled, limited, blocked."""
        counts = dict.fromkeys(("tagged", "throttled", "limited", "blocked"), 0)
        for found in self.subjects.values():
            sums = found.sums.get(column)
            for name in counts if sums is not None else ():
                counts[name] += bool(getattr(sums, name))
        return counts

"""Which counters a request touches: limits x subjects -> cells with their store keys.

A plan is built once for a client and then found by one look-up. Keys look like
``tidegate:1:{acme}:w:5f…``: prefix, version of the store's schema, the tenant as hash
tag (so that all counters of a request live in one slot of a cluster), and a hash of
limit and subject. No id of a client is ever part of a key in clear.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from fnmatch import translate
from operator import itemgetter
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.lru import Lru
from gateway.core.model import Block, CellKind, Limit, Policy
from gateway.identity.cidr import normal_client_ip
from gateway.identity.identify import Identity, readable_id
from gateway.limits.meters import METER_TABLE, TOKEN_QUANTITIES, Quantity
from gateway.limits.ports import Cell, Plan
from gateway.limits.ratelimit import LimitHeaderTemplate

SCHEMA_VERSION: Final = b"1"
DEFAULT_PREFIX: Final = b"tidegate:"
# An exchange that stops renewing its lease is forgotten after this time.
LEASE_US: Final = 60_000_000
# Plans remembered; about 2 KB each with four limits.
DEFAULT_CAPACITY: Final = 8192

_KINDS: Final = ("client_ip", "user", "tenant", "model")
# Clients choose the model's name; longer names end in a hash.
_MAX_MODEL_CHARS: Final = 128
_NO_BOUND: Final = 1 << 62
_FOREVER: Final = float("inf")
# Plans of the head alone: no model known yet.
_HEAD: Final = None
# How the limit of a throttled subject names it.
THROTTLED: Final = "throttled_"
_MINUTE_US: Final = 60_000_000
_CLIENTS: Final = frozenset({"client_ip", "user"})
# Combinations of limits met per tenant; more than a few need many model globs.
MAX_PROTOTYPES: Final = 64


def tenant_tag(tenant: str) -> bytes:
    """The tenant as it stands between the braces of its keys."""
    if "{" in tenant or "}" in tenant:
        # A brace in the name would end the hash tag early.
        tenant = tenant.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return tenant.encode("utf-8", "surrogatepass")


def store_key(
    prefix: bytes, tenant: str, limit: Limit, ids: Sequence[str], period: str = ""
) -> bytes:
    """The key of one counter; limits that differ only in their amount share it.

    ``ids`` in the order of ``limit.per``; ``period`` of a calendar limit, for example
    ``2026-11-23``.
    """
    stem = _key_stem(prefix, tenant)
    return _join_key(stem, _limit_bytes(limit), ids, period)


def _key_stem(prefix: bytes, tenant: str) -> bytes:
    return b"%b%b:{%b}:w:" % (prefix, SCHEMA_VERSION, tenant_tag(tenant))


def _netstrings(texts: Iterable[str]) -> bytes:
    """Texts with their lengths, so that no two lists of texts look alike."""
    joined = b""
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        joined += b"%d:%b," % (len(raw), raw)
    return joined


def _limit_bytes(limit: Limit) -> bytes:
    window = limit.calendar or str(limit.window_us)
    return _netstrings((limit.per, limit.meter, window, *limit.models)) + b";"


def _join_key(
    stem: bytes, limit_bytes: bytes, ids: Iterable[str], period: str
) -> bytes:
    named = limit_bytes + _netstrings(ids)
    key = stem + hashlib.blake2b(named, digest_size=16).hexdigest().encode()
    return key + b":" + period.encode() if period else key


class Period(msgspec.Struct, frozen=True, gc=False):
    """One calendar period: ``label`` as in keys, start and end in epoch seconds."""

    label: str
    starts_at: float
    ends_at: float


class Calendar:
    """Days, ISO weeks and months of one time zone."""

    __slots__ = ("_current", "_zone")

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._current: dict[str, Period] = {}

    def period(self, kind: str, now: float) -> Period:
        """The ``day``, ``week`` or ``month`` that holds ``now`` (epoch seconds)."""
        current = self._current.get(kind)
        if current is None or not current.starts_at <= now < current.ends_at:
            current = self._current[kind] = self._find(kind, now)
        return current

    def _find(self, kind: str, now: float) -> Period:
        local = datetime.fromtimestamp(now, self._zone)
        # Wall-clock arithmetic: a day on which clocks change has 23 or 25 hours.
        day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if kind == "day":
            start, label = day, f"{day:%Y-%m-%d}"
            end = day + timedelta(days=1)
        elif kind == "week":
            start, label = day - timedelta(days=day.weekday()), f"{day:%G-W%V}"
            end = start + timedelta(days=7)
        else:
            start, label = day.replace(day=1), f"{day:%Y-%m}"
            end = (start + timedelta(days=32)).replace(day=1)
        return Period(label, start.timestamp(), end.timestamp())


class LimitPlan(Plan):
    """A plan with what admission needs beside the cells, all made ready once.

    ``until`` (epoch seconds): then a calendar period ends and the plan is stale.
    """

    __slots__ = (
        "amounts",
        "gate_places",
        "gate_places_billable",
        "has_calendar",
        "headers",
        "least_tokens",
        "least_usd",
        "minute_places",
        "pick",
        "unthrottled",
        "until",
    )

    def __init__(
        self,
        cells: tuple[Cell, ...] = (),
        tag: bytes = b"",
        headers: tuple[LimitHeaderTemplate, ...] = (),
        prototype: LimitPlan | None = None,
    ) -> None:
        """``prototype``: a plan of the same limits in the same periods, to copy from."""
        super().__init__(cells, tag)
        self.headers = headers
        # The plan without the throttle, whose cell is the last one here.
        self.unthrottled: LimitPlan | None = None
        if prototype is None:
            self._make_ready(cells)
        else:
            self._copy(prototype)

    def _make_ready(self, cells: tuple[Cell, ...]) -> None:
        self.amounts = tuple(cell.amount for cell in cells)
        self.until = min((c.ends_at for c in cells if c.ends_at), default=_FOREVER)
        self.has_calendar = self.until < _FOREVER
        self.least_tokens = _least(cells, TOKEN_QUANTITIES)
        self.least_usd = _least(cells, {Quantity.USD_NANOS})
        # From the quantities of a request (``meters.Quantity``) to costs by cell.
        self.pick = _picker([METER_TABLE[cell.limit.meter].reads for cell in cells])
        # Indices of the cells that every (billable) request adds at least 1 to.
        self.gate_places = _places(cells, {"any request"})
        self.gate_places_billable = _places(cells, {"any request", "billable request"})
        # Indices of the cells that count requests per minute of an address or a user.
        self.minute_places = tuple(
            place
            for place, cell in enumerate(cells)
            if cell.window_us == _MINUTE_US
            and cell.limit.meter == "requests"
            and cell.limit.per in _CLIENTS
        )

    def _copy(self, prototype: LimitPlan) -> None:
        self.amounts = prototype.amounts
        self.until = prototype.until
        self.has_calendar = prototype.has_calendar
        self.least_tokens = prototype.least_tokens
        self.least_usd = prototype.least_usd
        self.pick = prototype.pick
        self.gate_places = prototype.gate_places
        self.gate_places_billable = prototype.gate_places_billable
        self.minute_places = prototype.minute_places


def _least(cells: Iterable[Cell], quantities: Container[Quantity]) -> int:
    """The smallest amount among the cells that count one of ``quantities``."""
    amounts = (
        cell.amount
        for cell in cells
        if METER_TABLE[cell.limit.meter].reads in quantities
    )
    return min(amounts, default=_NO_BOUND)


def _places(cells: Iterable[Cell], always_costs: Container[str]) -> tuple[int, ...]:
    return tuple(
        place
        for place, cell in enumerate(cells)
        if METER_TABLE[cell.limit.meter].always_costs in always_costs
    )


def _picker(indices: list[int]) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """An itemgetter that returns a tuple for any number of indices, none included."""
    if len(indices) > 1:
        return itemgetter(*indices)
    first = indices[0] if indices else 0
    return itemgetter(slice(first, first + len(indices)))


def throttled_plan(
    plan: LimitPlan, prefix: bytes, tenant: str, standing: Block
) -> LimitPlan:
    """The plan of a throttled subject's client: what it may send besides its limits,
    counted where every worker and machine counts.
    """
    limit = Limit(
        per=THROTTLED + standing.kind,
        meter="requests",
        amount=max(1, standing.rate),
        window_us=_MINUTE_US,
    )
    key = store_key(prefix, tenant, limit, [standing.id])
    cell = Cell(key, CellKind.SLIDING, _MINUTE_US, limit.amount, limit)
    headers = (*plan.headers, LimitHeaderTemplate(limit))
    throttled = LimitPlan((*plan.cells, cell), plan.tag, headers)
    throttled.unthrottled = plan
    return throttled


class _Rule:
    """One limit of a policy, read: whom it counts, and for which models."""

    __slots__ = (
        "_header_template",
        "by_model",
        "by_user",
        "kinds",
        "limit",
        "limit_bytes",
        "matches",
    )

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.kinds = limit.per.split("+")
        if not set(self.kinds) <= set(_KINDS):
            msg = f"{limit.per!r}: subjects are {', '.join(_KINDS)} or pairs of them"
            raise ValueError(msg)
        self.limit_bytes = _limit_bytes(limit)
        self.by_model = "model" in self.kinds or bool(limit.models)
        self.by_user = "user" in self.kinds
        pattern = "|".join(map(translate, limit.models))
        self.matches = re.compile(pattern).match
        self._header_template: tuple[float, LimitHeaderTemplate] | None = None

    def header_template(self, ends_at: float, length_s: int) -> LimitHeaderTemplate:
        """The limit's header lines: shared by all plans, made once in each period."""
        if self._header_template is None or self._header_template[0] != ends_at:
            headers = LimitHeaderTemplate(
                self.limit, ends_at=ends_at, length_s=length_s
            )
            self._header_template = (ends_at, headers)
        return self._header_template[1]


class _Table:
    """The rules of one policy under one tenant, with its keys' common beginning."""

    __slots__ = ("by_model", "policy", "prototypes", "rules", "stem", "tag")

    def __init__(self, policy: Policy, prefix: bytes, tenant: str) -> None:
        self.policy = policy
        self.rules = [_Rule(limit) for limit in policy.limits]
        self.by_model = any(rule.by_model for rule in self.rules)
        self.stem = _key_stem(prefix, tenant)
        self.tag = tenant_tag(tenant)
        # One finished plan for each combination of limits, for others to copy from.
        self.prototypes: dict[tuple[LimitHeaderTemplate, ...], LimitPlan] = {}


class _CellMaker:
    """Makes cells: it knows the time zone of periods and the length of leases."""

    __slots__ = ("_calendar", "_lease_us")

    def __init__(self, timezone: str | tzinfo, lease_us: int) -> None:
        zone = ZoneInfo(timezone) if isinstance(timezone, str) else timezone
        self._calendar = Calendar(zone)
        self._lease_us = lease_us

    def make(
        self, rule: _Rule, stem: bytes, ids: Sequence[str], now: float
    ) -> tuple[Cell, int]:
        """A limit's counter for these ids, and its period's length in seconds."""
        limit = rule.limit
        if limit.calendar:
            period = self._calendar.period(limit.calendar, now)
            key = _join_key(stem, rule.limit_bytes, ids, period.label)
            kind, ends_at = CellKind.CALENDAR, period.ends_at
            cell = Cell(key, kind, 0, limit.amount, limit, ends_at)
            return cell, round(ends_at - period.starts_at)
        key = _join_key(stem, rule.limit_bytes, ids, "")
        if METER_TABLE[limit.meter].leased:
            kind, window_us = CellKind.CONCURRENT, self._lease_us
        else:
            kind, window_us = CellKind.SLIDING, limit.window_us
        return Cell(key, kind, window_us, limit.amount, limit), 0


class PlanBook:
    """Every client's plan, built when first asked for and remembered for a while.

    ``evictions`` counts plans that others pushed out. A reload makes a new book.
    """

    def __init__(
        self,
        prefix: bytes = DEFAULT_PREFIX,
        timezone: str | tzinfo = "UTC",
        capacity: int = DEFAULT_CAPACITY,
        lease_us: int = LEASE_US,
    ) -> None:
        self._prefix = prefix
        self._cells = _CellMaker(timezone, lease_us)
        self._plans: Lru[object, LimitPlan] = Lru(capacity)
        # By the id of the policy, which the table keeps alive. Bounded by the config.
        self._tables: dict[tuple[str, int], _Table] = {}
        self._free: dict[str, LimitPlan] = {}

    @property
    def evictions(self) -> int:
        return self._plans.evictions

    def plan(self, identity: Identity, model: str, now: float) -> LimitPlan:
        """The plan of a request; ``now`` is the store's clock in epoch seconds."""
        if identity.allowed:
            return self._free_plan(identity.tenant.name)
        table = self._table(identity)
        if not table.by_model:
            key: object = identity.key
        else:
            if len(model) > _MAX_MODEL_CHARS:
                model = readable_id(model)
            key = (identity.key, model)
        plan = self._plans.get(key)
        if plan is None or now >= plan.until:
            plan = self._build(table, table.rules, identity, model, now)
            self._plans.put(key, plan)
        return plan

    def head_plan(self, identity: Identity, now: float) -> LimitPlan:
        """What the head alone decides: nothing that needs the model or body's user."""
        if identity.allowed:
            return self._free_plan(identity.tenant.name)
        table = self._table(identity)
        late_user = identity.takes_body_user
        if not table.by_model and not late_user:
            return self.plan(identity, "", now)
        key = (identity.key, _HEAD, late_user)
        plan = self._plans.get(key)
        if plan is None or now >= plan.until:
            rules = [
                rule
                for rule in table.rules
                if not rule.by_model and not (late_user and rule.by_user)
            ]
            plan = self._build(table, rules, identity, "", now)
            self._plans.put(key, plan)
        return plan

    def _table(self, identity: Identity) -> _Table:
        tenant, policy = identity.tenant.name, identity.policy
        table = self._tables.get((tenant, id(policy)))
        if table is None:
            table = _Table(policy, self._prefix, tenant)
            self._tables[tenant, id(policy)] = table
        return table

    def _free_plan(self, tenant: str) -> LimitPlan:
        plan = self._free.get(tenant)
        if plan is None:
            plan = self._free[tenant] = LimitPlan((), tenant_tag(tenant))
        return plan

    def _build(
        self,
        table: _Table,
        rules: Iterable[_Rule],
        identity: Identity,
        model: str,
        now: float,
    ) -> LimitPlan:
        ids = {
            "client_ip": identity.client_ip,
            "user": identity.user,
            "tenant": identity.tenant.name,
            "model": model,
        }
        # Limits with the same key would count a request twice: the smallest stands
        # for all.
        chosen: dict[bytes, tuple[Cell, LimitHeaderTemplate]] = {}
        for rule in rules:
            if rule.matches(model) is None:
                continue
            names = [ids[kind] for kind in rule.kinds]
            cell, length_s = self._cells.make(rule, table.stem, names, now)
            other = chosen.get(cell.key)
            if other is None or cell.amount < other[0].amount:
                chosen[cell.key] = (cell, rule.header_template(cell.ends_at, length_s))
        cells = tuple([cell for cell, _ in chosen.values()])
        # The header lines belong to limit and period: where these are the same, all
        # that does not name the client is the same.
        headers = tuple([headers for _, headers in chosen.values()])
        prototype = table.prototypes.get(headers)
        plan = LimitPlan(cells, table.tag, headers, prototype)
        if prototype is None:
            if len(table.prototypes) >= MAX_PROTOTYPES:
                table.prototypes.clear()
            table.prototypes[headers] = plan
        return plan


def cells_of_subject(
    policy: Policy,
    tenant: str,
    kind: str,
    subject: str | Sequence[str],
    now: float,
    *,
    prefix: bytes = DEFAULT_PREFIX,
    timezone: str | tzinfo = "UTC",
    lease_us: int = LEASE_US,
) -> list[Cell]:
    """The counters of one subject, to be looked at or reset; ``now`` in epoch seconds.

    ``kind`` is a limit's ``per``. For a pair ``subject`` is a sequence of two ids, or
    both joined by "+". Raises ValueError for another number of ids. The counters of pairs do not belong to one of their halves: only the store knows
    with whom else it was paired.
    """
    maker = _CellMaker(timezone, lease_us)
    parts = kind.split("+")
    names = _split_pair(subject, parts) if isinstance(subject, str) else list(subject)
    if len(names) != len(parts):
        raise ValueError(f"{kind!r} needs {len(parts)} ids, not {len(names)}")
    ids = [
        normal_client_ip(name) if part == "client_ip" else name
        for part, name in zip(parts, names, strict=True)
    ]
    stem = _key_stem(prefix, tenant)
    rules = (_Rule(limit) for limit in policy.limits if limit.per == kind)
    return [maker.make(rule, stem, ids, now)[0] for rule in rules]


def _split_pair(subject: str, parts: Sequence[str]) -> list[str]:
    """``a+b@x.org+gpt-4o``: user ids may hold a plus, addresses and models do not."""
    if parts[-1] == "model":
        return subject.rsplit("+", len(parts) - 1)
    return subject.split("+", len(parts) - 1)

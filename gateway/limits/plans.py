"""Which counters a request touches: limits x subjects -> cells with their store keys.

A plan is built once for a client and then found by one look-up. Keys look like
``tidegate:1:{acme}:w:5f…``: prefix, version of the store's schema, the tenant as hash
tag (so that all counters of a request are in one slot of a cluster), and a hash of
limit and subject. Keys never contain a client's id in clear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from operator import itemgetter
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.lru import Lru
from gateway.core.model import Block, CellKind, Limit, Policy
from gateway.identity.cidr import normal_client_ip, site_of
from gateway.identity.identify import ANONYMOUS, Identity
from gateway.identity.ids import shorten_id
from gateway.limits.meters import METER_TABLE, TOKEN_QUANTITIES, Quantity
from gateway.limits.ports import Cell, Plan
from gateway.limits.ratelimit import LimitHeaderTemplate
from gateway.metering.models import matches_model, matching_names, plain_name

SCHEMA_VERSION: Final = b"1"
DEFAULT_PREFIX: Final = b"tidegate:"
# Lease of an open exchange: without renewal it no longer counts after this time.
LEASE_US: Final = 60_000_000
# Plans cached; about 2 KB each with four limits.
DEFAULT_CAPACITY: Final = 8192

_KINDS: Final = ("client_ip", "user", "tenant", "model", "key", "network")
_NO_BOUND: Final = 1 << 62
_FOREVER: Final = float("inf")
# In cache keys, instead of the model: plans made from the head, without the body.
_HEAD: Final = None
_NO_PLANS: Final[Mapping[bool, Any]] = {}
# Prefix of ``Limit.per`` for the limit of a throttled subject.
THROTTLED: Final = "throttled_"
_MINUTE_US: Final = 60_000_000
_CLIENTS: Final = frozenset({"client_ip", "user"})
_COMPLETION_QUANTITIES: Final = TOKEN_QUANTITIES - {Quantity.PROMPT_TOKENS}
# Plan prototypes cached per tenant, one for each combination of limits.
MAX_PROTOTYPES: Final = 64


def tenant_tag(tenant: str) -> bytes:
    """The tenant as the hash tag of its keys, without the braces."""
    if "{" in tenant or "}" in tenant:
        # A brace in the name would end the hash tag early.
        tenant = tenant.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return tenant.encode("utf-8", "surrogatepass")


def store_key(
    prefix: bytes, tenant: str, limit: Limit, ids: Sequence[str], period: str = ""
) -> bytes:
    """The key of one counter; limits that differ only in their amount share it.

    ``ids`` in the order of ``limit.per``. ``period``: the label of a calendar period,
    for example ``2026-11-23``.
    """
    stem = _key_stem(prefix, tenant)
    return _join_key(stem, _limit_bytes(limit), ids, period)


def _key_stem(prefix: bytes, tenant: str) -> bytes:
    return b"%b%b:{%b}:w:" % (prefix, SCHEMA_VERSION, tenant_tag(tenant))


def _netstrings(texts: Iterable[str]) -> bytes:
    """Texts with their lengths, so that different lists give different bytes."""
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
        """The ``day``, ``week`` or ``month`` that contains ``now`` (epoch seconds)."""
        current = self._current.get(kind)
        if current is None or not current.starts_at <= now < current.ends_at:
            current = self._current[kind] = self._find(kind, now)
        return current

    def _find(self, kind: str, now: float) -> Period:
        local = datetime.fromtimestamp(now, self._zone)
        # Wall-clock arithmetic: with daylight saving, days have 23 to 25 hours.
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
    """A plan with everything that admission derives from its cells.

    ``until`` (epoch seconds): the end of a calendar period, after which it is stale.
    """

    __slots__ = (
        "amounts",
        "ceilings",
        "edge_plans",
        "for_strangers",
        "gate_places",
        "gate_places_billable",
        "has_calendar",
        "header_shares",
        "headers",
        "least_tokens",
        "least_usd",
        "minute_places",
        "pick",
        "slack_tokens",
        "slack_usd",
        "spends",
        "tokens_only",
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
        """``prototype``: a plan of the same limits and periods, to copy from."""
        super().__init__(cells, tag)
        self.headers = headers
        # Of a throttled client: its plan without the throttle, which is the last cell.
        self.unthrottled: LimitPlan | None = None
        # Made by ``edges.with_edges``.
        self.edge_plans: dict[tuple[int, ...], Any] | None = None
        # Made by ``strangers.stranger_plan``: what it returns, for suspects and others.
        self.for_strangers: Mapping[bool, Any] = _NO_PLANS
        if prototype is None:
            self._make_ready(cells)
        else:
            self._copy(prototype)

    def _make_ready(self, cells: tuple[Cell, ...]) -> None:
        self.amounts = tuple(cell.amount for cell in cells)
        # What open calls may reach.
        self.ceilings = tuple(cell.amount + cell.overdraft for cell in cells)
        self.until = min((c.ends_at for c in cells if c.ends_at), default=_FOREVER)
        self.has_calendar = self.until < _FOREVER
        self.least_tokens = _least(cells, TOKEN_QUANTITIES)
        self.least_usd = _least(cells, {Quantity.USD_NANOS})
        # The most that a call must have room for beyond its prompt: with the overdraft
        # as the bound, calls with long answers still use most of a limit.
        self.slack_tokens = _slack(cells, _COMPLETION_QUANTITIES)
        self.slack_usd = _slack(cells, {Quantity.USD_NANOS})
        # Whether any cell counts tokens or money.
        self.spends = min(self.least_tokens, self.least_usd) < _NO_BOUND
        # Whether it has limits in tokens, and none in money.
        self.tokens_only = self.spends and self.least_usd == _NO_BOUND
        # From the quantities of a request (``meters.Quantity``) to costs by cell.
        self.pick = _picker([METER_TABLE[cell.limit.meter].reads for cell in cells])
        # Indices of the cells that every (billable) request adds at least 1 to.
        self.gate_places = _places(cells, {"any request"})
        self.gate_places_billable = _places(cells, {"any request", "billable request"})
        # For ``admission.ratelimit_headers``, which runs for every answer.
        self.header_shares = tuple(
            (place, header.amount, header.reciprocal, header.family)
            for place, header in enumerate(self.headers)
        )
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
        self.ceilings = prototype.ceilings
        self.until = prototype.until
        self.has_calendar = prototype.has_calendar
        self.least_tokens = prototype.least_tokens
        self.least_usd = prototype.least_usd
        self.slack_tokens = prototype.slack_tokens
        self.slack_usd = prototype.slack_usd
        self.spends = prototype.spends
        self.tokens_only = prototype.tokens_only
        self.pick = prototype.pick
        self.gate_places = prototype.gate_places
        self.gate_places_billable = prototype.gate_places_billable
        self.header_shares = prototype.header_shares
        self.minute_places = prototype.minute_places


def _least(cells: Iterable[Cell], quantities: Container[Quantity]) -> int:
    """The smallest amount among the cells that count one of ``quantities``."""
    amounts = (
        cell.amount
        for cell in cells
        if METER_TABLE[cell.limit.meter].reads in quantities
    )
    return min(amounts, default=_NO_BOUND)


def _slack(cells: Iterable[Cell], quantities: Container[Quantity]) -> int:
    """The smallest overdraft among the cells that count one of ``quantities``; at least
    1, so that a limit of 0 refuses.
    """
    overdrafts = (
        cell.overdraft
        for cell in cells
        if METER_TABLE[cell.limit.meter].reads in quantities
    )
    return max(1, min(overdrafts, default=_NO_BOUND))


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
    plan: LimitPlan, prefix: bytes, tenant: str, throttle: Block
) -> LimitPlan:
    """``plan`` plus the cell that limits a throttled subject to ``throttle.rate``
    (requests per minute).

    The cell is in the store, so the rate holds across all workers and machines.
    """
    limit = Limit(
        per=THROTTLED + throttle.kind,
        meter="requests",
        amount=max(1, throttle.rate),
        window_us=_MINUTE_US,
    )
    key = store_key(prefix, tenant, limit, [throttle.id])
    cell = Cell(key, CellKind.SLIDING, _MINUTE_US, limit.amount, limit)
    headers = (*plan.headers, LimitHeaderTemplate(limit))
    throttled = LimitPlan((*plan.cells, cell), plan.tag, headers)
    throttled.unthrottled = plan
    return throttled


class _Rule:
    """One limit of a policy, prepared: its subjects, and the models it applies to."""

    __slots__ = (
        "_header_template",
        "by_model",
        "by_user",
        "kinds",
        "limit",
        "limit_bytes",
        "overdraft",
        "site",
    )

    def __init__(
        self, limit: Limit, overdraft: float, site: _Rule | None = None
    ) -> None:
        """``site``: the rule of the /48 of an IPv6 client."""
        self.limit = limit
        self.site = site
        spec = METER_TABLE[limit.meter]
        # A request counts 1: only tokens and money may cost less than they reserve.
        fixed = spec.firm or spec.leased
        self.overdraft = 0 if fixed else int(limit.amount * overdraft)
        self.kinds = limit.per.split("+")
        if not set(self.kinds) <= set(_KINDS):
            msg = f"{limit.per!r}: subjects are {', '.join(_KINDS)} or pairs of them"
            raise ValueError(msg)
        self.limit_bytes = _limit_bytes(limit)
        self.by_model = "model" in self.kinds or bool(limit.models)
        self.by_user = "user" in self.kinds
        self._header_template: tuple[float, LimitHeaderTemplate] | None = None

    def applies(self, names: tuple[str, ...]) -> bool:
        """Whether the limit applies to a model, given all of its spellings."""
        models = self.limit.models
        return not models or matches_model(models, names)

    def header_template(self, ends_at: float, length_s: int) -> LimitHeaderTemplate:
        """The limit's header lines: shared by all plans, made once per period."""
        if self._header_template is None or self._header_template[0] != ends_at:
            headers = LimitHeaderTemplate(
                self.limit, ends_at=ends_at, length_s=length_s
            )
            self._header_template = (ends_at, headers)
        return self._header_template[1]


def _rule(limit: Limit, policy: Policy) -> _Rule:
    """A limit of a policy, with that of an IPv6 client's /48 if it may depend on the
    address.
    """
    factor, kinds = policy.network_factor, limit.per.split("+")
    if not factor or not _CLIENTS.intersection(kinds):
        return _Rule(limit, policy.overdraft)
    # An address and an anonymous user are one subject here.
    others = ["network", *(kind for kind in kinds if kind not in _CLIENTS)]
    amount = limit.amount * factor
    wide = msgspec.structs.replace(limit, per="+".join(others), amount=amount)
    return _Rule(limit, policy.overdraft, _Rule(wide, policy.overdraft))


class _RuleTable:
    """The rules of one policy for one tenant, and the common prefix of its keys."""

    __slots__ = ("by_model", "policy", "prototypes", "rules", "stem", "tag")

    def __init__(self, policy: Policy, prefix: bytes, tenant: str) -> None:
        self.policy = policy
        self.rules = [_rule(limit, policy) for limit in policy.limits]
        self.by_model = any(rule.by_model for rule in self.rules)
        self.stem = _key_stem(prefix, tenant)
        self.tag = tenant_tag(tenant)
        # One plan for each combination of limits, from which others are copied.
        self.prototypes: dict[tuple[LimitHeaderTemplate, ...], LimitPlan] = {}


class _CellMaker:
    """Makes cells, with the time zone of periods and the length of leases."""

    __slots__ = ("_calendar", "_lease_us")

    def __init__(self, timezone: str | tzinfo, lease_us: int) -> None:
        zone = ZoneInfo(timezone) if isinstance(timezone, str) else timezone
        self._calendar = Calendar(zone)
        self._lease_us = lease_us

    def make(
        self, rule: _Rule, stem: bytes, ids: Sequence[str], now: float
    ) -> tuple[Cell, int]:
        """The limit's cell for these ids, and the length of its period in seconds (0
        without a calendar period).
        """
        limit = rule.limit
        if limit.calendar:
            period = self._calendar.period(limit.calendar, now)
            key = _join_key(stem, rule.limit_bytes, ids, period.label)
            kind, ends_at = CellKind.CALENDAR, period.ends_at
            cell = Cell(key, kind, 0, limit.amount, limit, ends_at, rule.overdraft)
            return cell, round(ends_at - period.starts_at)
        key = _join_key(stem, rule.limit_bytes, ids, "")
        if METER_TABLE[limit.meter].leased:
            kind, window_us = CellKind.CONCURRENT, self._lease_us
        else:
            kind, window_us = CellKind.SLIDING, limit.window_us
        amount, overdraft = limit.amount, rule.overdraft
        return Cell(key, kind, window_us, amount, limit, 0.0, overdraft), 0


class PlanBook:
    """A cache of plans, built on first use. A reload of the configuration makes a new
    book. ``evictions`` counts plans dropped for new ones. ``canonical``: one name for all
    spellings of a model, by which limits count.
    """

    def __init__(
        self,
        prefix: bytes = DEFAULT_PREFIX,
        timezone: str | tzinfo = "UTC",
        capacity: int = DEFAULT_CAPACITY,
        lease_us: int = LEASE_US,
        canonical: Callable[[str], str] = plain_name,
    ) -> None:
        self._prefix = prefix
        self._canonical = canonical
        self._cells = _CellMaker(timezone, lease_us)
        self._plans: Lru[object, LimitPlan] = Lru(capacity)
        # By tenant and id of the policy, which the table keeps alive; as many as the
        # configuration has.
        self._tables: dict[tuple[str, int], _RuleTable] = {}
        self._free: dict[str, LimitPlan] = {}

    @property
    def evictions(self) -> int:
        return self._plans.evictions

    def plan(self, identity: Identity, model: str, now: float) -> LimitPlan:
        """The plan of a request; ``now`` is the store's clock in epoch seconds."""
        if identity.allowed:
            return self._free_plan(identity.tenant.name)
        table = self._rule_table(identity)
        if not table.by_model:
            key: object = identity.key
        else:
            key = (identity.key, shorten_id(model))
        plan = self._plans.get(key)
        if plan is None or now >= plan.until:
            plan = self._build(table, table.rules, identity, model, now)
            self._plans.put(key, plan)
        return plan

    def head_plan(self, identity: Identity, now: float) -> LimitPlan:
        """The plan of the limits that need neither the model nor the body's user."""
        if identity.allowed:
            return self._free_plan(identity.tenant.name)
        table = self._rule_table(identity)
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

    def _rule_table(self, identity: Identity) -> _RuleTable:
        """The prepared limits of the sender's tenant and policy, made on first use."""
        tenant, policy = identity.tenant.name, identity.policy
        table = self._tables.get((tenant, id(policy)))
        if table is None:
            table = _RuleTable(policy, self._prefix, tenant)
            self._tables[tenant, id(policy)] = table
        return table

    def _free_plan(self, tenant: str) -> LimitPlan:
        """The plan without limits, for subjects on the allow list."""
        plan = self._free.get(tenant)
        if plan is None:
            plan = self._free[tenant] = LimitPlan((), tenant_tag(tenant))
        return plan

    def _build(
        self,
        table: _RuleTable,
        rules: Iterable[_Rule],
        identity: Identity,
        model: str,
        now: float,
    ) -> LimitPlan:
        user, site = identity.user, site_of(identity.address)
        anonymous = user == ANONYMOUS
        if anonymous:
            user = f"{ANONYMOUS}@{identity.client_ip}"  # not one user for all of them
        ids = {
            "client_ip": identity.client_ip,
            "user": user,
            "tenant": identity.tenant.name,
            # Clients choose the name.
            "model": shorten_id(self._canonical(model)),
            "key": identity.key_name,
            "network": site,
        }
        names_of_model = matching_names(model)
        # Limits with the same key would count a request twice: the smallest is used.
        chosen: dict[bytes, tuple[Cell, LimitHeaderTemplate]] = {}
        if site:
            rules = _with_sites(rules, anonymous=anonymous)
        for rule in rules:
            if not rule.applies(names_of_model):
                continue
            ids_of_rule = [ids[kind] for kind in rule.kinds]
            cell, length_s = self._cells.make(rule, table.stem, ids_of_rule, now)
            other = chosen.get(cell.key)
            if other is None or cell.amount < other[0].amount:
                chosen[cell.key] = (cell, rule.header_template(cell.ends_at, length_s))
        cells = tuple([cell for cell, _ in chosen.values()])
        # Header templates are shared per limit and period: with the same templates,
        # everything in two plans but the keys is the same.
        headers = tuple([headers for _, headers in chosen.values()])
        prototype = table.prototypes.get(headers)
        plan = LimitPlan(cells, table.tag, headers, prototype)
        if prototype is None:
            if len(table.prototypes) >= MAX_PROTOTYPES:
                table.prototypes.clear()
            table.prototypes[headers] = plan
        return plan


def _with_sites(rules: Iterable[_Rule], *, anonymous: bool) -> list[_Rule]:
    """The rules of an IPv6 client, with those of its /48. A user that is known does not
    gain by other addresses.
    """
    stated = list(rules)
    sites = [
        rule.site
        for rule in stated
        if rule.site is not None and (anonymous or not rule.by_user)
    ]
    return stated + sites


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
    canonical: Callable[[str], str] = plain_name,
) -> list[Cell]:
    """The counters of one subject, to read or reset them; ``now`` in epoch seconds.

    ``kind`` is a limit's ``per``. For a pair, ``subject`` is a sequence of two ids, or
    both joined by "+". Raises ValueError for another number of ids. The counters of
    pairs are not among those of their halves: only the store knows the other halves.
    """
    maker = _CellMaker(timezone, lease_us)
    parts = kind.split("+")
    names = _split_pair(subject, parts) if isinstance(subject, str) else list(subject)
    if len(names) != len(parts):
        raise ValueError(f"{kind!r} needs {len(parts)} ids, not {len(names)}")
    normal: dict[str, Callable[[str], str]] = {
        "client_ip": normal_client_ip,
        "model": lambda model: shorten_id(canonical(model)),
    }
    ids = [normal.get(part, str)(name) for part, name in zip(parts, names, strict=True)]
    stem = _key_stem(prefix, tenant)
    limits = [limit for limit in policy.limits if limit.per == kind]
    rules = (_Rule(limit, policy.overdraft) for limit in limits)
    return [maker.make(rule, stem, ids, now)[0] for rule in rules]


def _split_pair(subject: str, parts: Sequence[str]) -> list[str]:
    """``a+b@x.org+gpt-4o``: user ids may hold a plus, addresses and models do not."""
    if parts[-1] == "model":
        return subject.rsplit("+", len(parts) - 1)
    return subject.split("+", len(parts) - 1)

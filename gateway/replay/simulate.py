"""Decides recorded requests by a configuration, as a running gateway would.

Limits, prices and the detector are those of the gateway; the clock is the time of the
requests. A request is decided at its arrival and settled at its end, in order of these
times. Reactions of clients to a refusal (retries, leaving) are not simulated: the next
recorded request of a refused client is decided as it was recorded.
"""

from __future__ import annotations

import heapq
import math

import msgspec

from gateway.config import Config, resolve
from gateway.core.lru import Lru
from gateway.core.model import (
    ANONYMOUS_TENANT,
    NANOS_PER_USD,
    Action,
    Block,
    Policy,
    RequestFacts,
    Tenant,
    Usage,
)
from gateway.identity.cidr import normal_client_ip, parse_address, site_of
from gateway.identity.hops import RemoteAddress
from gateway.identity.identify import ANONYMOUS, AllowList, Identity
from gateway.limits.admission import (
    Demand,
    actual_costs,
    demand,
    oversized,
    reserve_costs,
)
from gateway.limits.edges import missing_edge, name_limit, too_large, with_edges
from gateway.limits.plans import (
    DEFAULT_PREFIX,
    THROTTLED,
    LimitPlan,
    PlanBook,
    throttled_plan,
)
from gateway.limits.ports import Reserved
from gateway.metering.prices import PriceTable, packaged_prices
from gateway.metering.usage import CompletionExpectation, weigh, weigh_most
from gateway.replay.requests import Request
from gateway.replay.verdicts import Verdicts
from gateway.store.memory import MemoryStore

# Leases never expire: an exchange is open until its recorded end.
_LEASE_US = 1 << 60
_IDENTITIES = 50_000
# Counters kept at once (about 1 KB each).
_COUNTERS = 300_000
_NO_PRICE = "unknown_price"
# Endpoints that use no tokens.
_FREE = frozenset({"other", "models", "count_tokens"})


class ReplayDecision(msgspec.Struct, frozen=True, gc=False):
    """The decision on one request. ``kind`` and ``id`` name the subject of the action,
    ``by`` the limit or the attack class. ``nanos``: cost of the request in nano-dollars.
    ``observed``: the request passed although the action is recorded (observe mode).
    """

    action: Action
    kind: str = ""
    id: str = ""
    by: str = ""
    nanos: int = 0
    observed: bool = False

    @property
    def refused(self) -> bool:
        """Whether the request does not pass."""
        return not self.observed and self.action not in ("allow", "tag")


class _Open(msgspec.Struct, order=True):
    """An open exchange."""

    ends_at: float
    number: int
    plan: LimitPlan
    reserved: Reserved | None
    identity: Identity
    usage: Usage
    nanos: int


class Simulation:
    """Decides requests (``take``, in order of time) by one configuration.

    ``baselines``: initial state of the detector, as ``learn`` saved it.
    """

    def __init__(self, config: Config, baselines: bytes | None = None) -> None:
        """Raises BaselinesError."""
        resolved = resolve(config)
        self._tenants = {tenant.name: tenant for tenant in resolved.tenants}
        if resolved.anonymous is not None:
            anonymous = Tenant(ANONYMOUS_TENANT, resolved.anonymous)
            self._tenants.setdefault(ANONYMOUS_TENANT, anonymous)
        self._default = resolved.default
        self.unmatched: dict[str, int] = {}
        """Requests by tenant, for tenants missing in the configuration."""
        self.unpriced = 0
        """Requests for models without a price."""
        self._identities: Lru[tuple[str, str, str, str], Identity] = Lru(_IDENTITIES)
        self._allow: dict[int, AllowList] = {}
        self._prices: dict[int, PriceTable] = {}
        self._packaged = PriceTable.parse(packaged_prices())
        self._now_us = 0
        self._store = MemoryStore(
            clock=lambda: self._now_us,
            monotonic=lambda: self._now_us / 1e6,
            capacity=_COUNTERS,
        )
        self._plans = PlanBook(
            timezone=resolved.timezone,
            lease_us=_LEASE_US,
            canonical=self._packaged.canonical_name,
        )
        self._expectation = CompletionExpectation()
        self._open: list[_Open] = []
        self._taken = 0
        policies = {name: tenant.policy for name, tenant in self._tenants.items()}
        self._verdicts = Verdicts(
            policies, resolved.default, resolved.campaigns, baselines
        )
        self._throttled: Lru[tuple[LimitPlan, str, str, int], LimitPlan] = Lru(
            _IDENTITIES
        )

    @property
    def incidents(self) -> dict[str, int]:
        """Opened incidents by class."""
        return self._verdicts.incidents

    def policy_of(self, tenant: str) -> Policy:
        """The policy of a tenant; of an undeclared one the default."""
        found = self._tenants.get(tenant)
        return self._default if found is None else found.policy

    # -- a request -----------------------------------------------------------------

    def take(self, request: Request) -> ReplayDecision:
        """Decide one request and pass it to the detector."""
        self._settle_until(request.ts)
        self._now_us = max(self._now_us, round(request.ts * 1e6))
        self._verdicts.advance(request.ts)
        self._taken += 1
        if request.misfit:
            self._verdicts.add_answered(request)
            return ReplayDecision("allow")
        if request.tenant not in self._tenants:
            known = self.unmatched.get(request.tenant, 0)
            self.unmatched[request.tenant] = known + 1
        identity = self._identity(request)
        usage = request.usage
        nanos = self._price(identity.policy, request, usage)
        block = None if identity.allowed else self._verdicts.action_on(request)
        decision = self._refuse_early(identity, request, block)
        if decision is None:
            decision = self._admit(identity, request, block, usage, nanos)
        if decision.refused:
            self._verdicts.add_refused(request)
        else:
            self._verdicts.add_forwarded(request, nanos)
        return msgspec.structs.replace(decision, nanos=nanos)

    def close(self) -> None:
        """Settle open exchanges and pending events: the end of the replay."""
        self._settle_until(math.inf)
        self._verdicts.close()

    def _refuse_early(
        self, identity: Identity, request: Request, block: Block | None
    ) -> ReplayDecision | None:
        """The refusal of a blocked subject or an unpriced model, before any limit."""
        if block is not None and block.action == "block":
            return ReplayDecision("block", block.kind, block.id, block.cls)
        policy = identity.policy
        if policy.unknown_price != "deny" or identity.allowed:
            return None
        if request.endpoint in _FREE or self._table(policy).knows(request.model):
            return None
        return ReplayDecision("limit", *_sender(request), _NO_PRICE)

    def _admit(
        self,
        identity: Identity,
        request: Request,
        block: Block | None,
        usage: Usage,
        nanos: int,
    ) -> ReplayDecision:
        """Reserve all limits and open the exchange, or refuse."""
        plan = self._plans.plan(identity, request.model, self._now_us / 1e6)
        if block is not None and block.action == "throttle":
            plan = self._throttled_plan(plan, request.tenant, block)
        refusal, reserved = self._reserve(identity, request, plan, block)
        if refusal is not None:
            return refusal
        ends = request.ts + request.duration_s
        exchange = _Open(ends, self._taken, plan, reserved, identity, usage, nanos)
        heapq.heappush(self._open, exchange)
        if block is None:
            return ReplayDecision("allow")
        # Also a throttled subject within its rate.
        return ReplayDecision("tag", block.kind, block.id, block.cls)

    def _reserve(
        self,
        identity: Identity,
        request: Request,
        plan: LimitPlan,
        block: Block | None,
    ) -> tuple[ReplayDecision | None, Reserved | None]:
        """The refusal or the reservation. Neither if no limit applies, or if a throttled
        request would be delayed and then forwarded (at most ``anomaly.delay_s``).
        """
        if not plan.cells:
            return None, None
        asked = self._demand(identity, plan, request)
        place, wait_s = oversized(plan, asked.least), -1.0
        reserved = None
        if place < 0:
            reserved = self._ask(plan, asked)
            place, wait_s = reserved.violated, reserved.retry_after
        if place < 0:
            return None, reserved
        limit = plan.cells[place].limit
        if block is None or not limit.per.startswith(THROTTLED):
            return ReplayDecision(
                "limit", *_subject(limit.per, request), limit.name
            ), None
        if wait_s <= identity.policy.anomaly.delay_s:
            return None, None
        return ReplayDecision("throttle", block.kind, block.id, block.cls), None

    def _throttled_plan(self, plan: LimitPlan, tenant: str, block: Block) -> LimitPlan:
        key = (plan, block.kind, block.id, block.rate)
        found = self._throttled.get(key)
        if found is None:
            found = throttled_plan(plan, DEFAULT_PREFIX, tenant, block)
            self._throttled.put(key, found)
        return found

    def _demand(self, identity: Identity, plan: LimitPlan, request: Request) -> Demand:
        """What a gateway would reserve: the recorded prompt tokens and, as records do not
        state caps, the completion tokens of a stream without one.
        """
        facts, policy = _facts(request), identity.policy
        if not facts.billable:
            costs = actual_costs(plan, Usage(), 0, 0, failed=True)
            return Demand(costs, costs)
        assumed = policy.caps.max_tokens or policy.assumed_max_tokens
        most, expected, _ = self._expectation.bounds(identity.key, facts, assumed)
        expected = min(expected, plan.slack_tokens)
        prompt = request.prompt_tokens
        nanos = self._nanos(policy, request, expected)
        least = reserve_costs(plan, prompt, expected, nanos)
        if not most:
            return Demand(least, least)
        tokens = weigh_most(prompt, most, policy.weights)
        nanos = self._nanos(policy, request, most)
        costs = plan.pick((1, tokens, prompt, most, nanos))
        return demand(plan, costs, least, capped=False)

    def _nanos(self, policy: Policy, request: Request, completion: int) -> int:
        usage = Usage(prompt=request.prompt_tokens, completion=completion)
        return self._table(policy).cost_nanos(request.model, usage, request.ts) or 0

    def _ask(self, plan: LimitPlan, asked: Demand) -> Reserved:
        """Reserve as the gateway does, at the edges of limits where needed."""
        costs, least = asked.costs, asked.least
        places = too_large(plan, costs, least) if asked.unbounded else []
        while True:
            if places:
                edged = with_edges(plan, places)
                cells = len(edged.base.cells)
                costs, least = edged.costs(costs[:cells], least[:cells])
                plan = edged
            reserved = self._store.reserve(plan, costs, lambda _: None, least)
            place = missing_edge(reserved) if asked.unbounded else -1
            if reserved.admitted or place < 0:
                name_limit(reserved)
                return reserved
            places = [place]

    # -- settling ------------------------------------------------------------------

    def _settle_until(self, ts: float) -> None:
        while self._open and self._open[0].ends_at <= ts:
            self._settle(heapq.heappop(self._open))

    def _settle(self, one: _Open) -> None:
        usage, policy = one.usage, one.identity.policy
        self._now_us = max(self._now_us, round(one.ends_at * 1e6))
        failed = usage.source == "none"
        if not failed:
            self._expectation.learn(one.identity.key, usage.completion)
        if not one.plan.cells:
            return
        tokens = usage.total
        if policy.weights and not failed:
            tokens = weigh(usage, policy.weights)
        reserved, plan = one.reserved, one.plan
        if reserved is not None and isinstance(reserved.plan, LimitPlan):
            plan = reserved.plan
        actual = actual_costs(plan, usage, tokens, one.nanos, failed=failed)
        if reserved is None:
            self._store.charge(plan, actual)
        else:
            self._store.settle(reserved, actual)

    # -- identity and price --------------------------------------------------------

    def _identity(self, request: Request) -> Identity:
        key = (request.tenant, request.client_ip, request.user, request.key)
        known = self._identities.get(key)
        if known is None:
            known = self._find_identity(request)
            self._identities.put(key, known)
        return known

    def _find_identity(self, request: Request) -> Identity:
        tenant = self._tenants.get(request.tenant)
        if tenant is None:
            tenant = Tenant(request.tenant, self._default)
        policy, scope = tenant.policy, tenant.name
        found = (k.policy for k in tenant.keys if request.key and k.name == request.key)
        if own := next(found, None):
            policy, scope = own, f"{tenant.name}/{request.key}"
        allow = self._allow.get(id(policy))
        if allow is None:
            allow = self._allow[id(policy)] = AllowList(policy.allow)
        address = parse_address(request.client_ip.partition("/")[0])
        source = RemoteAddress(address, trusted=False)
        client_ip = normal_client_ip(request.client_ip)
        return Identity(
            tenant,
            policy,
            request.user,
            "credential",
            client_ip,
            address,
            (scope, client_ip, request.user),
            allow,
            allow.holds_address(source, tenant.name) or allow.holds_user(request.user),
            key_name=request.key,
        )

    def _table(self, policy: Policy) -> PriceTable:
        table = self._prices.get(id(policy))
        if table is None:
            table = self._prices[id(policy)] = self._packaged.with_overrides(
                policy.prices, policy.unknown_price
            )
        return table

    def _price(self, policy: Policy, request: Request, usage: Usage) -> int:
        if usage.source == "none":
            return 0
        nanos = self._table(policy).cost_nanos(request.model, usage, request.ts)
        if nanos is None:
            self.unpriced += 1
            return 0
        return nanos


def _facts(request: Request) -> RequestFacts:
    return RequestFacts(
        endpoint=request.endpoint,
        model=request.model,
        billable=request.endpoint not in _FREE or request.source != "none",
    )


def _sender(request: Request) -> tuple[str, str]:
    """The subject of a refusal that no limit caused: the user, else the address."""
    if request.user != ANONYMOUS:
        return "user", request.user
    return "client_ip", request.client_ip


def _subject(per: str, request: Request) -> tuple[str, str]:
    """The subject of a limit; pairs are joined by ``+`` like their kinds."""
    ids = {
        "client_ip": request.client_ip,
        "user": request.user,
        "tenant": request.tenant,
        "model": request.model,
        "key": request.key,
        "network": site_of(parse_address(request.client_ip.partition("/")[0])),
    }
    return per, "+".join(ids.get(kind, "?") for kind in per.split("+"))


def recorded_decision(request: Request) -> ReplayDecision:
    """The decision in the record of a request (in observe mode: what enforcing would
    have done).
    """
    nanos = round(request.usd * NANOS_PER_USD)
    action: Action = request.action  # type: ignore[assignment]  # checked when read
    if action == "allow":
        return ReplayDecision(action, nanos=nanos)
    observed = not request.refused and action != "tag"
    if action == "limit" and request.limit:
        kind, id_ = _subject(request.limit.partition(".")[0], request)
        return ReplayDecision(action, kind, id_, request.limit, nanos, observed)
    kind, id_ = _sender(request)
    if request.limit and request.limit.startswith(THROTTLED):
        per = request.limit.partition(".")[0].removeprefix(THROTTLED)
        kind, id_ = _subject(per, request)
    return ReplayDecision(action, kind, id_, request.cls or "", nanos, observed)

"""Step 4: the limits of a request, what it reserves of each, and their refusals."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.model import Usage
from gateway.identity.identify import with_body_user
from gateway.limits.admission import (
    Demand,
    actual_costs,
    count_requests,
    demand,
    oversized,
    ratelimit_headers,
    refuse_limit,
    refuse_oversized,
    reserve_costs,
)
from gateway.limits.edges import name_limit, too_large
from gateway.metering.models import hides_reasoning
from gateway.metering.usage import untaught_prompt, weigh_most
from gateway.proxy.access import JOBS
from gateway.proxy.caps import assumed_cap, assumed_price
from gateway.proxy.fallbacks import most_nanos, plan_all

if TYPE_CHECKING:
    from gateway.core.model import Policy, RequestFacts
    from gateway.core.refusal import Refusal
    from gateway.identity.identify import Identity
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# ``LimitPlan.least_usd`` of a plan without a limit in money.
NO_BOUND = 1 << 62
FOREVER = float("inf")
_NO_USAGE = Usage()
# An answer without a cap whose length is not seen while it is generated is assumed to
# have up to so many times ``assumed_max_tokens``: 32,768 by default.
UNSEEN = 8


def plan_limits(flow: Flow, shared: Shared) -> Refusal | None:
    """Set the flow's plan and estimated costs (per cell, in the meter's store unit).

    Refuses for a block of the body's user or prompt template, for a limit in the
    over-limit cache, and for costs that exceed a whole limit.
    """
    identity, facts = flow.context.identity, flow.facts
    if facts is None or identity is None:
        return None
    if identity.takes_body_user:
        identity = with_body_user(identity, facts.user)
        flow.set_identity(identity)
        block = shared.gate.find_block(identity, shared.epoch + perf_counter())
        if block is not None:
            return flow.blocked_by(block)
    gate = shared.gate
    if gate.template_blocks and flow.fingerprint is not None:
        epoch = shared.epoch + perf_counter()
        block = gate.find_template_block(identity, flow.fingerprint, epoch)
        if block is not None:
            return flow.blocked_by(block)
    context = flow.context
    plan = context.plan
    several = facts.models or facts.tools
    if plan is None or context.plan_model != facts.model or several:
        plan = _find_plan(flow, shared, identity, facts)
    if gate.enforcement_states:
        plan = _apply_enforcement(flow, shared, identity, plan)
    if not plan.cells:
        flow.set_plan(plan)
        return None
    if not facts.billable or not (context.buffer_limit or context.session):
        # Without tokens, or unread: requests and open exchanges count, tokens and
        # money do not.
        flow.set_plan(plan, actual_costs(plan, _NO_USAGE, 0, 0, failed=True))
        return None
    reserve = set_demand
    if facts.batch or facts.endpoint in JOBS:
        jobs = assumed_price(identity.policy, facts) > 0
        reserve = _set_job if jobs else _set_batch if facts.batch else set_demand
    least = reserve(flow, shared, plan, identity, facts)
    refusal = None
    if not gate.fast_path:
        refusal = gate.check_costs(plan, flow.costs, shared.now())
    if refusal is None and (place := oversized(plan, least)) >= 0:
        refusal = refuse_oversized(plan, place, least)
    return refusal


def set_demand(
    flow: Flow,
    shared: Shared,
    plan: LimitPlan,
    identity: Identity,
    facts: RequestFacts,
) -> tuple[int, ...]:
    """Set what the request reserves; return the least that it is expected to cost."""
    policy, tenant = identity.policy, identity.tenant.name
    prompt, most_prompt = shared.estimator.bounds(tenant, facts.model, facts)
    assumed = policy.assumed_max_tokens
    if facts.max_tokens is None:
        assumed = assumed_cap(policy, facts)
    most, expected, capped = shared.expectation.bounds(identity.key, facts, assumed)
    capped = capped and not facts.tools  # it does not bound their models
    seen = capped or flow.context.session or is_seen(facts)
    if facts.outside:  # no cap bounds its prompt
        capped = False
        most_prompt += shared.outside.most(identity.key, policy.assumed_context_tokens)
    if expected > plan.slack_tokens:  # noqa: PLR1730 - min() costs 60 ns
        expected = plan.slack_tokens
    if capped and plan.tokens_only and not policy.weights:
        # The common case, and fast: its cap is within the smallest limit.
        total = most_prompt + most
        if most and total <= plan.least_tokens:
            least = plan.pick((1, prompt + expected, prompt, expected, 0))
            costs = plan.pick((1, total, most_prompt, most, 0))
            flow.set_plan(plan, least, prompt)
            flow.set_costs(costs, most, expected)
            return least
    nanos = 0
    if plan.least_usd < NO_BOUND:
        nanos = _expected_nanos(flow, shared, facts, prompt, expected)
        if nanos > plan.slack_usd:
            nanos_prompt = _expected_nanos(flow, shared, facts, prompt, 0)
            nanos = min(nanos, nanos_prompt + plan.slack_usd)
    # Nothing is too large by a learned ratio alone.
    certain = untaught_prompt(facts) if prompt > plan.least_tokens else prompt
    least = reserve_costs(plan, prompt, expected, nanos, certain)
    flow.set_plan(plan, least, prompt)
    if plan.spends and (most or facts.outside):
        prompt = most_prompt
        reserved = most if seen else max(most, UNSEEN * assumed)
        if nanos:
            nanos = _expected_nanos(
                flow, shared, facts, prompt, reserved, searches=facts.searches
            )
        tokens = weigh_most(prompt, reserved, policy.weights)
        costs = plan.pick((1, tokens, prompt, reserved, nanos))
        largest = max(tokens, prompt + reserved)
        if capped and largest <= plan.least_tokens and nanos <= plan.least_usd:
            asked = Demand(costs, least)  # within the smallest limit
        else:
            asked = demand(plan, costs, least, capped=capped)
        flow.set_demand(asked, most, expected)
        if asked.unbounded and not (flow.context.session or facts.background):
            places = too_large(plan, costs, least)
            if places:
                flow.take_edges(places)
    return least


def is_seen(facts: RequestFacts) -> bool:
    """Whether the answer shows its length while it is generated."""
    if (
        facts.tools
        or facts.background
        or not facts.stream
        or hides_reasoning(facts.model)
    ):
        return False
    return not (facts.models and any(map(hides_reasoning, facts.models)))


def _set_batch(
    flow: Flow,
    shared: Shared,
    plan: LimitPlan,
    identity: Identity,
    facts: RequestFacts,
) -> tuple[int, ...]:
    """Set what a batch reserves, which it is charged when it is accepted; return it.

    Its requests count one by one.
    """
    prompt = untaught_prompt(facts)
    most = facts.max_tokens or 0
    nanos = 0
    if plan.least_usd < NO_BOUND:
        nanos = _expected_nanos(flow, shared, facts, prompt, most)
    tokens = weigh_most(prompt, most, identity.policy.weights)
    costs = plan.pick((1, tokens, prompt, most, nanos))
    costs = count_requests(plan, costs, len(facts.parts))
    flow.set_plan(plan, costs, prompt)
    return costs


def _set_job(
    flow: Flow,
    shared: Shared,
    plan: LimitPlan,
    identity: Identity,
    facts: RequestFacts,
) -> tuple[int, ...]:
    """Set what work reserves of which nothing says how many tokens it has; return it."""
    policy = identity.policy
    prompt = untaught_prompt(facts)
    most = assumed_completion(policy, facts)
    nanos = _expected_nanos(flow, shared, facts, prompt, most)
    nanos = max(nanos, assumed_price(policy, facts))
    flow.set_plan(plan, reserve_costs(plan, prompt, most, nanos), prompt)
    return flow.costs


def assumed_completion(policy: Policy, facts: RequestFacts) -> int:
    """Completion tokens that work without stated requests is assumed to have."""
    batch = facts.batch or facts.endpoint == "batches"
    return UNSEEN * assumed_cap(policy, facts) if batch else 0


def _find_plan(
    flow: Flow, shared: Shared, identity: Identity, facts: RequestFacts
) -> LimitPlan:
    """The limits of this identity and model; cached with the head if they depend neither
    on the calendar nor on the body's user.
    """
    if facts.models or facts.tools:
        return plan_all(flow, shared, identity, facts)
    context, model = flow.context, facts.model
    plan = shared.tables.plans.plan(identity, model, shared.store.now_us() / 1e6)
    if plan.until == FOREVER and not identity.takes_body_user:
        context.plan, context.plan_model = plan, model
    return plan


def _apply_enforcement(
    flow: Flow, shared: Shared, identity: Identity, plan: LimitPlan
) -> LimitPlan:
    """Set control's tag or throttle of the client as the verdict; a throttle also adds
    its limit to the plan.
    """
    decision = shared.gate.find_enforcement(identity, shared.epoch + perf_counter())
    if decision is None:
        return plan
    flow.set_decision(decision)
    if decision.action != "throttle":
        return plan
    return shared.scoring.throttle(plan, identity, decision)


def _expected_nanos(
    flow: Flow,
    shared: Shared,
    facts: RequestFacts,
    prompt: int,
    completion: int,
    *,
    searches: int = 0,
) -> int:
    """Nano-dollars that the request is expected to cost; 0 without a price."""
    prices = flow.context.prices
    if prices is None:
        return 0
    expected = Usage(
        prompt=prompt,
        completion=completion,
        total=prompt + completion,
        units=facts.units,
        batch=flow.facts is not None and flow.facts.batch,
        answers=len(facts.parts) or 1,
    )
    if searches:
        expected.units = (*facts.units, ("web_searches", float(searches)))
    at = shared.epoch + flow.opened_at
    return most_nanos(prices, facts, expected, at)


def refuse_reserved(flow: Flow, shared: Shared, reserved: Reserved) -> Refusal:
    """The refusal by the limit that had no room in the store. The gate caches it until
    room can become free.
    """
    plan = flow.plan
    assert plan is not None
    name_limit(reserved)
    shared.gate.remember(reserved, shared.now())
    return refuse_limit(plan, reserved, shared.store.now_us())


def limit_lines(flow: Flow, shared: Shared) -> bytes:
    """Header lines of the answer that state the limits and what remains."""
    if flow.reserved is None or flow.plan is None:
        return b""
    return ratelimit_headers(flow.plan, flow.reserved, shared.store.now_us())

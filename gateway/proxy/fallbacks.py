"""Requests that several models may answer: what they may cost, and which one did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.limits.joint import foreign_keys, joint_plan
from gateway.metering.models import plain_name

if TYPE_CHECKING:
    from gateway.core.model import RequestFacts, Usage
    from gateway.identity.identify import Identity
    from gateway.limits.plans import LimitPlan
    from gateway.metering.prices import PriceTable, Quote
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared


def plan_all(
    flow: Flow, shared: Shared, identity: Identity, facts: RequestFacts
) -> LimitPlan:
    """The limits of every model that may answer."""
    now = shared.store.now_us() / 1e6
    book = shared.tables.plans
    models = (*facts.named_models, *facts.tools)
    plans = tuple(book.plan(identity, model, now) for model in models)
    flow.set_choices(plans)
    return joint_plan(plans)


def most_nanos(prices: PriceTable, facts: RequestFacts, usage: Usage, at: float) -> int:
    """The most nano-dollars that this usage may cost: by the dearest model."""
    most = prices.most_nanos(facts.model, usage, facts.tier, at)
    if not (facts.models or facts.body_model or facts.tools):
        return most
    for model in facts.checked_models[1:]:
        most = max(most, prices.most_nanos(model, usage, facts.tier, at))
    return most


def dearest_model(
    prices: PriceTable | None, facts: RequestFacts, usage: Usage, at: float
) -> str:
    """The model by which this usage costs most."""
    if prices is None or not facts.models:
        return facts.model
    table = prices
    return max(
        facts.named_models,
        key=lambda model: table.most_nanos(model, usage, facts.tier, at),
    )


def answered_place(
    facts: RequestFacts, answered: str, prices: PriceTable | None
) -> int | None:
    """Which of a request's models has answered, by the name that the answer states; None:
    it is none of them, or the answer names none.
    """
    if not answered:
        return None
    stated = answered.strip().lower()
    names = [model.strip().lower() for model in facts.named_models]
    if stated in names:
        return names.index(stated)
    canonical = plain_name if prices is None else prices.canonical_name
    same = canonical(answered)
    for place, model in enumerate(facts.named_models):
        if canonical(model) == same:
            return place
    return None


def foreign_cells(flow: Flow, usage: Usage) -> frozenset[bytes]:
    """Keys of the counters of models that have not answered; none as long as it is not
    known which has.
    """
    facts, choices = flow.facts, flow.choices
    if facts is None or not choices:
        return frozenset()
    place = answered_place(facts, usage.model, flow.context.prices)
    if place is None and not facts.models:
        place = 0  # beside it there are models of tools only
    if place is None:
        return frozenset()
    tools = len(facts.tools) if usage.tools else 0
    answered = (choices[place], *choices[len(choices) - tools :])
    return foreign_keys(choices, answered)


def quote_all(
    prices: PriceTable, facts: RequestFacts, usage: Usage, at: float
) -> Quote:
    """The price of the model that has answered; the dearest of all if that is not known."""
    place = answered_place(facts, usage.model, prices)
    models = facts.named_models if place is None else (facts.named_models[place],)
    quotes = [prices.quote(m, usage, at, answered=usage.model) for m in models]
    return max(quotes, key=lambda quote: -1 if quote[0] is None else quote[0])

"""What a usage costs at a price: tokens of each kind, other units, tiers, times."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.core.model import Price, Usage

# One dollar per million tokens is this many nano-dollars per token.
_NANOS_PER_TOKEN = 1000
# Price of a batch where the table has none for its model, as a share of the price of
# single requests: OpenAI, Anthropic and Gemini alike.
BATCH_SHARE = 0.5
# Service tiers at the ordinary price, as answers name them.
_STANDARD = frozenset(
    {"auto", "committed", "default", "none", "on_demand", "provisioned_throughput"}
    | {"regular", "scale", "standard", "standard_only", "traffic_type_unspecified"}
)
# Other names of tiers (Vertex AI).
_TIER_NAMES = {"on_demand_priority": "priority", "on_demand_flex": "flex"}
# Tiers of an answer at which a plain price applies; "" where it states none.
PLAIN_TIERS = frozenset({"", "default", "standard"})
_DAY_S = 86_400
# Kinds of tokens: (all of the prompt, those read from the cache, all of the completion).
_KINDS = tuple(
    (f"input_{kind}_tokens", f"cache_{kind}_read_tokens", f"output_{kind}_tokens")
    for kind in ("audio", "image", "video")
)
_TOKENS = frozenset(unit for kind in _KINDS for unit in kind) | {
    "cache_write_1h_tokens",
    "reasoning_tokens",
}
# In nano-dollars: more than rounding to three digits changes.
_NEAR = 0.001
# Units that measure the same work as tokens: a model bills the one or the other.
_INSTEAD_OF_TOKENS = frozenset(
    {"audio_seconds", "video_seconds", "input_characters", "images", "pages"}
)


def price_usage(price: Price, usage: Usage, at: float = 0.0) -> tuple[int, bool]:
    """Nano-dollars of a usage, rounded half up; and whether some unit or its service
    tier has no price, so that only the rest is charged.

    ``at``: epoch seconds when the request was made, for prices that change with time.
    """
    part = False
    share = 1.0
    if price.timed:
        price = price_at(price, at)
    tier = usage.tier
    if usage.batch or (tier and (tier not in _STANDARD or tier in price.tiers)):
        price, share, part = _of_tier(price, usage)
    prompt = usage.prompt
    if price.contexts:
        price = _of_context(price, prompt // max(1, usage.answers))
    cached, written = usage.cached, usage.cache_write
    # Where the completion excludes reasoning, only the total includes it.
    generated = usage.total - prompt
    if generated < usage.completion:  # noqa: PLR1730 - max() costs 60 ns
        generated = usage.completion
    plain = prompt - cached - written
    cost = generated * price.output
    if plain > 0:
        cost += plain * price.input
    if cached:
        cost += cached * (price.input if price.cached is None else price.cached)
    if written:
        cost += written * _write_rate(price)
    rates = price.units
    if usage.units or (
        rates
        and (not price.input or "requests" in rates or "reasoning_tokens" in rates)
    ):
        more, unpriced = _units_cost(price, usage, generated)
        cost += more
        part = part or unpriced
    return _whole(cost * share * _NANOS_PER_TOKEN), part


def without_tools(usage: Usage) -> Usage:
    """The usage without the parts that models of tools have used."""
    own = replace(usage, tools=())
    for part in usage.tools:
        own.prompt = max(0, own.prompt - part.prompt)
        own.completion = max(0, own.completion - part.completion)
        own.total = max(own.prompt + own.completion, own.total - part.total)
        own.cached = max(0, own.cached - part.cached)
        own.cache_write = max(0, own.cache_write - part.cache_write)
    return own


def is_plain(price: Price) -> bool:
    """Whether all requests at PLAIN_TIERS, of any size and time, have the same rates."""
    special = not price.input or price.units.keys() & {"requests", "reasoning_tokens"}
    return not (
        price.timed
        or price.contexts
        or price.tiers.keys() & PLAIN_TIERS
        or (price.units and special)
    )


def price_plain(price: Price, usage: Usage) -> int:
    """``price_usage`` of a plain price, and of a usage at PLAIN_TIERS without units,
    cache writes or batch: the common case, at half the time.
    """
    prompt, cached = usage.prompt, usage.cached
    generated = usage.total - prompt
    if generated < usage.completion:  # noqa: PLR1730 - max() costs 60 ns
        generated = usage.completion
    cost = generated * price.output
    if prompt > cached:
        cost += (prompt - cached) * price.input
    if cached:
        cost += cached * (price.input if price.cached is None else price.cached)
    return _whole(cost * _NANOS_PER_TOKEN)


def _whole(nanos: float) -> int:
    """Rounded half up, without errors of binary fractions. ``nanos``: not negative."""
    whole = int(nanos + 0.5)
    if _NEAR < nanos + 0.5 - whole < 1 - _NEAR:
        return whole
    # Near the middle between two numbers: only here, because it costs 0.5 us.
    return int(round(nanos, 3) + 0.5)


def price_at(price: Price, at: float) -> Price:
    """The price in force at a time (epoch seconds)."""
    second = at % _DAY_S
    for timed in reversed(price.timed):
        if at < timed.since:
            continue
        start, end = timed.start, timed.end
        if start == end or (
            start <= second < end if start < end else second >= start or second < end
        ):
            return timed.price
    return price


def _of_tier(price: Price, usage: Usage) -> tuple[Price, float, bool]:
    """The price at the service tier of the answer, the share of it that is charged, and
    whether the tier has no price.
    """
    tier = "batch" if usage.batch else usage.tier.lower()
    tier = _TIER_NAMES.get(tier, tier)
    found = price.tiers.get(tier)
    if found is not None:
        return found, 1.0, False
    if tier == "batch":
        return price, BATCH_SHARE, False
    return price, 1.0, tier not in _STANDARD


def _of_context(price: Price, prompt: int) -> Price:
    """The price of the highest context tier that the prompt exceeds: it holds for the
    whole request.
    """
    for above, found in reversed(price.contexts):
        if prompt > above:
            return found
    return price


def _write_rate(price: Price) -> float:
    return price.input if price.cache_write is None else price.cache_write


def _units_cost(price: Price, usage: Usage, generated: int) -> tuple[float, bool]:
    """What units cost beyond the tokens that they are part of, in dollars per million,
    and whether one has no price.
    """
    amounts: dict[str, float] = {}
    for unit, amount in usage.units:
        amounts[unit] = amounts.get(unit, 0) + amount
    rates = price.units
    cost = _tokens_extra(price, usage, generated, amounts) + rates.get("requests", 0)
    by_tokens = bool(price.input or price.output or not rates)
    # Nothing that the model bills was counted.
    unpriced = not (by_tokens or "requests" in rates or amounts)
    for name, amount in amounts.items():
        if name in _TOKENS or not amount:
            continue
        billed = name.partition(":")[0]
        if billed == "audio_seconds":
            amount = max(amount, price.least_seconds)  # noqa: PLW2901
        rate = _rate(rates, name)
        if rate is not None:
            cost += amount * rate
        elif not (billed in _INSTEAD_OF_TOKENS and by_tokens and usage.total):
            unpriced = True
    return cost, unpriced


def _rate(rates: dict[str, float], unit: str) -> float | None:
    """The rate of a unit, or of the same with fewer qualifiers: ``images:1024x1024:hd``,
    ``images:1024x1024``, ``images``.
    """
    while unit:
        found = rates.get(unit)
        if found is not None:
            return found
        unit = unit.rpartition(":")[0]
    return None


def _tokens_extra(
    price: Price, usage: Usage, generated: int, amounts: dict[str, float]
) -> float:
    """What tokens of a kind cost more (or less) than the tokens they are part of."""
    rates = price.units
    cached_rate = price.input if price.cached is None else price.cached
    extra = 0.0
    if price.cache_write_1h is not None:
        hours = min(amounts.get("cache_write_1h_tokens", 0), usage.cache_write)
        extra += hours * (price.cache_write_1h - _write_rate(price))
    plain: float = max(0, usage.prompt - usage.cached - usage.cache_write)
    cached: float = usage.cached
    left: float = generated
    for whole_name, cached_name, output_name in _KINDS:
        read = min(amounts.get(cached_name, 0), cached)
        cached -= read
        usual = cached_rate
        if price.cached is None:
            usual = rates.get(whole_name, price.input)
        extra += read * (rates.get(cached_name, usual) - cached_rate)
        fresh = min(max(0, amounts.get(whole_name, 0) - read), plain)
        plain -= fresh
        extra += fresh * (rates.get(whole_name, price.input) - price.input)
        made = min(amounts.get(output_name, 0), left)
        left -= made
        extra += made * (rates.get(output_name, price.output) - price.output)
    thought = min(usage.reasoning, left)
    return extra + thought * (
        rates.get("reasoning_tokens", price.output) - price.output
    )

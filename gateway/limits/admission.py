"""Steps 4 and 6, the arithmetic: costs of a request by cell, and refusals by limits.

A call reserves the most that it may cost: its prompt and its cap on completion tokens.
What earlier answers cost is only the least that it must have room for, because a client
could train a lower reservation with short answers. Settling corrects both. A request is
too large for a limit only if its prompt alone exceeds the limit.

Cost tuples before ``plan.pick`` are in the order of ``meters.Quantity``.
"""

from __future__ import annotations

import math
from operator import gt
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from gateway.core.refusal import Refusal
from gateway.limits.meters import METER_TABLE, REQUESTS, TOKENS
from gateway.limits.plans import (
    THROTTLED,
    LimitPlan,
)
from gateway.limits.ratelimit import describe, format_reset, write_amount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.model import Limit, Usage
    from gateway.limits.ports import Reserved

_US: Final = 1_000_000


class Demand(NamedTuple):
    """What a call asks of the cells of its plan: see ``ports.Reserved``."""

    costs: tuple[int, ...]
    least: tuple[int, ...]
    # No cap bounds the cost in every cell.
    unbounded: bool = False


def reserve_costs(
    plan: LimitPlan,
    prompt: int,
    completion: int,
    usd_nanos: int,
    certain: int | None = None,
) -> tuple[int, ...]:
    """Costs that a call is expected to have, by cell: estimated prompt, expected
    completion tokens and price, cut down to what each limit can hold.

    ``certain``: tokens of the prompt that are not cut (None: all), so that a limit that
    cannot hold them refuses the call as too large. Requests and open exchanges cost 1.
    """
    total = prompt + completion
    if total > plan.least_tokens or usd_nanos > plan.least_usd:
        floor = prompt if certain is None else min(prompt, certain)
        return _clipped_costs(plan, prompt, completion, usd_nanos, floor)
    return plan.pick((1, total, prompt, completion, usd_nanos))


def _clipped_costs(
    plan: LimitPlan, prompt: int, completion: int, usd_nanos: int, floor: int
) -> tuple[int, ...]:
    costs = plan.pick((1, prompt + completion, prompt, completion, usd_nanos))
    floors = plan.pick((1, floor, floor, 0, 0))
    # At least 1, so that a limit of 0 refuses.
    return tuple(
        cost if cost <= amount else max(low, amount, 1)
        for cost, low, amount in zip(costs, floors, plan.amounts, strict=True)
    )


def demand(
    plan: LimitPlan,
    most: tuple[int, ...],
    least: tuple[int, ...],
    *,
    capped: bool,
) -> Demand:
    """The demand of a call with these costs by cell. ``capped``: it cannot cost more
    than ``most``; a cap beyond the limit and its overdraft is none for that limit.
    """
    unbounded = not capped or any(map(gt, most, plan.ceilings))
    return Demand(most, least, unbounded)


def actual_costs(
    plan: LimitPlan,
    usage: Usage,
    weighted_tokens: int,
    usd_nanos: int,
    *,
    failed: bool = False,
) -> tuple[int, ...]:
    """Costs by cell of a finished exchange. A failed one is refunded its tokens and
    dollars, but still counts as a request.
    """
    if failed:
        return plan.pick((1, 0, 0, 0, 0))
    return plan.pick((1, weighted_tokens, usage.prompt, usage.completion, usd_nanos))


def count_requests(
    plan: LimitPlan, costs: tuple[int, ...], count: int
) -> tuple[int, ...]:
    """Costs by cell of a batch, which counts as ``count`` requests."""
    if count < 2:  # noqa: PLR2004
        return costs
    return tuple(
        count if cell.limit.meter == "requests" else cost
        for cell, cost in zip(plan.cells, costs, strict=True)
    )


def oversized(plan: LimitPlan, costs: Sequence[int]) -> int:
    """Index of the first cell that could not hold the request even when empty, or -1."""
    if not any(map(gt, costs, plan.amounts)):
        return -1
    pairs = zip(costs, plan.amounts, strict=True)
    return next(index for index, (cost, amount) in enumerate(pairs) if cost > amount)


def ratelimit_headers(plan: LimitPlan, reserved: Reserved, now_us: int) -> bytes:
    """Header lines for an admitted request: the tightest limit of each family.

    Tightest: the smallest remaining / amount. b"" without limits, or when the sums are
    not known. ``now_us`` is the store's clock.
    """
    sums = reserved.sums
    if not sums:
        return b""
    # One pass finds the index of the tightest limit per family and of all.
    requests = tokens = tightest = -1
    least_requests = least_tokens = least = 2.0
    for place, amount, reciprocal, family in plan.header_shares:
        share = (amount - sums[place]) * reciprocal
        if share < least:
            least, tightest = share, place
        if family == REQUESTS:
            if share < least_requests:
                least_requests, requests = share, place
        elif family == TOKENS and share < least_tokens:
            least_tokens, tokens = share, place
    if plan.has_calendar:
        for header in plan.headers:
            header.refresh(now_us)
    lines = b""
    for place in (requests, tokens):
        if place >= 0:
            left = plan.amounts[place] - sums[place]
            lines += plan.headers[place].lines % (max(0, left))
    left = plan.amounts[tightest] - sums[tightest]
    return lines + plan.headers[tightest].structured(max(0, left))


def refuse_limit(plan: LimitPlan, reserved: Reserved, now_us: int) -> Refusal:
    """The 429 for a reserve that the store refused. ``now_us`` is the store's clock."""
    index = reserved.violated
    if index < 0:
        return _refuse_unchecked(reserved.retry_after)
    if reserved.retry_after < 0:
        return refuse_oversized(plan, index, reserved.costs)
    limit = plan.cells[index].limit
    used = reserved.sums[index] if reserved.sums else limit.amount
    detail = ""
    if not METER_TABLE[limit.meter].leased:
        needed = write_amount(limit, reserved.costs[index])
        detail = f"Used {write_amount(limit, used)}, requested {needed}. "
    header = plan.headers[index]
    lines = _other_family(plan, reserved.sums, header.family, now_us)
    lines += header.refused(max(0, limit.amount - used), reserved.retry_after)
    return _refusal(limit, detail, reserved.retry_after, lines)


def _other_family(
    plan: LimitPlan, sums: Sequence[int], refused: int, now_us: int
) -> bytes:
    """The x-ratelimit lines of the families other than ``refused``, the one that
    refused: of each, the tightest limit.
    """
    lines = b""
    for family in (REQUESTS, TOKENS):
        shares = [
            ((header.amount - used) * header.reciprocal, place)
            for place, (header, used) in enumerate(
                zip(plan.headers, sums, strict=False)
            )
            if header.family == family != refused
        ]
        if shares:
            place = min(shares)[1]
            header = plan.headers[place]
            header.refresh(now_us)
            lines += header.lines % max(0, header.amount - sums[place])
    return lines


def refuse_over(plan: LimitPlan, place: int, wait_s: float) -> Refusal:
    """The 429 for a cell in the over-limit cache, which has room after ``wait_s``."""
    limit = plan.cells[place].limit
    return _refusal(limit, "", wait_s, plan.headers[place].refused(0, wait_s))


def refuse_oversized(plan: LimitPlan, place: int, costs: Sequence[int]) -> Refusal:
    """The 429 for a request larger than the whole limit: waiting does not help."""
    limit = plan.cells[place].limit
    needed = write_amount(limit, costs[place])
    message = (
        f"Request too large for {limit.name} ({describe(limit)}): it needs at least "
        f"{needed}. Sending it again will not help."
    )
    return Refusal(
        429,
        "request_too_large_for_limit",
        message,
        action="limit",
        limit=limit.name,
        by_policy=True,
    )


def refuse_block() -> Refusal:
    """The 403 for a blocked client. It discloses neither the reason nor the end."""
    return Refusal(
        403, "blocked", "This client is blocked.", action="block", by_policy=True
    )


def _refuse_unchecked(wait_s: float) -> Refusal:
    """The 429 while the store is down and ``when_down = "closed"``."""
    message = f"Limits cannot be checked at the moment. {_wait_in_words(wait_s)}"
    return Refusal(
        429,
        "rate_limit_exceeded",
        message,
        header_lines=_retry_lines(wait_s),
        action="limit",
        by_policy=True,
        retry_after=wait_s,
    )


def _refusal(limit: Limit, detail: str, wait_s: float, lines: bytes) -> Refusal:
    message = (
        f"Rate limit reached for {limit.name}: at most {describe(limit)}. {detail}"
        f"{_wait_in_words(wait_s)}"
    )
    lines += _retry_lines(wait_s)
    action: Literal["throttle", "limit"] = (
        "throttle" if limit.per.startswith(THROTTLED) else "limit"
    )
    return Refusal(
        429,
        "rate_limit_exceeded",
        message,
        header_lines=lines,
        action=action,
        limit=limit.name,
        by_policy=True,
        retry_after=wait_s,
        calendar=bool(limit.calendar),
    )


def _wait_in_words(wait_s: float) -> str:
    return f"Please try again in {format_reset(math.ceil(wait_s * _US))}."


def _retry_lines(wait_s: float) -> bytes:
    """Retry-After in whole seconds (RFC 9110 section 10.2.3), and in milliseconds."""
    seconds = max(1, math.ceil(wait_s))
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (
        seconds,
        max(1, math.ceil(wait_s * 1000)),
    )

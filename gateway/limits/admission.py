"""Step 4 and 6, the arithmetic: what a request costs, and how a limit says no.

The completion share of a reserve is only an expectation. So a request is too large for
a limit only where its prompt alone exceeds it; else the expectation is cut down to what
the limit can hold, and the settlement puts right whatever the answer really cost.
"""

from __future__ import annotations

import math
from operator import gt
from typing import TYPE_CHECKING, Final, Literal

from gateway.core.refusal import Refusal
from gateway.limits.plans import (
    THROTTLED,
    LimitPlan,
    PlanBook,
    cells_of_subject,
    store_key,
    tenant_tag,
)
from gateway.limits.ratelimit import (
    REQUESTS,
    TOKENS,
    describe,
    format_reset,
    write_amount,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.model import Limit, Usage
    from gateway.limits.ports import Reserved

__all__ = [
    "LimitPlan",
    "PlanBook",
    "actual_costs",
    "cells_of_subject",
    "oversized",
    "ratelimit_headers",
    "refuse_block",
    "refuse_limit",
    "refuse_over",
    "refuse_oversized",
    "reserve_costs",
    "store_key",
    "tenant_tag",
]

_US: Final = 1_000_000
_NO_RETRY: Final = b"x-should-retry: false\r\n"


def reserve_costs(
    plan: LimitPlan, prompt: int, completion: int, usd_nanos: int
) -> tuple[int, ...]:
    """What to reserve in each cell: estimated prompt and expected completion tokens.

    Requests and open exchanges cost 1.
    """
    total = prompt + completion
    if total > plan.least_tokens or usd_nanos > plan.least_usd:
        return _clipped_costs(plan, prompt, completion, usd_nanos)
    return plan.pick((1, total, prompt, completion, 1, usd_nanos))


def _clipped_costs(
    plan: LimitPlan, prompt: int, completion: int, usd_nanos: int
) -> tuple[int, ...]:
    costs = plan.pick((1, prompt + completion, prompt, completion, 1, usd_nanos))
    floors = plan.pick((1, prompt, prompt, 0, 1, 0))
    # At least one unit is asked of a limit of 0, which therefore refuses.
    return tuple(
        cost if cost <= amount else max(floor, amount, 1)
        for cost, floor, amount in zip(costs, floors, plan.amounts, strict=True)
    )


def actual_costs(
    plan: LimitPlan,
    usage: Usage,
    weighted_tokens: int,
    usd_nanos: int,
    *,
    failed: bool = False,
) -> tuple[int, ...]:
    """What an exchange really cost. A failed call gives back tokens and money, never
    the request itself.
    """
    if failed:
        return plan.pick((1, 0, 0, 0, 1, 0))
    return plan.pick((1, weighted_tokens, usage.prompt, usage.completion, 1, usd_nanos))


def oversized(plan: LimitPlan, costs: Sequence[int]) -> int:
    """The first cell that could not hold the request even when empty, or -1."""
    if not any(map(gt, costs, plan.amounts)):
        return -1
    pairs = zip(costs, plan.amounts, strict=True)
    return next(index for index, (cost, amount) in enumerate(pairs) if cost > amount)


def ratelimit_headers(plan: LimitPlan, reserved: Reserved, now_us: int) -> bytes:
    """Header lines for an admitted request: the tightest limit of each family.

    Tightest is the smallest remaining / amount. Nothing without limits, or when the
    sums are not known. ``now_us`` is the store's clock.
    """
    sums = reserved.sums
    if not sums:
        return b""
    # One pass; [requests, tokens, any] -> (share that is left, place).
    requests = tokens = tightest = -1
    least_requests = least_tokens = least = 2.0
    for place, shown in enumerate(plan.shown):
        share = (shown.amount - sums[place]) * shown.share
        if share < least:
            least, tightest = share, place
        group = shown.group
        if group == REQUESTS:
            if share < least_requests:
                least_requests, requests = share, place
        elif group == TOKENS and share < least_tokens:
            least_tokens, tokens = share, place
    if plan.has_calendar:
        for shown in plan.shown:
            shown.at(now_us)
    lines = b""
    for place in (requests, tokens):
        if place >= 0:
            left = plan.amounts[place] - sums[place]
            lines += plan.shown[place].template % (max(0, left))
    left = plan.amounts[tightest] - sums[tightest]
    return lines + plan.shown[tightest].structured(max(0, left))


def refuse_limit(plan: LimitPlan, reserved: Reserved, now_us: int) -> Refusal:
    """The store said no: 429, and when to come back. ``now_us`` is its clock."""
    index = reserved.violated
    if index < 0:
        return _refuse_unchecked(reserved.retry_after)
    if reserved.retry_after < 0:
        return refuse_oversized(plan, index, reserved.costs)
    limit = plan.cells[index].limit
    used = reserved.sums[index] if reserved.sums else limit.amount
    detail = ""
    if limit.meter != "concurrent":
        needed = write_amount(limit, reserved.costs[index])
        detail = f"Used {write_amount(limit, used)}, requested {needed}. "
    shown = plan.shown[index]
    lines = _other_family(plan, reserved.sums, shown.group, now_us)
    lines += shown.refused(max(0, limit.amount - used), reserved.retry_after)
    return _refusal(limit, detail, reserved.retry_after, lines)


def _other_family(
    plan: LimitPlan, sums: Sequence[int], group: int, now_us: int
) -> bytes:
    """The x-ratelimit lines of the family that did not refuse."""
    lines = b""
    for family in (REQUESTS, TOKENS):
        shares = [
            ((shown.amount - used) * shown.share, place)
            for place, (shown, used) in enumerate(zip(plan.shown, sums, strict=False))
            if shown.group == family != group
        ]
        if shares:
            place = min(shares)[1]
            shown = plan.shown[place]
            shown.at(now_us)
            lines += shown.template % max(0, shown.amount - sums[place])
    return lines


def refuse_over(plan: LimitPlan, place: int, wait_s: float) -> Refusal:
    """A limit known to be full, without asking the store: ``wait_s`` until it frees."""
    limit = plan.cells[place].limit
    return _refusal(limit, "", wait_s, plan.shown[place].refused(0, wait_s))


def refuse_oversized(plan: LimitPlan, place: int, costs: Sequence[int]) -> Refusal:
    """A request that the limit could not hold even when empty: waiting is no use."""
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
        header_lines=_NO_RETRY,
        action="limit",
        limit=limit.name,
        by_policy=True,
    )


def refuse_block() -> Refusal:
    """On the block list: 403. Neither reason nor end is for the caller to know."""
    return Refusal(
        403, "blocked", "This client is blocked.", action="block", by_policy=True
    )


def _refuse_unchecked(wait_s: float) -> Refusal:
    """``when_down = "closed"``: no limit said no, none could be asked."""
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
    )


def _wait_in_words(wait_s: float) -> str:
    return f"Please try again in {format_reset(math.ceil(wait_s * _US))}."


def _retry_lines(wait_s: float) -> bytes:
    """Retry-After in whole seconds (RFC 9110 §10.2.3), and finer for who reads it."""
    seconds = max(1, math.ceil(wait_s))
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (
        seconds,
        max(1, math.ceil(wait_s * 1000)),
    )

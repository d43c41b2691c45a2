"""Costs of a request, the header lines of an answer, and refusals."""

import pytest

from gateway.core.model import CellKind, Limit, Usage
from gateway.limits.admission import (
    Demand,
    actual_costs,
    count_requests,
    demand,
    oversized,
    ratelimit_headers,
    refuse_block,
    refuse_limit,
    refuse_over,
    refuse_oversized,
    reserve_costs,
)
from gateway.limits.plans import LimitPlan
from gateway.limits.ports import Cell, Reserved
from gateway.limits.ratelimit import LimitHeaderTemplate

MINUTE = 60_000_000
NOW_US = 1_795_000_000_000_000


def plan_of(*limits: Limit) -> LimitPlan:
    cells = tuple(
        Cell(b"k%d" % place, CellKind.SLIDING, limit.window_us, limit.amount, limit)
        for place, limit in enumerate(limits)
    )
    return LimitPlan(cells, b"t", tuple(map(LimitHeaderTemplate, limits)))


ALL = plan_of(
    Limit("user", "requests", 100, MINUTE),
    Limit("user", "tokens", 1000, MINUTE),
    Limit("user", "prompt_tokens", 800, MINUTE),
    Limit("user", "completion_tokens", 500, MINUTE),
    Limit("user", "concurrent", 5),
    Limit("tenant", "usd", 10_000, MINUTE),
)


def admitted(plan: LimitPlan, *sums: int) -> Reserved:
    reserved = Reserved(plan, [1] * len(sums))
    reserved.admitted, reserved.sums = True, sums
    return reserved


def refused(plan: LimitPlan, place: int, retry_after: float, sums=(), costs=(1,)):
    reserved = Reserved(plan, costs)
    reserved.violated, reserved.retry_after = place, retry_after
    reserved.sums = sums
    return reserved


def fields(lines: bytes) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in lines.decode().split("\r\n")[:-1]]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


# -- costs ----------------------------------------------------------------------------


def test_each_cell_is_charged_in_its_own_meter():
    """Requests and open exchanges cost 1, other meters their expected amount."""
    assert reserve_costs(ALL, 100, 200, 7) == (1, 300, 100, 200, 1, 7)


@pytest.mark.parametrize(
    ("limits", "costs"),
    [((), ()), ((Limit("user", "tokens", 1000, MINUTE),), (300,))],
)
def test_plans_of_no_or_one_cell(limits, costs):
    """Costs are a sequence as long as the plan, also for plans of no or one cell."""
    assert reserve_costs(plan_of(*limits), 100, 200, 7) == costs


def test_expected_completion_is_cut_down_to_the_limit():
    """An expected completion beyond the limit is cut down and does not refuse."""
    costs = reserve_costs(ALL, 100, 5000, 99_999)
    assert costs == (1, 1000, 100, 500, 1, 10_000)
    assert oversized(ALL, costs) == -1


def test_prompt_beyond_the_whole_limit_is_too_large():
    """A prompt larger than the whole limit makes the request oversized."""
    costs = reserve_costs(ALL, 1001, 10, 0)
    assert costs[1] == 1001
    assert oversized(ALL, costs) == 1


def test_an_uncertain_prompt_beyond_the_limit_is_cut_down():
    """A prompt that is too large only by its estimate needs the whole limit."""
    costs = reserve_costs(ALL, 5000, 10, 0, 400)
    assert costs[1:3] == (1000, 800)
    assert oversized(ALL, costs) == -1
    assert oversized(ALL, reserve_costs(ALL, 5000, 10, 0, 1001)) == 1


@pytest.mark.parametrize(
    ("meter", "estimate"),
    [
        ("requests", (0, 0, 0)),
        ("tokens", (0, 1, 0)),
        ("completion_tokens", (0, 9, 0)),
        ("usd", (0, 0, 9)),
        ("concurrent", (0, 0, 0)),
    ],
)
def test_limit_of_zero_admits_nothing_that_costs(meter, estimate):
    """A limit of 0 refuses every request that costs something in its meter."""
    plan = plan_of(Limit("user", meter, 0, MINUTE))
    assert oversized(plan, reserve_costs(plan, *estimate)) == 0


def test_limit_of_zero_tokens_admits_what_costs_none():
    """A limit of 0 tokens admits requests that cost no tokens."""
    plan = plan_of(Limit("user", "tokens", 0, MINUTE))
    assert oversized(plan, reserve_costs(plan, 0, 0, 0)) == -1


@pytest.mark.parametrize(
    ("most", "capped", "alone"),
    [(900, True, False), (1100, True, False), (1101, True, True), (9, False, True)],
)
def test_a_cap_beyond_the_limit_and_its_overdraft_is_none(most, capped, alone):
    """Only calls without a usable cap may run where their cost does not fit."""
    limit = Limit("user", "tokens", 1000, MINUTE)
    cell = Cell(b"k", CellKind.SLIDING, MINUTE, 1000, limit, 0.0, 100)
    asked = demand(LimitPlan((cell,)), (most,), (5,), capped=capped)
    assert asked == Demand((most,), (5,), alone)


def test_a_batch_counts_as_its_requests():
    """Only counters of requests see how many a batch has; it is one open exchange."""
    costs = (1, 50, 40, 10, 1, 9)
    assert count_requests(ALL, costs, 7) == (7, 50, 40, 10, 1, 9)
    assert count_requests(ALL, costs, 1) == count_requests(ALL, costs, 0) == costs


def test_settling_charges_what_was_used():
    """Settling charges the weighted sum for tokens, and the provider's figures for
    prompt and completion.
    """
    usage = Usage(prompt=90, completion=210, total=300, cached=50)
    assert actual_costs(ALL, usage, 255, 8) == (1, 255, 90, 210, 1, 8)


def test_failed_calls_cost_the_request_only():
    """A failed call is refunded its tokens and dollars, but not the request."""
    usage = Usage(prompt=90, completion=210, total=300)
    assert actual_costs(ALL, usage, 300, 8, failed=True) == (1, 0, 0, 0, 1, 0)


# -- header lines ---------------------------------------------------------------------


def test_headers_show_each_family_and_the_tightest_of_all():
    """The headers show the requests limit, the tokens limit, and the tightest of all in
    the structured fields.
    """
    found = fields(ratelimit_headers(ALL, admitted(ALL, 1, 300, 700, 1, 1, 1), NOW_US))
    assert found["x-ratelimit-limit-requests"] == "100"
    assert found["x-ratelimit-remaining-requests"] == "99"
    assert found["x-ratelimit-reset-requests"] == "1m0s"
    assert found["x-ratelimit-limit-tokens"] == "800"
    assert found["x-ratelimit-remaining-tokens"] == "100"
    policy = '"user.prompt_tokens.1m";q=800;w=60;qu="prompt-tokens"'
    assert found["RateLimit-Policy"] == policy
    assert found["RateLimit"] == '"user.prompt_tokens.1m";r=100;t=60'


def test_tightest_limit_of_a_family_is_the_one_shown():
    """The tightest limit is the one with the smallest remaining share."""
    plan = plan_of(
        Limit("client_ip", "requests", 1000, MINUTE),
        Limit("user", "requests", 10, MINUTE),
    )
    found = fields(ratelimit_headers(plan, admitted(plan, 990, 1), NOW_US))
    assert found["x-ratelimit-limit-requests"] == "1000"
    found = fields(ratelimit_headers(plan, admitted(plan, 10, 9), NOW_US))
    assert found["x-ratelimit-limit-requests"] == "10"


def test_limits_outside_both_families_show_in_the_structured_fields():
    """Dollars and concurrency have structured fields but no x-ratelimit fields."""
    plan = plan_of(Limit("user", "concurrent", 4))
    found = fields(ratelimit_headers(plan, admitted(plan, 3), NOW_US))
    assert found == {
        "RateLimit-Policy": '"user.concurrent";q=4;qu="concurrent-requests"',
        "RateLimit": '"user.concurrent";r=1',
    }


def test_overdrawn_limits_show_nothing_left():
    """A limit that was settled beyond its amount shows 0 remaining."""
    plan = plan_of(Limit("user", "tokens", 100, MINUTE))
    found = fields(ratelimit_headers(plan, admitted(plan, 130), NOW_US))
    assert found["x-ratelimit-remaining-tokens"] == "0"


def test_calendar_limits_count_down_in_every_answer():
    """The reset of a calendar limit follows the store's clock in every answer."""
    limit = Limit("user", "requests", 9, calendar="day")
    ends_at = NOW_US / 1e6 + 90
    cell = Cell(b"k", CellKind.CALENDAR, 0, 9, limit, ends_at)
    plan = LimitPlan((cell,), b"t", (LimitHeaderTemplate(limit, ends_at=ends_at),))
    for passed, reset in ((0, "1m30s"), (31, "59s")):
        lines = ratelimit_headers(plan, admitted(plan, 4), NOW_US + passed * 10**6)
        assert fields(lines)["x-ratelimit-reset-requests"] == reset


def test_no_limits_no_lines():
    """There are no header lines without limits or without sums."""
    assert ratelimit_headers(plan_of(), admitted(plan_of()), NOW_US) == b""
    assert ratelimit_headers(ALL, Reserved(ALL, ()), NOW_US) == b""


# -- refusals -------------------------------------------------------------------------


def test_refusal_by_a_limit_has_its_name_and_retry_after():
    """A refusal has the limit's name, no ids, and the same time in every field."""
    reserved = refused(ALL, 1, 12.3, (40, 950, 10, 10, 1, 0), (1, 300, 100, 200, 1, 7))
    no = refuse_limit(ALL, reserved, NOW_US)
    assert (no.status, no.code, no.action) == (429, "rate_limit_exceeded", "limit")
    assert (no.limit, no.retry_after) == ("user.tokens.1m", 12.3)
    assert no.message == (
        "Rate limit reached for user.tokens.1m: at most 1000 tokens per 1m for this "
        "user. Used 950 tokens, requested 300 tokens. Please try again in 12.3s."
    )
    found = fields(no.header_lines)
    assert found["retry-after"] == "13"
    assert found["retry-after-ms"] == "12300"
    assert found["x-ratelimit-remaining-requests"] == "60"
    assert found["x-ratelimit-remaining-tokens"] == "50"
    assert found["x-ratelimit-reset-tokens"] == "12.3s"
    assert found["RateLimit"] == '"user.tokens.1m";r=50;t=13'


def test_refusal_without_sums_shows_nothing_left():
    """A refusal without sums shows 0 remaining."""
    plan = plan_of(Limit("user", "requests", 100, MINUTE))
    no = refuse_limit(plan, refused(plan, 0, 0.001), NOW_US)
    found = fields(no.header_lines)
    assert found["x-ratelimit-remaining-requests"] == "0"
    assert (found["retry-after"], found["retry-after-ms"]) == ("1", "1")


def test_refusal_by_concurrency_counts_nothing_up():
    """A refusal by concurrency states the limit, but not what is used."""
    plan = plan_of(Limit("user", "concurrent", 5))
    no = refuse_limit(plan, refused(plan, 0, 1.0, (5,)), NOW_US)
    assert no.message == (
        "Rate limit reached for user.concurrent: at most 5 requests at a time for "
        "this user. Please try again in 1s."
    )


def test_cost_above_the_limit_has_no_retry_after():
    """A cost above the whole limit is refused without Retry-After."""
    plan = plan_of(Limit("user", "tokens", 100, MINUTE))
    no = refuse_limit(plan, refused(plan, 0, -1, (0,), (150,)), NOW_US)
    assert no == refuse_oversized(plan, 0, (150,))
    assert (no.status, no.code) == (429, "request_too_large_for_limit")
    assert (no.header_lines, no.final) == (b"", True)
    assert "it needs at least 150 tokens" in no.message


@pytest.mark.parametrize(
    ("limit", "wait_s", "final"),
    [
        (Limit("user", "requests", 5, MINUTE), 59.0, False),
        (Limit("user", "requests", 5, 60 * MINUTE), 61.0, True),
        (Limit("user", "usd", 5, calendar="day"), 5.0, True),
        (Limit("user", "concurrent", 5), 1.0, False),
    ],
)
def test_refusals_that_clients_should_not_retry(limit, wait_s, final):
    """A refusal for over a minute, or by a calendar limit, is final, from the store and
    from the over-limit cache; the time to wait is stated all the same.
    """
    plan = plan_of(limit)
    for no in (
        refuse_limit(plan, refused(plan, 0, wait_s), NOW_US),
        refuse_over(plan, 0, wait_s),
    ):
        assert no.final == final
        assert fields(no.header_lines)["retry-after"] == str(int(wait_s))


def test_refusal_while_the_store_is_down():
    """With ``when_down = "closed"`` a refusal while the store is down names no limit."""
    no = refuse_limit(ALL, refused(ALL, -1, 1.0), NOW_US)
    assert (no.status, no.limit, no.retry_after) == (429, None, 1.0)
    assert fields(no.header_lines) == {"retry-after": "1", "retry-after-ms": "1000"}


def test_refusal_from_the_over_limit_cache_shows_nothing_left():
    """A refusal from the over-limit cache shows 0 remaining and the time to wait."""
    no = refuse_over(ALL, 0, 2.5)
    assert (no.limit, no.retry_after) == ("user.requests.1m", 2.5)
    found = fields(no.header_lines)
    assert found["x-ratelimit-remaining-requests"] == "0"
    assert found["retry-after"] == "3"


def test_block_discloses_no_reason():
    """A block answers 403 and discloses no reason."""
    no = refuse_block()
    assert (no.status, no.code, no.action) == (403, "blocked", "block")
    assert (no.header_lines, no.retry_after) == (b"", -1.0)

"""Header lines and words of a limit."""

import pytest

from gateway.core.model import Limit
from gateway.limits.ratelimit import (
    LimitHeaderTemplate,
    describe,
    format_reset,
    write_amount,
)

US = 1_000_000
MINUTE = 60 * US


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (-1, "0ms"),
        (0, "0ms"),
        (1, "1ms"),
        (17_000, "17ms"),
        (999_001, "1s"),
        (US, "1s"),
        (1_500_000, "1.5s"),
        (MINUTE, "1m0s"),
        (6 * MINUTE, "6m0s"),
        (61_250_000, "1m1.25s"),
        (3600 * US, "1h0m0s"),
        (86_400 * US, "24h0m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(duration_us, text):
    """Durations are milliseconds below a second, then hours, minutes and seconds,
    rounded up.
    """
    assert format_reset(duration_us) == text


def lines(raw: bytes) -> list[str]:
    return raw.decode().split("\r\n")[:-1]


def test_requests_limit_as_lines():
    """A requests limit has three x-ratelimit and two structured fields."""
    header = LimitHeaderTemplate(Limit("client_ip", "requests", 600, MINUTE))
    assert lines(header.lines % 599) == [
        "x-ratelimit-limit-requests: 600",
        "x-ratelimit-remaining-requests: 599",
        "x-ratelimit-reset-requests: 1m0s",
    ]
    assert lines(header.structured(599)) == [
        'RateLimit-Policy: "client_ip.requests.1m";q=600;w=60',
        'RateLimit: "client_ip.requests.1m";r=599;t=60',
    ]


def test_token_limits_say_their_unit():
    """A quota of tokens states its unit."""
    header = LimitHeaderTemplate(Limit("user", "prompt_tokens", 1000, 1_500_000))
    assert lines(header.lines % 7)[1] == "x-ratelimit-remaining-tokens: 7"
    assert lines(header.structured(7)) == [
        'RateLimit-Policy: "user.prompt_tokens.1500ms";q=1000;w=2;qu="prompt-tokens"',
        'RateLimit: "user.prompt_tokens.1500ms";r=7;t=2',
    ]


def test_concurrency_has_no_window():
    """A concurrency limit has neither window nor reset time."""
    header = LimitHeaderTemplate(Limit("user", "concurrent", 32))
    assert header.lines == b""
    assert lines(header.structured(31)) == [
        'RateLimit-Policy: "user.concurrent";q=32;qu="concurrent-requests"',
        'RateLimit: "user.concurrent";r=31',
    ]


def test_dollars_are_written_as_micro_dollars():
    """Dollars are written as micro-dollars, so that large budgets fit."""
    header = LimitHeaderTemplate(Limit("tenant", "usd", 10**21, MINUTE))
    policy, rest = lines(header.structured(1_234_999))
    assert 'q=999999999999999;w=60;qu="usd-micros"' in policy
    assert "r=1234;" in rest
    assert header.lines == b""


def test_calendar_limits_count_down():
    """The reset of a calendar limit decreases by whole seconds and never reaches 0."""
    limit = Limit("user", "requests", 10, calendar="day")
    header = LimitHeaderTemplate(limit, ends_at=86_400.0, length_s=86_400)
    header.refresh((86_400 - 90) * US + 500_000)
    assert "reset-requests: 1m30s" in lines(header.lines % 3)[2]
    header.refresh((86_400 - 90) * US + 600_000)
    assert lines(header.structured(3)) == [
        'RateLimit-Policy: "user.requests.day";q=10;w=86400',
        'RateLimit: "user.requests.day";r=3;t=90',
    ]
    header.refresh(86_401 * US)
    assert lines(header.lines % 3)[2].endswith(" 1s")


@pytest.mark.parametrize(
    ("limit", "first"),
    [
        (Limit("user", "requests", 5, MINUTE), "x-ratelimit-limit-requests: 5"),
        (Limit("user", "concurrent", 5), 'RateLimit-Policy: "user.concurrent";q=5'),
    ],
)
def test_refusing_limit_resets_when_retry_after_ends(limit, first):
    """The reset in a refusal equals its Retry-After."""
    written = lines(LimitHeaderTemplate(limit).refused(2, 12.25))
    assert written[0].startswith(first)
    assert written[-1].endswith("r=2;t=13")


def test_limit_of_nothing_can_be_shown():
    """A limit of 0 causes no division by zero."""
    assert LimitHeaderTemplate(Limit("user", "requests", 0, MINUTE)).reciprocal == 0.0


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (
            Limit("user", "tokens", 200_000, MINUTE),
            "200000 tokens per 1m for this user",
        ),
        (
            Limit("client_ip", "requests", 9, calendar="day"),
            "9 requests per day for this address",
        ),
        (
            Limit("user+model", "completion_tokens", 5, MINUTE),
            "5 completion tokens per 1m for this user and model",
        ),
        (
            Limit("tenant", "usd", 500_000_000, MINUTE),
            "$0.50 per 1m for this tenant",
        ),
        (Limit("user", "concurrent", 3), "3 requests at a time for this user"),
    ],
)
def test_limits_in_words(limit, words):
    """A limit in words has no ids."""
    assert describe(limit) == words


def test_amounts_in_words():
    """An amount in words has the limit's own unit."""
    limit = Limit("user", "prompt_tokens", 5, MINUTE)
    assert write_amount(limit, 1200) == "1200 prompt tokens"


def test_small_amounts_of_money_have_digits():
    """A limit of a tenth of a cent is not written as $0.00."""
    limit = Limit("user", "usd", 1_500_000, 60_000_000)
    assert write_amount(limit, limit.amount) == "$0.0015"
    assert write_amount(limit, 2_500_000_000) == "$2.50"

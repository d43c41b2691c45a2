"""Counts are read from any value that a provider writes."""

import msgspec
import pytest

from gateway.core.model import RequestFacts
from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.fields import (
    Stated,
    plain_usage,
    whole,
)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (3, 3),
        (-3, 0),
        (7.0, 7),
        (-1.0, None),
        (float("inf"), None),
        ("12", 12),
        ("x", None),
        (None, None),
        ([], None),
    ],
)
def test_whole(value, count):
    """Counts are whole and not negative, for any value that a provider writes."""
    assert whole(value) == count


def test_plain_usage_leaves_the_rest_to_the_tally():
    """The fast path is used only for objects with nothing but the three counts."""
    plain = Stated(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    usage = plain_usage(plain)
    assert usage is not None
    assert usage.total == 3
    for field, value in (
        ("prompt_tokens", 1.0),
        ("completion_tokens", None),
        ("total_tokens", 9),
        ("cached_tokens", 1),
    ):
        other = msgspec.structs.replace(plain, **{field: value})
        assert plain_usage(other) is None


@pytest.mark.parametrize(
    "count",
    [
        b"9223372036854775808",
        b"18446744073709551615",
        b"99999999999999999999999999",
        b"4294967296",
        b"-5",
        b"-1.5",
        b"1e300",
        b"1e999",
        b'"9223372036854775808"',
        b"1" + b"0" * 400,
    ],
)
@pytest.mark.parametrize(
    "usage",
    [
        b'"usage":{"prompt_tokens":@,"completion_tokens":1,"total_tokens":2}',
        b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":@}',
        b'"usage":{"prompt_tokens":1,"completion_tokens":@}',
        b'"usage":{"input_tokens":1,"output_tokens":@}',
        b'"usage":{"inputTokens":1,"outputTokens":@}',
        b'"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":@}',
        b'"usageMetadata":{"promptTokenCount":1,"thoughtsTokenCount":@}',
        b'"usage":{"input_tokens":1,"iterations":[{"output_tokens":@}]}',
        b'"prompt_eval_count":1,"eval_count":@',
    ],
)
def test_counts_that_cannot_be_true(count, usage):
    """No count that is negative or larger than any answer is believed."""
    match = find_endpoint("POST", "/v1/chat/completions")
    facts = RequestFacts(match.endpoint)
    meter = match.dialect.open_meter(match, facts, 200, {}.get, b"application/json")
    meter.feed(b"{%b}" % usage.replace(b"@", count))
    assert meter.finish(complete=True) is None
    assert meter.implausible
    task = meter.unstated()
    assert task is not None
    assert task.stated is None

"""The usage chunk that only the gateway asked for is removed."""

import pytest

from gateway.core.model import RequestFacts
from gateway.metering.dialects import UsageFilter, find_endpoint
from gateway.metering.dialects.filter import is_usage_only
from gateway.metering.dialects.meters import EVENT_BYTES, NullMeter

TEXT = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'


def opened():
    match = find_endpoint("POST", "/v1/chat/completions")
    facts = RequestFacts(match.endpoint, stream=True)
    return match.dialect.open_meter(match, facts, 200, {}.get, b"text/event-stream")


@pytest.mark.parametrize(
    ("event", "only"),
    [
        (USAGE, True),
        (USAGE.replace(b"\n", b"\r\n"), True),
        (TEXT, False),
        (b'data: {"choices":[],"prompt_filter_results":[]}\n\n', False),
        (b'data: {"choices":[{}],"usage":{"total_tokens":1}}\n\n', False),
        (b'data: {"usage":{"total_tokens":1}}\n\n', False),
        (b'data: {"choices":[],"usage":{"total_tokens":1}\n\n', False),
    ],
)
def test_usage_only(event, only):
    """A usage-only event has no choices and a usage object; Azure's first chunk is
    none.
    """
    assert is_usage_only(event) is only


def test_stream():
    """All other bytes pass at once, and the meter receives all of them."""
    meter = opened()
    sift = UsageFilter(meter)
    assert sift.feed(TEXT) == TEXT
    assert sift.feed(TEXT[:9]) == b""
    assert (
        sift.feed(TEXT[9:] + USAGE + b"data: [DONE]\n\n") == TEXT + b"data: [DONE]\n\n"
    )
    assert sift.flush() == b""
    assert meter.finish(complete=True).total == 3


def test_end_of_stream():
    """The rest at the end passes, unless it is the usage chunk."""
    sift = UsageFilter(NullMeter())
    assert sift.feed(USAGE[:-1]) == b""
    assert sift.flush() == b""
    sift = UsageFilter(NullMeter())
    assert sift.feed(TEXT[:-1]) + sift.flush() == TEXT[:-1]


def test_line_end_in_two_pieces():
    """A CRLF split between two reads stays with its event."""
    crlf = USAGE.replace(b"\n", b"\r\n")
    sift = UsageFilter(opened())
    assert sift.feed(crlf[:-1]) == b""
    assert sift.feed(b"\n") == b""
    assert sift.feed(TEXT) == TEXT


def test_oversized_event():
    """An event too large to buffer passes unread."""
    big = b'data: {"choices":[],"x":"' + b"a" * EVENT_BYTES + b'",' + USAGE[6:]
    sift = UsageFilter(NullMeter())
    pieces = [big[at : at + 70_000] for at in range(0, len(big), 70_000)]
    assert b"".join(map(sift.feed, pieces)) + sift.feed(TEXT) == big + TEXT
    other = UsageFilter(NullMeter())
    assert other.feed(big[:-20]) + other.flush() == big[:-20]


def test_a_filter_goes_on_without_its_meter():
    """After a fault of the meter the usage chunk is still removed, and nothing is read."""
    filter_ = UsageFilter(opened())
    filter_.stop_metering()
    assert filter_.feed(TEXT) == TEXT
    assert filter_.feed(USAGE) == b""

"""Records to requests: full records, events, malformed ones."""

from __future__ import annotations

import json

import pytest

from gateway.detect.model import EventError
from gateway.replay.requests import request_from_record
from gateway.sinks.records import RecordWriter
from tests.records import make_record


def written(**changes):
    """A record of the gateway as a request."""
    line = RecordWriter().line(make_record(**changes))
    return request_from_record(json.loads(line))


def test_the_gateways_own_record():
    """A request has every field that limits and detection use."""
    one = written(fingerprint="00ff00ff00ff00ff", total_tokens=9)
    assert (one.tenant, one.user, one.client_ip) == ("acme", "key_1", "203.0.113.9")
    assert (one.ts, one.duration_s) == (1_763_916_387.123456, 0.0125)
    assert (one.usage.prompt, one.usage.completion, one.usage.total) == (3, 4, 9)
    assert (one.usage.cached, one.usage.reasoning) == (1, 2)
    assert one.fingerprint == 0x00FF00FF00FF00FF
    assert not one.refused
    assert not one.misfit


def test_a_bare_event_is_a_record_too():
    """An event of five fields is accepted; its tokens count as reported by the upstream."""
    one = request_from_record(
        {
            "timestamp": "2026-01-05T08:00:00Z",
            "client_ip": "203.0.113.9",
            "model_name": "m",
            "prompt_tokens": 3,
            "completion_tokens": 4,
        }
    )
    assert (one.tenant, one.user, one.action) == ("default", "anonymous", "allow")
    assert (one.usage.total, one.usage.source, one.duration_s) == (7, "upstream", 0.0)


def test_refused_then():
    """``refused`` means by a limit or a block, not an action of observe mode."""
    assert written(action="limit", outcome="refused", status=429).refused
    assert written(action="throttle", outcome="refused", status=429).refused
    assert not written(action="limit", would="limit").refused
    assert not written(action="tag").refused
    bare = {"ts": 1e9, "client_ip": "a", "action": "block"}
    assert request_from_record(bare).refused


def test_misfits_are_nobodys_limit():
    """Requests with unknown keys belong to ANONYMOUS_TENANT and are misfits."""
    one = written(tenant="", status=401, outcome="refused", usage_source="none")
    assert (one.tenant, one.misfit, one.refused, one.status) == (
        "anonymous",
        True,
        False,
        401,
    )


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("action", "allowed", "action: one of allow"),
        ("usage_source", 3, "usage_source: one of"),
        ("duration_ms", -1, "duration_ms: out of range"),
        ("duration_ms", "long", "duration_ms: a number"),
        ("cached_tokens", True, "cached_tokens: a number"),
        ("limit", 7, "limit: text"),
        ("total_tokens", 10**15, "tokens: out of range"),
        ("client_ip", None, "client_ip: missing"),
        ("ts", "yesterday", "timestamp"),
    ],
)
def test_broken_fields_are_named(field, value, why):
    """The error names the field that cannot be read."""
    record = json.loads(RecordWriter().line(make_record()))
    with pytest.raises(EventError, match=why):
        request_from_record(record | {field: value})


def test_no_exchange_is_endless():
    """Durations over a day are cut to a day."""
    assert written(duration_ms=1e11).duration_s == 86_400.0

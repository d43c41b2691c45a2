"""Live records, stored records and bare events as detector events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import ANONYMOUS_TENANT, OPENED
from gateway.detect.event_mapping import (
    EventLine,
    event_from_fields,
    event_from_line,
    event_from_record,
    event_from_request,
    unanswered,
)
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.detect.model import REFUSED_STATUS, Event, EventError
from gateway.sinks.records import RecordWriter
from tests.records import make_record

NOW = 1_767_607_200.0
BARE = {
    "timestamp": "2026-01-05T10:00:00",
    "client_ip": "203.0.113.9",
    "model_name": "m",
    "prompt_tokens": 10,
    "completion_tokens": 5,
}


def test_the_bare_form():
    """Five fields are enough; the rest has defaults."""
    event = event_from_record(BARE)
    assert event == Event(
        1767607200.0, "203.0.113.9", model="m", prompt_tokens=10, completion_tokens=5
    )
    assert event.tokens == 15
    assert msgspec.structs.replace(event, total_tokens=99).tokens == 99


def test_a_whole_record():
    """A gateway's own record, with fingerprint and dollars."""
    record = BARE | {
        "user": "u",
        "tenant": "t",
        "endpoint": "messages",
        "status": 401,
        "usd": 0.5,
        "fingerprint": "00000000000000ff",
    }
    event = event_from_record(record)
    assert (event.user, event.tenant, event.status) == ("u", "t", 401)
    assert (event.endpoint, event.usd, event.fingerprint) == ("messages", 0.5, 255)


def test_refusals_of_our_own_are_not_answers():
    """A request that the gateway itself refused is marked by status 0."""
    event = event_from_record(BARE | {"status": 403, "action": "block"})
    assert event.status == 0
    refused = BARE | {"outcome": "refused"}
    assert event_from_record(refused | {"status": 429}).status == 0
    assert event_from_record(refused | {"status": 401}).status == 401


def test_paths_prompts_and_loose_numbers():
    """Paths are named, prompts hashed, 12.0 and "12" read as counts, null is absent."""
    record = BARE | {
        "endpoint": "/v1/chat/completions?x=1",
        "prompt": "hello there",
        "prompt_tokens": "12",
        "completion_tokens": 3.0,
        "total_tokens": None,
    }
    event = event_from_record(record)
    assert event.endpoint == "chat.completions"
    assert event.fingerprint == prompt_fingerprint("hello there")
    assert (event.prompt_tokens, event.completion_tokens) == (12, 3)
    assert event_from_record(BARE | {"prompt": 5}).fingerprint is None
    assert event_from_record(BARE | {"fingerprint": 7}).fingerprint == 7


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"client_ip": None}, "client_ip"),
        ({"timestamp": None}, "timestamp"),
        ({"user_id": 5}, "user_id"),
        ({"prompt_tokens": []}, "prompt_tokens"),
        ({"fingerprint": "xyz"}, "fingerprint"),
        ({"fingerprint": []}, "fingerprint"),
        ({"fingerprint": "1" * 17}, "fingerprint"),
        ({"fingerprint": -1}, "fingerprint"),
    ],
)
def test_bad_fields_are_named(change, named):
    """The error of an unreadable field names it."""
    with pytest.raises(EventError, match=named):
        event_from_record(BARE | change)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": 200}, 200),
        ({"status": 401, "outcome": "refused"}, 401),
        ({"status": 404, "outcome": "refused"}, 404),
        ({"status": 403, "outcome": "refused"}, 0),
        ({"status": 429, "outcome": "refused"}, 0),
        ({"status": 403}, 403),
        ({"status": 502, "outcome": "upstream_error"}, 502),
        ({"status": 200, "phase": OPENED}, 0),
    ],
)
def test_status_says_what_the_client_is_to_blame_for(fields, status):
    """The upstream's refusals and wrong keys are; our limits and blocks are not."""
    assert event_from_request(make_record(**fields)).status == status


def test_an_event_has_the_time_of_its_record():
    """The time of an event is the end of its request; without a tenant it has
    ANONYMOUS_TENANT.
    """
    record = make_record(ts=NOW, duration_ms=1500.0, tenant="", fingerprint="ff")
    event = event_from_request(record)
    assert (event.ts, event.tenant, event.fingerprint) == (
        NOW + 1.5,
        ANONYMOUS_TENANT,
        255,
    )
    assert event_from_request(make_record()).fingerprint is None


@pytest.mark.parametrize("status", [200, 401, 403, 429, 502])
@pytest.mark.parametrize("outcome", ["ok", "refused", "upstream_error"])
def test_a_live_record_and_its_json_line_give_the_same_event(status, outcome):
    """Detection in the gateway and ``watch`` on its records see the same event; only
    the time differs: records state the arrival, live events the end.
    """
    record = make_record(
        ts=NOW, duration_ms=500.0, status=status, outcome=outcome, fingerprint="ff"
    )
    live = event_from_request(record)
    stored = event_from_record(msgspec.json.decode(RecordWriter().line(record)))
    assert live.ts == NOW + 0.5
    assert msgspec.structs.replace(live, ts=NOW) == stored


def test_an_unanswered_request_keeps_all_but_time_and_status():
    """Announcements of open exchanges carry status 0."""
    event = Event(NOW, "203.0.113.9", user="u", status=200, prompt_tokens=3)
    asked = unanswered(event, NOW - 1.0)
    assert (asked.ts, asked.status) == (NOW - 1.0, REFUSED_STATUS)
    assert msgspec.structs.replace(asked, ts=NOW, status=200) == event


T = 1_767_600_000.0
LINES = st.fixed_dictionaries(
    {"client_ip": st.sampled_from(["10.0.0.1", ""])},
    optional={
        "ts": st.sampled_from([T, "2026-01-05T08:00:00Z", "", None, 1_767_600_000_000]),
        "timestamp": st.sampled_from([T, "yesterday", 5]),
        "user": st.sampled_from(["u", "", None]),
        "user_id": st.sampled_from(["v", None]),
        "tenant": st.sampled_from(["t", ""]),
        "model": st.sampled_from(["m", None]),
        "model_name": st.just("n"),
        "endpoint": st.sampled_from(["chat", "", None]),
        "path": st.sampled_from(["/v1/chat/completions?a=1", "/nothing"]),
        "prompt_tokens": st.sampled_from([0, 7, None]),
        "completion_tokens": st.sampled_from([0, 7]),
        "total_tokens": st.sampled_from([0, 70]),
        "status": st.sampled_from([0, 200, 401, 429, 503]),
        "usd": st.sampled_from([0, 0.5, -1.0, None]),
        "fingerprint": st.sampled_from(["ff", "zz", 7, -7, "f" * 17, None]),
        "prompt": st.sampled_from(["Number 1", 5, None]),
        "outcome": st.sampled_from(["ok", "refused", "error", 5, None]),
        "action": st.sampled_from(["block", "limit", "allow", {}, None]),
    },
)


@given(LINES)
def test_a_line_is_read_as_its_record_is(record):
    """A line and its record give the same event, or both an error."""

    def outcome(read, told):
        try:
            return read(told)
        except EventError:
            return None

    line = msgspec.convert(record, EventLine)
    assert outcome(event_from_line, line) == outcome(event_from_record, record)


def test_fields_of_a_replayed_request():
    """A request that replay decides anew keeps its fields, at another time and price."""
    event = event_from_record(BARE)
    moved = event_from_fields(event, ts=5.0, usd=0.25)
    assert (moved.ts, moved.usd) == (5.0, 0.25)
    assert (moved.client_ip, moved.model, moved.tokens) == ("203.0.113.9", "m", 15)

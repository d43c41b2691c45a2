"""Events from records, outputs as JSON."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.fingerprint import prompt_fingerprint
from gateway.detect.model import (
    Event,
    EventError,
    EventLine,
    Output,
    Ref,
    Window,
    event_from_line,
    event_from_record,
    format_time,
    parse_time,
)

BARE = {
    "timestamp": "2026-01-05T10:00:00",
    "client_ip": "203.0.113.9",
    "model_name": "m",
    "prompt_tokens": 10,
    "completion_tokens": 5,
}


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-05T10:00:00Z",
        "2026-01-05T10:00:00",
        "2026-01-05 11:00:00+01:00",
        1767607200,
        1767607200.0,
        "1767607200",
        1767607200_000,
        1767607200_000_000,
    ],
)
def test_times_of_any_common_form(value):
    """RFC 3339 with and without zone, seconds, milliseconds, microseconds."""
    assert parse_time(value) == 1767607200.0


@pytest.mark.parametrize(
    "value", ["soon", True, [], "nan", -5, "1e400", 1e300, 10**400]
)
def test_times_that_are_none(value):
    """What is no time is refused by name."""
    with pytest.raises(EventError, match="timestamp"):
        parse_time(value)


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
    """What cannot be read says which field it was."""
    with pytest.raises(EventError, match=named):
        event_from_record(BARE | change)


def test_an_output_is_the_documented_json():
    """Field by field as the interface writes it."""
    out = Output(
        type="incident.opened",
        id="inc_x",
        ts=format_time(1767607200.25),
        severity="warning",
        cls="scraping",
        score=4.7,
        subject=Ref("client_ip", "203.0.113.9"),
        tenant="acme",
        action="throttle",
        until=None,
        window=Window("a", "b"),
        observed={"requests_1m": 412},
        expected={},
        reasons=("Because.",),
    )
    shape = msgspec.to_builtins(out)
    assert shape["class"] == "scraping"
    assert shape["ts"] == "2026-01-05T10:00:00.250Z"
    assert shape["window"] == {"from": "a", "to": "b"}
    assert shape["subject"] == {"kind": "client_ip", "id": "203.0.113.9"}
    assert out.at == 1767607200.25


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
    """Both readers give the same event, or both complain."""

    def outcome(read, told):
        try:
            return read(told)
        except EventError:
            return None

    line = msgspec.convert(record, EventLine)
    assert outcome(event_from_line, line) == outcome(event_from_record, record)

"""Times, and the JSON of outputs."""

from __future__ import annotations

import msgspec
import pytest

from gateway.detect.model import (
    EventError,
    EvidenceWindow,
    Output,
    Ref,
    format_time,
    parse_time,
)


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
    """A text that is no time raises an error with the field's name."""
    with pytest.raises(EventError, match="timestamp"):
        parse_time(value)


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
        window=EvidenceWindow("a", "b"),
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

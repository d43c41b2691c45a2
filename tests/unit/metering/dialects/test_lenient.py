"""The bound on what the lenient parser may cost."""

import json

import pytest
from msgspec import Raw

from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.lenient import BUDGET_NS, loads
from gateway.metering.dialects.requests import member
from gateway.metering.dialects.routes import find_endpoint

CHAT = find_endpoint("POST", "/v1/chat/completions")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":NaN,"b":[{"c":1}]}',
        b'{"text":"' + b"long text " * 20_000 + b'","x":NaN}',
        json.dumps({"a": ["one"] * 1000}).encode("utf-16"),
        b"[" + b"1," * 20_000 + b"1]",
    ],
)
def test_ordinary_texts_are_read(text):
    """As the standard library reads them."""
    assert repr(loads(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    "unit", [b"{},", b"[],", b'{"a":1},', b'"a",[{}],', b"[[[[]]]],"]
)
def test_much_structure_is_refused(unit):
    """A short text of many objects would hold the event loop."""
    text = b"[" + unit * (250_000 // len(unit)) + b"1]"
    with pytest.raises(ValueError, match="structure"):
        loads(text)
    body = b'{"model":"m","x":NaN,"messages":' + text + b"}"
    with pytest.raises(DialectError, match="structure"):
        CHAT.dialect.read_request(CHAT, body, "", "application/json")


def test_a_costly_member_is_refused():
    """Also inside a body that is strict JSON."""
    text = b'{"user_id":[' + b"{}," * 100_000 + b"1]}"
    with pytest.raises(DialectError, match="user_id"):
        member(Raw(text), "user_id", free=True)


def test_the_budget_is_a_few_milliseconds():
    """In nanoseconds."""
    assert 1_000_000 <= BUDGET_NS <= 10_000_000

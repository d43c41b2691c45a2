"""Facts of a body: read, by the head alone, or by its size."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.core.model import Anomaly, Policy
from gateway.metering.dialects import find_endpoint
from gateway.proxy.scoring import Scoring
from gateway.proxy.steps.read import facts_of_head, facts_of_size, read_body
from tests.flows import flow_of

CHAT = find_endpoint("POST", "/v1/chat/completions", None)
BODY = b'{"model":"m","messages":[{"role":"user","content":"one two three"}]}'


@pytest.mark.parametrize("enabled", [True, False])
def test_body_is_read_and_fingerprinted(enabled):
    """The facts are noted; the fingerprint only while detection is on."""
    policy = Policy("p", anomaly=Anomaly(enabled=enabled))
    flow = flow_of(policy, match=CHAT)
    assert read_body(flow, SimpleNamespace(scoring=Scoring(b"")), BODY) is None
    assert flow.facts is not None
    assert flow.facts.model == "m"
    assert (flow.fingerprint is not None) is enabled


def test_unreadable_body_is_refused_by_policy():
    """400, which observe mode lets pass; the facts stay unknown."""
    flow = flow_of(Policy("p"), match=CHAT)
    refusal = read_body(flow, SimpleNamespace(scoring=Scoring(b"")), b"[")
    assert refusal is not None
    assert (refusal.status, refusal.by_policy) == (400, True)
    assert flow.facts is None


def test_facts_without_a_body():
    """A body that passes unread counts by its endpoint, an unreadable one by size."""
    flow = flow_of(match=CHAT)
    assert facts_of_head(flow).endpoint == "chat.completions"
    assert facts_of_head(flow_of()).endpoint == "other"
    assert not facts_of_head(flow_of()).billable
    assert facts_of_size(flow, 99).prompt_bytes == 99


STREAM = BODY[:-1] + b',"stream":true}'
BRACKETS = STREAM[:-1] + b',"pad":[' + b"[]," * 26_000 + b'1],"stream_options":{}}'


@pytest.mark.parametrize(
    ("body", "identity", "context", "asked", "refused"),
    [
        (STREAM, {}, {}, True, False),
        (STREAM, {"signed": True}, {}, False, True),
        (STREAM, {"signed": True}, {"key": (b"authorization", b"x")}, True, False),
        (STREAM, {"signed": True, "allowed": True}, {}, False, False),
        (STREAM, {}, {"coding": b"gzip"}, False, True),
        (STREAM, {}, {"coding": b"gzip", "ask": False}, False, False),
        (BRACKETS, {}, {}, False, True),
        (BODY, {"signed": True}, {"coding": b"gzip"}, False, False),
        (
            STREAM[:-1] + b',"stream_options":{"include_usage":true}}',
            {"signed": True},
            {"coding": b"gzip"},
            False,
            False,
        ),
    ],
)
def test_streams_whose_usage_cannot_be_asked_for(
    body, identity, context, asked, refused
):
    """A stream would hide its usage: it is edited, or refused where it cannot be."""
    route = SimpleNamespace(
        ask_usage=context.get("ask", True),
        api_key=context.get("key"),
        unasked_models={},
    )
    flow = flow_of(
        Policy("p"),
        match=CHAT,
        route=route,
        request_encoding=context.get("coding", b""),
    )
    values = {"signed": False, "allowed": False} | identity
    for name, value in values.items():
        setattr(flow.context.identity, name, value)
    flow.body = body
    refusal = read_body(flow, SimpleNamespace(scoring=Scoring(b"")), body)
    assert flow.usage_requested is asked
    assert (refusal is not None) is refused
    if refusal is not None:
        assert (refusal.status, refusal.by_policy) == (400, True)
        assert "include_usage" in refusal.message

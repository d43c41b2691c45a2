"""The request for an upstream."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.core.model import Policy
from gateway.detect.inline import Verdict
from gateway.http.request_writer import CHUNKED, NO_BODY
from gateway.proxy.forward import outgoing_request
from gateway.proxy.prepare import RequestContext
from tests.flows import flow_of

TARGET = SimpleNamespace(authority=b"up", base_path=b"")


@pytest.fixture(name="flow")
def _flow(monkeypatch):
    """A flow whose context has a head for every target."""
    monkeypatch.setattr(RequestContext, "head_for", lambda *_: "head")
    return flow_of(Policy("p"))


@pytest.mark.parametrize(
    ("body", "hold", "stated", "upload", "length"),
    [
        (b"abc", 9, 3, None, 3),
        (b"", 9, None, None, 0),
        (b"", 0, 0, None, 0),
        (b"", 0, None, None, NO_BODY),
        (b"", 0, None, SimpleNamespace(length=CHUNKED), CHUNKED),
        (b"", 0, 5, SimpleNamespace(length=5), 5),
    ],
)
def test_length_of_the_body(body, hold, stated, upload, length, flow):
    """A buffered body has its own length, an upload the client's."""
    flow.body, flow.context.buffer_limit, flow.content_length = body, hold, stated
    assert outgoing_request(flow, upload, TARGET).body_length == length


@pytest.mark.parametrize("action", ["allow", "tag", "throttle", "limit"])
def test_verdict_goes_with_a_marked_request(action, flow):
    """The verdict header is sent with requests that are tagged or throttled and pass."""
    flow.action, flow.verdict = action, Verdict(4.0, "tag", "scraping")
    fields = outgoing_request(flow, None, TARGET).fields
    assert bool(fields) is (action in {"tag", "throttle"})


def test_added_usage_chunk_must_not_be_compressed(flow):
    """A chunk that the gateway asked for is removed again, so it must be readable."""
    assert not outgoing_request(flow, None, TARGET).uncompressed
    flow.replace_body(b"{}", usage_requested=True)
    assert outgoing_request(flow, None, TARGET).uncompressed

"""Properties of dialects: any split, any input, unchanged bytes."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import RequestFacts
from gateway.metering.dialects import (
    DIALECTS,
    DialectError,
    UsageFilter,
    find_endpoint,
)
from gateway.metering.dialects.splice import with_usage_asked
from gateway.metering.eventstream import (
    EventStreamError,
    EventStreamReader,
)
from gateway.metering.frames import FrameScanError, FrameScanner
from tests.awsevents import encode_message

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1beta/models/gemini-2.5-pro:generateContent",
    "/v1beta/models/text-embedding-005:predict",
    "/api/chat",
    "/v2/chat",
    "/model/amazon.nova-pro-v1:0/converse",
    "/model/amazon.titan-text-lite/invoke",
)
KINDS = (
    b"application/json",
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/vnd.amazon.eventstream",
    b"",
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "model",
                    "stream",
                    "max_tokens",
                    "n",
                    "usage",
                    "prompt_tokens",
                    "message",
                    "delta",
                    "response",
                    "tokens",
                    "usageMetadata",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
cuts = st.lists(st.integers(0, 4000), max_size=8)


def pieces_of(body: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(body)) for cut in at} | {0, len(body)})
    return [body[a:b] for a, b in itertools.pairwise(places)]


@given(path=st.sampled_from(PATHS), value=values, junk=st.binary(max_size=60))
def test_requests_never_raise_anything_else(path, value, junk):
    """Any request body gives facts or a DialectError."""
    match = find_endpoint("POST", path)
    for body in (json.dumps(value).encode(), junk, b'{"model":' + junk + b"}"):
        try:
            facts = match.dialect.read_request(match, body, "", "application/json")
        except DialectError:
            continue
        assert facts.prompt_bytes >= 0
        assert facts.n >= 1


@given(
    path=st.sampled_from(PATHS),
    kind=st.sampled_from(KINDS),
    value=values,
    junk=st.binary(max_size=80),
    at=cuts,
)
def test_answers_never_raise(path, kind, value, junk, at):
    """An answer of any content type gives non-negative integer counts."""
    match = find_endpoint("POST", path)
    facts = RequestFacts(match.endpoint, stream=True)
    text = json.dumps(value).encode()
    for body in (text, junk, b"data: " + text + b"\n\n" + junk, text + b"\n" + junk):
        meter = match.dialect.open_meter(match, facts, 200, {}.get, kind)
        for piece in pieces_of(body, at):
            meter.feed(piece)
        usage = meter.finish(complete=True)
        if usage is None:
            assert meter.unstated() is not None
        else:
            assert min(usage.prompt, usage.completion, usage.total) >= 0


@given(
    lines=st.lists(
        st.sampled_from(
            [
                b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}',
                b'data: {"choices":[],"prompt_filter_results":[]}',
                b": comment",
                b"event: x\ndata: y",
                b"data: [DONE]",
            ]
        ),
        max_size=6,
    ),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    at=cuts,
)
def test_filter_withholds_only_the_usage_event(lines, end, at):
    """For any line ends and splits, the filter removes only the usage event and keeps
    all other bytes in order.
    """
    asked = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    before = b"".join(line.replace(b"\n", end) + end + end for line in lines)
    done = b"data: [DONE]" + end + end
    match = find_endpoint("POST", "/v1/chat/completions")
    facts = RequestFacts(match.endpoint, stream=True)
    meter = match.dialect.open_meter(match, facts, 200, {}.get, b"text/event-stream")
    sift = UsageFilter(meter)
    body = before + asked + end + end + done
    passed = b"".join(sift.feed(piece) for piece in pieces_of(body, at)) + sift.flush()
    assert passed == before + done
    usage = meter.finish(complete=True)
    assert usage is not None
    assert (usage.prompt, usage.completion) == (3, 4)


@given(
    body=st.dictionaries(st.text(max_size=4), values, max_size=4),
    options=st.none()
    | st.dictionaries(st.sampled_from(["include_usage", "x"]), values),
    indent=st.sampled_from([None, 1]),
)
def test_asking_for_usage_changes_nothing_else(body, options, indent):
    """The edited body is the same JSON except that ``include_usage`` is true."""
    text = json.dumps({**body, "stream_options": options}, indent=indent).encode()
    spliced = with_usage_asked(text, present=True)
    assert spliced is not None
    told = json.loads(spliced)
    asked = told.pop("stream_options")
    assert asked.pop("include_usage") is True
    kept = {k: v for k, v in (options or {}).items() if k != "include_usage"}
    body.pop("stream_options", None)
    # repr, because NaN is not equal to itself
    assert repr((told, asked)) == repr((body, kept))
    absent = json.dumps(body, indent=indent).encode()
    begun = with_usage_asked(absent, present=False)
    assert begun is not None
    assert json.loads(begun)["stream_options"] is not None


@given(payloads=st.lists(st.binary(max_size=50), max_size=5), at=cuts)
def test_event_stream_splits(payloads, at):
    """Event stream messages are read completely for any split."""
    body = b"".join(encode_message("chunk", payload) for payload in payloads)
    reader = EventStreamReader()
    found = [m for piece in pieces_of(body, at) for m in reader.feed(piece)]
    assert found == [("chunk", payload) for payload in payloads]


@given(junk=st.binary(max_size=200), at=cuts)
def test_binary_readers_raise_their_own_error(junk, at):
    """Invalid input gives messages or the reader's own exception."""
    for reader in (EventStreamReader(), FrameScanner(64)):
        try:
            for piece in pieces_of(junk, at):
                list(reader.feed(piece))
        except (EventStreamError, FrameScanError):
            continue


@given(
    status=st.integers(400, 599),
    code=st.text(max_size=12),
    message=st.text(),
    name=st.sampled_from(sorted(DIALECTS)),
)
def test_errors_are_json(status, code, message, name):
    """Every dialect's error body is JSON that contains the message."""
    body = DIALECTS[name].error_body(status, code, message)
    assert message in json.dumps(json.loads(body), ensure_ascii=False) or message

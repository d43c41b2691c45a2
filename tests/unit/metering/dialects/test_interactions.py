"""Gemini's Interactions: requests, answers and their ends."""

import json

import pytest

from gateway.core.model import Usage
from gateway.metering.dialects import ENDED, CountTask, find_endpoint
from gateway.metering.usage import count_usage

PATH = "/v1beta/interactions"
USAGE = {
    "total_tokens": 346,
    "total_input_tokens": 11,
    "input_tokens_by_modality": [{"modality": "text", "tokens": 11}],
    "total_cached_tokens": 5,
    "total_output_tokens": 90,
    "total_tool_use_tokens": 0,
    "total_thought_tokens": 245,
}


def read(body, path=PATH):
    """Match and facts of a request."""
    match = find_endpoint("POST", path)
    text = json.dumps(body).encode()
    return match, match.dialect.read_request(match, text, "", "application/json")


def event(value):
    """One server-sent event, as the API sends it."""
    return f"event: {value['event_type']}\ndata: {json.dumps(value)}\n\n".encode()


def test_requests():
    """Model or agent, stream and cap."""
    match, facts = read(
        {
            "model": "gemini-3.5-flash",
            "input": "Hello",
            "stream": True,
            "generation_config": {"max_output_tokens": 50},
        }
    )
    assert (match.endpoint, match.dialect.name) == ("interactions", "gemini")
    assert (facts.model, facts.stream, facts.max_tokens) == (
        "gemini-3.5-flash",
        True,
        50,
    )
    path = "/v1beta1/projects/p/locations/global/interactions"
    _, facts = read({"agent": "deep-research-pro", "input": "Hello"}, path)
    assert (facts.model, facts.max_tokens) == ("deep-research-pro", None)
    clamped = match.dialect.clamp(b'{"input":"Hello"}', facts, 7, None)
    assert json.loads(clamped)["generation_config"] == {"max_output_tokens": 7}


def test_answer():
    """Thoughts are completion tokens; searches are steps of the answer."""
    match, facts = read({"model": "gemini-3.5-flash", "input": "Hello"})
    meter = match.dialect.open_meter(match, facts, 200, {}.get, b"application/json")
    steps = [
        {"type": "google_search_call", "arguments": {"queries": ["a", "b"]}},
        {"type": "google_search_call", "arguments": {}},
        {"type": "google_search_call"},
        {"type": "model_output", "content": [{"type": "text", "text": "Hi"}]},
    ]
    answer = {"model": "gemini-3.5-flash-001", "steps": steps, "usage": USAGE}
    meter.feed(json.dumps(answer).encode())
    usage = meter.finish(complete=True)
    assert isinstance(usage, Usage)
    assert (usage.prompt, usage.completion, usage.total) == (11, 335, 346)
    assert (usage.cached, usage.reasoning) == (5, 245)
    assert usage.model == "gemini-3.5-flash-001"
    assert dict(usage.units) == {"web_searches": 3}


def test_stream():
    """The last event states the usage, and ends the stream."""
    match, facts = read({"model": "gemini-3.5-flash", "input": "Hello", "stream": True})
    meter = match.dialect.open_meter(match, facts, 200, {}.get, b"text/event-stream")
    meter.feed(
        event({"event_type": "step.delta", "delta": {"type": "text", "text": "Hi"}})
    )
    done = {"model": "gemini-3.5-flash", "usage": USAGE}
    meter.feed(event({"event_type": "interaction.completed", "interaction": done}))
    assert meter.end() == ENDED
    usage = meter.finish(complete=True)
    assert isinstance(usage, Usage)
    assert usage.total == 346


@pytest.mark.parametrize("streamed", [False, True])
def test_text_without_usage(streamed):
    """An answer that states no usage is counted from its text."""
    match, facts = read({"model": "m", "input": "Hello", "stream": streamed})
    kind = b"text/event-stream" if streamed else b"application/json"
    meter = match.dialect.open_meter(match, facts, 200, {}.get, kind)
    if streamed:
        meter.feed(
            event(
                {"event_type": "step.delta", "delta": {"type": "text", "text": "a b"}}
            )
        )
        meter.feed(event({"event_type": "step.stop", "index": 0}))
    else:
        step = {"type": "model_output", "content": [{"type": "text", "text": "a b"}]}
        answer = {"model": "m-1", "steps": [step], "usage": {}}
        meter.feed(json.dumps(answer).encode())
    assert meter.finish(complete=True) is None
    task = meter.unstated()
    assert isinstance(task, CountTask)
    usage = count_usage(task, lambda text: len(text.split()), exact=True)
    assert usage.completion == 2


def test_only_an_output():
    """A total of one side is enough."""
    match, facts = read({"model": "m", "input": "Hello"})
    meter = match.dialect.open_meter(match, facts, 200, {}.get, b"application/json")
    meter.feed(b'{"usage":{"total_output_tokens":4}}')
    usage = meter.finish(complete=True)
    assert isinstance(usage, Usage)
    assert usage.total == 4

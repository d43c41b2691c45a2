"""Work that is paid later: which calls show it, and what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.works import (
    BODY_BYTES,
    WorkReader,
    asks_for_part,
    continued_work,
    find_poll,
    shaped_answer,
)

RUN = {"object": "thread.run", "id": "run_1"}


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "kind", "id_"),
    [
        ("GET", "/v1/responses/resp_1", "responses.retrieve", "response", "resp_1"),
        ("GET", "/openai/v1/responses/r", "responses.retrieve", "response", "r"),
        ("GET", "/openai/responses/r/", "responses.retrieve", "response", "r"),
        ("GET", "/V1/Responses/R", "responses.retrieve", "response", "R"),
        ("GET", "/v1/responses/a%2Db", "responses.retrieve", "response", "a-b"),
        ("POST", "/v1/responses/r/cancel", "responses.cancel", "response", "r"),
        ("POST", "/v1/responses/r/cancel/", "responses.cancel", "response", "r"),
        ("GET", "/v1/threads/t/runs/r", "threads.runs.retrieve", "run", "r"),
        ("GET", "/openai/threads/t/runs/r", "threads.runs.retrieve", "run", "r"),
        ("POST", "/v1/threads/t/runs/r/cancel", "threads.runs.cancel", "run", "r"),
        ("GET", "/v1beta/interactions/i", "interactions.retrieve", "interaction", "i"),
        (
            "POST",
            "/v1beta/interactions/i/cancel",
            "interactions.cancel",
            "interaction",
            "i",
        ),
        ("GET", "/v1/batches/b", "batches.retrieve", "batch", "b"),
        ("GET", "/openai/batches/b", "batches.retrieve", "batch", "b"),
        ("GET", "/v1beta/openai/batches/b", "batches.retrieve", "batch", "b"),
        ("GET", "/v1/batch/jobs/b", "batches.retrieve", "batch", "b"),
        ("POST", "/v1/batches/b/cancel", "batches.cancel", "batch", "b"),
        ("GET", "/v1beta/batches/b", "batches.retrieve", "google_batch", "batches/b"),
        (
            "POST",
            "/v1beta/batches/b:cancel",
            "batches.cancel",
            "google_batch",
            "batches/b",
        ),
        (
            "GET",
            "/v1/messages/batches/m",
            "messages.batches.retrieve",
            "message_batch",
            "m",
        ),
        (
            "GET",
            "/anthropic/v1/messages/batches/m/results",
            "messages.batches.results",
            "message_batch",
            "m",
        ),
        (
            "POST",
            "/v1/messages/batches/m/cancel",
            "messages.batches.cancel",
            "message_batch",
            "m",
        ),
    ],
)
def test_polls(method, path, endpoint, kind, id_):
    """Calls that show work, and the id that the path names."""
    poll = find_poll(method, path)
    assert poll == (endpoint, kind, id_)
    match = find_endpoint(method, path)
    assert (match.endpoint, match.work, match.polled) == poll
    assert not match.metered


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"),
        ("POST", "/v1/responses/r"),
        ("DELETE", "/v1/responses/r"),
        ("HEAD", "/v1/responses/r"),
        ("GET", "/v1/responses"),
        ("GET", "/v1/responses/r/input_items"),
        ("GET", "/v1/threads/t/runs"),
        ("GET", "/v1/threads/t/runs/r/steps/s"),
        ("GET", "/v1/batches"),
        ("GET", "/v1/files/f"),
        ("POST", "/v1/cancel"),
    ],
)
def test_other_calls_are_no_polls(method, path):
    """Lists, parts and other methods."""
    assert find_poll(method, path) is None
    assert not find_endpoint(method, path).polled


def test_a_call_that_goes_on():
    """It is metered, and names the run."""
    path = "/v1/threads/t/runs/r%31/submit_tool_outputs"
    assert continued_work(path) == "r1"
    match = find_endpoint("POST", path)
    assert (match.metered, match.work, match.polled) == (True, "run", "r1")
    assert continued_work("/v1/threads/t/runs") == ""


@pytest.mark.parametrize(
    ("kind", "query", "part"),
    [
        ("interaction", "fields=id", True),
        ("google_batch", "alt=json&%24FIELDS=", True),
        ("google_batch", "alt=json", False),
        ("response", "fields=id", False),
    ],
)
def test_asks_for_part(kind, query, part):
    """Google's servers leave members out where asked; others ignore it."""
    assert asks_for_part(kind, query) is part


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("fields=candidates", "fields"),
        ("alt=sse&%24Fields=x", "$fields"),
        ("alt=proto", "alt"),
        ("%24ALT=media", "$alt"),
        ("alt=json&alt=proto", "alt"),
        ("callback=f", "callback"),
        ("$httpHeaders=X-Goog-FieldMask:x", "$httpheaders"),
        ("alt=sse&key=k", ""),
        ("alt=JSON&prettyPrint=false", ""),
        ("alt=", ""),
        ("&".join(["a=1"] * 5000), ""),
    ],
)
def test_shaped_answer(query, name):
    """A query that leaves usage out of the answer, or writes it in an unread form."""
    assert shaped_answer(query) == name


def read(kind: str, body: Any, framing: str = "json", size: int = 7) -> Any:
    """The state of an answer that comes in pieces."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader = WorkReader(kind, framing)
    for at in range(0, len(raw), size):
        reader.feed(raw[at : at + size])
    return reader.state()


def counts(**given: int) -> dict[str, Any]:
    """Of the requests of a batch."""
    return {"request_counts": given}


@pytest.mark.parametrize(
    ("kind", "body", "state"),
    [
        ("response", {"id": "r", "status": "queued"}, ("r", "pending")),
        ("response", {"id": "r", "status": "completed"}, ("r", "done")),
        ("response", {"id": "r", "status": "failed"}, ("r", "failed")),
        ("response", {"id": "r", "status": "cancelled"}, ("r", "stopped")),
        ("response", {"id": "r", "status": "new"}, None),
        ("response", {"id": "r", "status": 5}, None),
        ("response", {"id": "r"}, None),
        ("response", {"status": "queued"}, None),
        ("response", b"[]", None),
        ("response", b'{"id":"r","status":"que', None),
        ("response", b"\xff", None),
        ("response", b"", None),
        ("run", {**RUN, "status": "requires_action"}, ("run_1", "pending")),
        ("run", {**RUN, "object": "thread.run.step", "status": "completed"}, None),
        ("interaction", {"id": "i", "status": "requires_action"}, ("i", "done")),
        ("interaction", {"id": "i", "status": "in_progress"}, ("i", "pending")),
        ("batch", {"id": "b", "status": "validating"}, ("b", "pending")),
        ("batch", {"id": "b", "status": "completed"}, ("b", "done")),
        (
            "batch",
            {"id": "b", "status": "expired", **counts(completed=3, failed=1)},
            ("b", "stopped"),
        ),
        (
            "batch",
            {"id": "b", "status": "cancelled", **counts(completed=0)},
            ("b", "failed"),
        ),
        ("batch", {"id": "b", "status": "failed"}, ("b", "failed")),
        ("batch", {"id": "b", "status": "completed", "request_counts": 5}, None),
        (
            "message_batch",
            {"id": "m", "processing_status": "in_progress", **counts(succeeded=0)},
            ("m", "pending"),
        ),
        (
            "message_batch",
            {"id": "m", "processing_status": "ended", **counts(succeeded=1)},
            ("m", "pending"),
        ),
        (
            "message_batch",
            {"id": "m", "processing_status": "ended", **counts(succeeded=0)},
            ("m", "failed"),
        ),
        (
            "google_batch",
            {"name": "n", "metadata": {"state": "BATCH_STATE_RUNNING"}},
            ("n", "pending"),
        ),
        ("google_batch", {"name": "n", "state": "JOB_STATE_FAILED"}, ("n", "failed")),
        ("google_batch", {"name": "n", "done": True}, ("n", "done")),
        ("google_batch", {"name": "n", "done": True, "error": {}}, ("n", "failed")),
        ("google_batch", {"name": "n", "done": False}, None),
        ("google_batch", {"done": True}, None),
    ],
)
def test_states(kind, body, state):
    """What a body says."""
    found = read(kind, body)
    assert found == state or found[:2] == state


def test_how_many_requests_succeeded():
    """As a batch counts them."""
    body = {"id": "b", "status": "completed", **counts(total=9, completed=7, failed=2)}
    assert read("batch", body).answers == 7


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_events(size, end):
    """The last event that names a state of the work itself counts."""
    given = [
        {"response": {"id": "r", "status": "queued"}},
        {"response": {"id": "r", "status": "completed"}},
        {"item": {"id": "m", "status": "in_progress"}},
        {"response": "odd", "status": "queued"},
        {"text": 'with "status" inside'},
        {"delta": "x"},
    ]
    raw = "".join(f"data: {json.dumps(one)}{end}" for one in given).encode()
    assert read("response", raw, "sse", size)[:2] == ("r", "done")
    assert read("response", raw.rstrip(), "sse", size)[:2] == ("r", "done")


def test_events_of_runs():
    """Their data is the run; steps have a status of their own."""
    step = {"object": "thread.run.step", "id": "s", "status": "completed"}
    given = [{**RUN, "status": "queued"}, step]
    raw = "".join(f"event: x\ndata: {json.dumps(one)}\n\n" for one in given)
    assert read("run", raw.encode(), "sse")[:2] == ("run_1", "pending")


@pytest.mark.parametrize("framing", ["json", "sse"])
def test_a_large_answer_is_not_kept(framing):
    """Nor are events of its size; later ones are read."""
    body = {"id": "r", "status": "queued", "output": "x" * 2 * BODY_BYTES}
    raw = f"data: {json.dumps({'response': body})}\n\n" if framing == "sse" else ""
    raw = raw or json.dumps(body)
    assert read("response", raw.encode(), framing, 100_000) is None
    if framing == "sse":
        last = b'data: {"response":{"id":"r","status":"failed"}}\n\n'
        found = read("response", raw.encode() + last, framing, 100_000)
        assert found[:2] == ("r", "failed")

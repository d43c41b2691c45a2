"""The usage of batches that have ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects import find_endpoint, results
from gateway.metering.dialects.results import sum_usage

MESSAGE = {
    "model": "claude-x",
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3},
}
GOOGLE = {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2}}


def meter_of(path: str, status: int = 200) -> Any:
    """The meter of a poll."""
    match = find_endpoint("GET", path)
    facts = RequestFacts(match.endpoint)
    return match.dialect.open_meter(match, facts, status, lambda _: None, b"")


def feed(meter: Any, raw: bytes, size: int = 9, *, complete: bool = True) -> Usage:
    """The usage of an answer that comes in pieces."""
    for at in range(0, len(raw), size):
        meter.feed(raw[at : at + size])
    return meter.finish(complete)


def lines(*given: Any) -> bytes:
    """Results, one in each line."""
    return "\n".join(json.dumps(one) for one in given).encode() + b"\n"


def result(message: Any = MESSAGE) -> dict[str, Any]:
    """A result that succeeded."""
    return {"custom_id": "a", "result": {"type": "succeeded", "message": message}}


RESULTS = "/v1/messages/batches/m/results"
ERRORED = {"custom_id": "b", "result": {"type": "errored", "error": {}}}


@pytest.mark.parametrize("size", [1, 9, 10_000])
def test_results(size):
    """The sum over those that succeeded, however the bytes come."""
    raw = lines(result(), ERRORED, result(), {**result(), "more": 1})
    for given in (raw, raw.rstrip(), b"\r\n" + raw):
        usage = feed(meter_of(RESULTS), given, size)
        assert (usage.prompt, usage.completion, usage.total) == (39, 15, 54)
        assert (usage.cached, usage.model, usage.source) == (9, "claude-x", "upstream")


@pytest.mark.parametrize(
    "raw",
    [
        lines(result())[:-9],
        b"{}\n" + lines(result()),
        lines(result({"usage": {"input_tokens": -5}})),
        lines(result(5)),
        b"junk",
    ],
)
def test_results_that_cannot_be_read(raw):
    """Nothing is settled: the sum would be too small."""
    assert feed(meter_of(RESULTS), raw).source == "none"


def test_results_that_are_cut_or_refused():
    """Nothing either."""
    assert feed(meter_of(RESULTS), lines(result()), complete=False).source == "none"
    assert feed(meter_of(RESULTS, 404), lines(result())).source == "none"
    assert feed(meter_of(RESULTS), lines(ERRORED)).source == "none"


def test_a_result_beyond_the_bound(monkeypatch):
    """It is not kept, and nothing is settled."""
    monkeypatch.setattr(results, "LINE_BYTES", 50)
    meter = meter_of(RESULTS)
    assert feed(meter, lines(result())).source == "none"


def operation(name: str = "inlinedResponses", *given: Any) -> dict[str, Any]:
    """Google's batch that has ended."""
    return {"response": {name: {name: list(given)}}}


ANSWER = {"response": GOOGLE}
BATCH = "/v1beta/batches/b"


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (operation("inlinedResponses", ANSWER, {"error": {}}, ANSWER), 14),
        (operation("inlinedEmbedContentResponses", ANSWER), 7),
        (
            {
                "metadata": {
                    "output": operation("inlinedResponses", ANSWER)["response"]
                },
                **operation("inlinedResponses", ANSWER),
            },
            7,
        ),
        (
            {"metadata": {"output": operation("inlinedResponses", ANSWER)["response"]}},
            7,
        ),
        ({"response": {"inlinedResponses": {}}}, 0),
        ({"response": {"responsesFile": "f"}}, 0),
        ({"metadata": {"state": "BATCH_STATE_PENDING"}}, 0),
        ({}, 0),
        ({"response": 5}, 0),
    ],
)
def test_googles_operation(body, prompt):
    """The sum over the answers in it, each once."""
    usage = feed(meter_of(BATCH), json.dumps(body).encode())
    assert (usage.prompt, usage.source != "none") == (prompt, prompt > 0)


def test_an_operation_that_is_cut_or_too_large(monkeypatch):
    """Nothing is settled."""
    raw = json.dumps(operation("inlinedResponses", ANSWER)).encode()
    assert feed(meter_of(BATCH), raw[:-5]).source == "none"
    assert feed(meter_of(BATCH), raw, complete=False).source == "none"
    monkeypatch.setattr(results, "BODY_BYTES", 20)
    meter = meter_of(BATCH)
    assert feed(meter, raw).source == "none"


def test_units_and_costs_add_up():
    """What is billed beside tokens, and a cost that an answer states."""
    one = Usage(1, 2, 3, units=(("images", 2.0),), cost_usd=0.5, source="upstream")
    two = Usage(1, 2, 3, units=(("images", 1.0), ("pages", 1.0)), source="upstream")
    total = sum_usage([one, two, one])
    assert dict(total.units) == {"images": 5.0, "pages": 1.0}
    assert (total.total, total.cost_usd) == (9, 1.0)
    assert total.answers == 3
    assert sum_usage([]) == Usage(answers=0)

"""Cost of the dialects in microseconds; printed, not asserted.

usage: python tests/bench/bench_dialects.py
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from functools import partial

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects import UsageFilter, find_endpoint
from gateway.metering.dialects.requests import refuse_costly
from gateway.metering.inflate import Inflater
from gateway.metering.prices import PriceTable, packaged_prices
from gateway.metering.usage import CompletionExpectation, PromptEstimator, weigh

CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,'
    b'"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"word "},'
    b'"finish_reason":null}],"usage":null}\n\n'
)
TAIL = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,'
    b'"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":350,'
    b'"completion_tokens":50,"total_tokens":400}}\n\ndata: [DONE]\n\n'
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"'
    + b"word "
    * 100
    + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":350,'
    b'"completion_tokens":100,"total_tokens":450}}'
)


def prompt(size: int, stream: str = "false") -> bytes:
    phrase = b"lorem ipsum dolor sit amet "
    return (
        b'{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a '
        b'helpful assistant."},{"role":"user","content":"'
        + phrase * -(-size // len(phrase))
        + b'"}],"max_tokens":256,"temperature":0.7,"stream":'
        + stream.encode()
        + b"}"
    )


def best_us(work: Callable[[], object], rounds: int = 200) -> float:
    best = float("inf")
    for _ in range(60):
        begun = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - begun) / rounds)
    return best * 1e6


def show(
    name: str, work: Callable[[], object], rounds: int = 200, per: int = 1
) -> None:
    sys.stdout.write(f"{name:58s} {best_us(work, min(rounds, 200)) / per:9.3f} us\n")


def main() -> None:
    path = "/v1/chat/completions"
    match = find_endpoint("POST", path)
    dialect = match.dialect
    show("find_endpoint", lambda: find_endpoint("POST", path))
    small, large, streamed = prompt(1500), prompt(40000), prompt(1500, "true")
    kind = "application/json"
    show("read_request 1.5 KB", lambda: dialect.read_request(match, small, "", kind))
    show(
        "read_request 40 KB",
        lambda: dialect.read_request(match, large, "", kind),
        500,
    )
    facts = dialect.read_request(match, streamed, "", kind)
    show("ask_usage 1.5 KB", lambda: dialect.ask_usage(streamed, facts))
    plain = dialect.read_request(match, small, "", kind)
    show("clamp 1.5 KB", lambda: dialect.clamp(small, plain, 100, 1))
    headers: Callable[[bytes], bytes | None] = {}.get

    def json_answer() -> Usage | None:
        meter = dialect.open_meter(match, plain, 200, headers, b"application/json")
        meter.feed(ANSWER)
        return meter.finish(complete=True)

    def stream_answer(count: int = 50, *, filtered: bool = False) -> Usage | None:
        meter = dialect.open_meter(match, facts, 200, headers, b"text/event-stream")
        feed = UsageFilter(meter).feed if filtered else meter.feed
        for _ in range(count):
            feed(CHUNK)
        feed(TAIL)
        return meter.finish(complete=True)

    show("JSON answer 0.7 KB, open to finish", json_answer)
    show("stream of 50 chunks, open to finish", stream_answer, 200)
    show("stream of 0 chunks, open to finish", lambda: stream_answer(0), 500)
    show("... each chunk of 2,000 (compacting)", lambda: stream_answer(2000), 3, 2000)
    show(
        "filtered stream of 50 chunks, open to finish",
        lambda: stream_answer(50, filtered=True),
        200,
    )
    meter = dialect.open_meter(match, facts, 200, headers, b"text/event-stream")
    show("meter.feed, one chunk", lambda: meter.feed(CHUNK), 300)
    halves = CHUNK[:90], CHUNK[90:]

    def split_feed() -> None:
        for half in halves:
            meter.feed(half)

    show("meter.feed, one chunk in two pieces", split_feed, 300)
    sift = UsageFilter(
        dialect.open_meter(match, facts, 200, headers, b"text/event-stream")
    )
    show("UsageFilter.feed, one chunk", lambda: sift.feed(CHUNK), 300)
    show_rest(plain)


def show_rest(facts: RequestFacts) -> None:
    estimator, expected = PromptEstimator(), CompletionExpectation()
    usage = Usage(350, 100, 450, 100, 20, source="upstream")
    estimator.learn("t", "gpt-4o-mini", facts, 350)
    expected.learn(("acme", "alice"), 100)
    show(
        "PromptEstimator.estimate",
        lambda: estimator.estimate("t", "gpt-4o-mini", facts),
    )
    show(
        "PromptEstimator.learn", lambda: estimator.learn("t", "gpt-4o-mini", facts, 350)
    )
    bounds = expected.bounds
    show("CompletionExpectation.bounds", lambda: bounds("alice", facts, 4096))
    show("weigh with weights", lambda: weigh(usage, {"cached": 0.1}))
    table = PriceTable.parse(packaged_prices())
    show("cost_nanos", lambda: table.cost_nanos("gpt-4o-mini-2024-07-18", usage))
    coded = gzip.compress(ANSWER)
    show("gzip answer 0.7 KB decoded", lambda: Inflater("gzip", 1 << 20).feed(coded))
    junk = b'{"messages":[' + b"[1]," * (8 << 20) + b"1]}"

    def refuse() -> None:
        try:
            refuse_costly(junk)
        except Exception:  # noqa: BLE001  only its time is of interest
            return

    show("refusing 32 MiB of brackets", refuse, 5)
    for unit in (b"{}", b"[]", b"1", b'""', b'{"a":1}'):
        lenient = b'{"model":"m","x":NaN,"messages":[' + (unit + b",") * 4_000 + b"1]}"
        match = find_endpoint("POST", "/v1/chat/completions")
        read = partial(match.dialect.read_request, match, lenient, "", "")
        show(f"lenient parser, 4,000 times {unit.decode()}", read, 20)
    embedding = b'{"data":[' + b"0.0123," * 600_000 + b'1],"usage":{"total_tokens":9}}'
    match = find_endpoint("POST", "/v1/embeddings")

    def big_answer() -> Usage | None:
        opened = match.dialect.open_meter(
            match, facts, 200, {}.get, b"application/json"
        )
        for at in range(0, len(embedding), 65536):
            opened.feed(embedding[at : at + 65536])
        return opened.finish(complete=True)

    show("embedding answer of 4 MB in 64 KiB pieces", big_answer, 5)


if __name__ == "__main__":
    main()

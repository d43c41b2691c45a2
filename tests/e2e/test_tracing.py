"""OpenTelemetry: one span a request, in the caller's trace, and never in its way."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

import pytest

from tests import gateway_process
from tests.gateway_process import Gateway, MockLLM, call, key_hash, until
from tests.gateway_process import running_gateway as running
from tests.otlp import MISSING, Receiver, Span, running_receiver
from tests.ports import free_port

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="the exporter is not installed"
)
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]
SERVER = 2
TRACE, CALLER = f"{0xABC:032x}", f"{0xDEF:016x}"
KEY = "sk-qzvxkjwqzvxkjw"
PROMPT = "the zyxwquv code"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CHAT = "/v1/chat/completions"


@pytest.fixture(name="receiver")
def _receiver(monkeypatch):
    """A collector, and the variables that point to it."""
    with running_receiver() as receiver:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setenv(ENDPOINT, receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        yield receiver


def config(mock: MockLLM, more: str = "") -> str:
    return (
        f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n'
        '[[upstream]]\nname = "down"\nprefix = "/down"\nurl = "http://127.0.0.1:9"\n'
        f'[[tenant]]\nname = "acme"\napi_keys = ["{key_hash(KEY)}"]\n{more}'
    )


def ask(gateway: Gateway, path: str = CHAT, **more: Any) -> int:
    """The status of one call; ``headers`` beside what goes into the body."""
    headers = more.pop("headers", {})
    said = [{"role": "user", "content": PROMPT}]
    body = {"model": "gpt-4o", "messages": said} | more
    return call("POST", gateway.url + path, body, key=KEY, headers=headers)[0]


def parent(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}


def one_span(receiver: Receiver, **wanted: Any) -> Span:
    """The only span there is, waited for."""
    until(lambda: receiver.spans(**wanted), why=f"a span with {wanted}")
    (span,) = receiver.spans(**wanted)
    return span


def sent_parents(mock: MockLLM, tag: str) -> list[str]:
    """Every ``traceparent`` that the upstream has seen of a request."""
    fields = mock.seen(tag)["fields"]
    return [value for name, value in fields if name.lower() == "traceparent"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_between_caller_and_upstream(mock, receiver, stream):
    """Child of the caller, parent of the upstream; attributes of HTTP and GenAI."""
    tag = f"span-{stream}"
    headers = parent() | {"x-mock-tag": tag, "tracestate": "a=b", "x-mock-cached": "1"}
    with running(config(mock)) as gateway:
        assert ask(gateway, f"{CHAT}?q=1", stream=stream, headers=headers) == 200
        record = gateway.record()
        span = one_span(receiver)
        assert receiver.paths == {"/v1/traces"}
    assert (span.trace, span.parent, span.kind) == (TRACE, CALLER, SERVER)
    assert sent_parents(mock, tag) == [f"00-{TRACE}-{span.id}-01"]
    assert ["tracestate", "a=b"] in [
        [name.lower(), value] for name, value in mock.seen(tag)["fields"]
    ]
    assert (span.name, span.failed) == ("POST chat.completions", False)
    assert span.took_s == pytest.approx(record["duration_ms"] / 1e3, abs=1e-5)
    assert abs(span.began - time.time()) < 60
    assert span.resource["service.name"] == "tidegate"
    expected = {
        "http.request.method": "POST",
        "url.path": CHAT,
        "url.scheme": "http",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "user.id": record["user"],
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": record["prompt_tokens"],
        "gen_ai.usage.output_tokens": record["completion_tokens"],
        "tidegate.tenant": "acme",
        "tidegate.request_id": record["request_id"],
        "tidegate.action": "allow",
        "tidegate.outcome": "ok",
        "tidegate.score": 0.0,
    }
    assert expected.items() <= span.attributes.items()
    assert record["prompt_tokens"]
    assert record["completion_tokens"]
    assert span.attributes.get("gen_ai.request.stream", False) is stream
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is stream


def test_without_a_parent_a_trace_begins_here(mock, receiver):
    """A new trace, which the upstream is part of; so too after what is no parent."""
    bad = {"traceparent": "00-zz", "tracestate": "a=b"}
    with running(config(mock)) as gateway:
        for tag, headers in {"root": {}, "bad": bad}.items():
            assert ask(gateway, headers=headers | {"x-mock-tag": tag}) == 200
            (line,) = sent_parents(mock, tag)
            _, trace, span_id, flags = line.split("-")
            assert int(flags, 16) & 1
            until(lambda trace=trace: trace in [s.trace for s in receiver.spans()])
            (span,) = [s for s in receiver.spans() if s.trace == trace]
            assert (span.id, span.parent) == (span_id, "")
    names = {name.lower() for name, _ in mock.seen("bad")["fields"]}
    assert "tracestate" not in names


def test_what_the_caller_did_not_sample_has_no_span(mock, receiver, monkeypatch):
    """An unsampled parent passes unchanged; without one the ratio decides."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with running(config(mock)) as gateway:
        assert ask(gateway, headers=parent("00") | {"x-mock-tag": "not"}) == 200
        assert ask(gateway, headers={"x-mock-tag": "ratio"}) == 200
        assert ask(gateway, headers=parent()) == 200
        assert one_span(receiver).parent == CALLER
    assert sent_parents(mock, "not") == [parent("00")["traceparent"]]
    (line,) = sent_parents(mock, "ratio")
    assert not int(line.rpartition("-")[2], 16) & 1


def test_failures_and_refusals_say_so(mock, receiver):
    """The upstream's fault is an error; a limit is none, and is named."""
    limits = (
        '[policy.default]\nlimits = [{ per = "user", requests = 2, window = "1m" }]'
    )
    with running(config(mock, limits)) as gateway:
        assert ask(gateway, headers={"x-mock-status": "500"}) == 500
        assert ask(gateway, f"/down{CHAT}") == 502
        assert ask(gateway) == 429
        until(lambda: len(receiver.spans()) == 3)
    broken = one_span(receiver, **{"http.response.status_code": 500})
    down = one_span(receiver, **{"http.response.status_code": 502})
    limited = one_span(receiver, **{"http.response.status_code": 429})
    assert broken.failed
    assert broken.attributes["error.type"] == "500"
    assert down.failed
    assert down.attributes["error.type"] == "upstream_error"
    assert not limited.failed
    assert "error.type" not in limited.attributes
    assert limited.attributes["tidegate.action"] == "limit"
    assert limited.attributes["tidegate.limit"] == "user.requests.1m"
    assert "gen_ai.usage.input_tokens" not in limited.attributes


def test_no_key_and_no_prompt_is_sent(mock, receiver):
    """Neither in attributes nor anywhere else of what the collector gets."""
    query = f"/v1beta/models/g:generateContent?key={KEY}"
    said = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}
    with running(config(mock)) as gateway:
        assert ask(gateway) == 200
        assert ask(gateway, stream=True, headers={"x-mock-usage": "none"}) == 200
        assert ask(gateway, headers={"x-mock-status": "400"}) == 400
        assert ask(gateway, f"/down{CHAT}") == 502
        call("POST", gateway.url + query, said)
        call("POST", f"{gateway.url}{CHAT}", said, key=f"{KEY}wrong")
        until(lambda: len(receiver.spans()) == 6)
    assert CHAT.encode() in receiver.raw
    assert not re.search(b"qzvxkjw|zyxwquv", receiver.raw, re.IGNORECASE)


def test_a_collector_that_is_away_is_nobodys_trouble(mock, monkeypatch, receiver):
    """Requests go on; what finds no room is counted, and spans come when it is back."""
    port = free_port()
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "5")
    name = 'tidegate_spans_total{{result="{}"}}'.format
    with running(config(mock)) as gateway:
        assert {ask(gateway) for _ in range(40)} == {200}
        until(
            lambda: (
                ask(gateway) == 200
                and gateway.metrics().get(name("turned_away"), 0) > 0
            )
        )
        until(lambda: gateway.status()["records"]["traces"]["error"])
        with running_receiver(port) as back:
            until(lambda: ask(gateway) == 200 and back.spans(), why="a span")
        for count in ("failed", "exported", "turned_away"):
            until(
                lambda count=count: gateway.status()["records"]["traces"][count],
                why=count,
            )


def test_a_collector_that_never_answers_does_not_hold_the_end_up(mock, receiver):
    """Neither requests nor the shutdown wait for it."""
    receiver.delay_s = 300.0
    with running(config(mock)) as gateway:
        assert {ask(gateway) for _ in range(5)} == {200}
        until(lambda: receiver.calls, why="an export")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0


def test_without_the_packages_it_says_what_to_install(
    mock, receiver, tmp_path, monkeypatch
):
    """One warning; the gateway serves, and headers pass unchanged."""
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("")
    path = f"{tmp_path}:{gateway_process.REPOSITORY}"
    monkeypatch.setattr(gateway_process, "REPOSITORY", path)
    with running(config(mock)) as gateway:
        assert ask(gateway, headers=parent() | {"x-mock-tag": "off"}) == 200
        hint = "pip install 'tidegate[otel]'"
        until(lambda: hint in gateway.log())
        assert gateway.log().count(hint) == 1
        assert gateway.status()["records"]["traces"] is None
    assert sent_parents(mock, "off") == [parent()["traceparent"]]
    assert not receiver.calls


def test_off_leaves_no_trace(mock):
    """No endpoint: no thread, no metric, the header as it came."""
    with running(config(mock)) as gateway:
        assert ask(gateway, headers=parent() | {"x-mock-tag": "none"}) == 200
        assert gateway.status()["records"]["traces"] is None
        (control,) = gateway.children("control")
        assert not [m for m in control.memory_maps() if "google/_upb" in m.path]
    assert sent_parents(mock, "none") == [parent()["traceparent"]]

"""OpenTelemetry: one span for each request, in the caller's trace."""

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
    """A collector, and the environment variables that point to it."""
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
    """Send one call and return its status; ``headers`` apart, keywords go into the
    body.
    """
    headers = more.pop("headers", {})
    said = [{"role": "user", "content": PROMPT}]
    body = {"model": "gpt-4o", "messages": said} | more
    return call("POST", gateway.url + path, body, key=KEY, headers=headers)[0]


def parent(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}


def one_span(receiver: Receiver, **wanted: Any) -> Span:
    """Wait for the only span with these attributes."""
    until(lambda: receiver.spans(**wanted), why=f"a span with {wanted}")
    (span,) = receiver.spans(**wanted)
    return span


def sent_parents(mock: MockLLM, tag: str) -> list[str]:
    """Every ``traceparent`` of a request as the upstream received it."""
    fields = mock.seen(tag)["fields"]
    return [value for name, value in fields if name.lower() == "traceparent"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_between_caller_and_upstream(mock, receiver, stream):
    """The span of a request is the child of the caller's and the parent of the
    upstream's, with HTTP and GenAI attributes.
    """
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


def test_without_a_valid_parent_a_new_trace_starts(mock, receiver):
    """Without a ``traceparent``, or with an invalid one, a new trace starts and is
    passed to the upstream without ``tracestate``.
    """
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


def test_an_unsampled_parent_has_no_span(mock, receiver, monkeypatch):
    """An unsampled parent is passed on unchanged and has no span; without a parent the
    sampling ratio decides.
    """
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with running(config(mock)) as gateway:
        assert ask(gateway, headers=parent("00") | {"x-mock-tag": "not"}) == 200
        assert ask(gateway, headers={"x-mock-tag": "ratio"}) == 200
        assert ask(gateway, headers=parent()) == 200
        assert one_span(receiver).parent == CALLER
    assert sent_parents(mock, "not") == [parent("00")["traceparent"]]
    (line,) = sent_parents(mock, "ratio")
    assert not int(line.rpartition("-")[2], 16) & 1


def test_spans_of_failures_and_refusals(mock, receiver):
    """Upstream failures set the span's error status; a refusal by a limit does not, and
    names the limit.
    """
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
    """No key and no prompt is in the exported bytes."""
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


def test_a_collector_that_is_down_affects_no_request(mock, monkeypatch, receiver):
    """While the collector is down requests are served and dropped spans are counted;
    exports resume when it is back.
    """
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


def test_a_collector_that_never_answers_delays_nothing(mock, receiver):
    """Requests and the shutdown do not wait for a collector that never answers."""
    receiver.delay_s = 300.0
    with running(config(mock)) as gateway:
        assert {ask(gateway) for _ in range(5)} == {200}
        until(lambda: receiver.calls, why="an export")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0


def test_missing_packages_are_named_in_one_warning(
    mock, receiver, tmp_path, monkeypatch
):
    """Without the OpenTelemetry packages one warning names what to install, and
    requests are served with unchanged headers.
    """
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


def test_without_an_endpoint_tracing_is_not_loaded(mock):
    """Without an endpoint the exporter is not loaded and the ``traceparent`` is passed
    on unchanged.
    """
    with running(config(mock)) as gateway:
        assert ask(gateway, headers=parent() | {"x-mock-tag": "none"}) == 200
        assert gateway.status()["records"]["traces"] is None
        (control,) = gateway.children("control")
        assert not [m for m in control.memory_maps() if "google/_upb" in m.path]
    assert sent_parents(mock, "none") == [parent()["traceparent"]]

"""Records as OpenTelemetry spans, made and sent by a thread of control.

Records wait in a bounded queue; when it is full, new ones are dropped and counted. The
thread turns each into a SERVER span for the official exporter, which retries for
``OTEL_EXPORTER_OTLP_TIMEOUT`` (10 s); a batch not accepted by then is counted as failed
and dropped.

A span contains only fields of the record: no prompt, key, query or reasons. Attributes
follow the semantic conventions for HTTP servers and for generative AI; all others are
named ``tidegate.*``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.core.model import NO_TRACE, OPENED, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

Attribute = str | int | float | bool
# Longest attribute, characters: clients choose model names and paths.
MAX_TEXT = 256
# Longest time for the last batch when the gateway ends, seconds.
CLOSE_S = 3.0
SCOPE = "tidegate"
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY"}
    | {"TRACE"}
)
# Endpoints to ``gen_ai.operation.name``. Others keep their own name, which the
# conventions allow.
_OPERATIONS = {
    "chat.completions": "chat",
    "responses": "chat",
    "messages": "chat",
    "chat": "chat",
    "converse": "chat",
    "threads.runs": "invoke_agent",
    "completions": "text_completion",
    "complete": "text_completion",
    "generate": "text_completion",
    "generate_content": "generate_content",
    "embeddings": "embeddings",
    "embed": "embeddings",
    "embed_content": "embeddings",
}
_NO_GENERATION = frozenset({"other", "models", ""})
# Outcomes that are failures regardless of the status.
_FAILED = frozenset({"timeout", "upstream_error"})
_SERVER_ERROR = 500


def span_name(r: RequestRecord) -> str:
    """Name of the span, of low cardinality: method and endpoint, never the path."""
    method = r.method if r.method in _METHODS else "HTTP"
    return method if r.endpoint in _NO_GENERATION else f"{method} {r.endpoint}"


def error_type(r: RequestRecord) -> str:
    """``error.type`` of a failed exchange; "" without failure or by the client's fault."""
    if r.outcome in _FAILED:
        return r.outcome
    return str(r.status) if r.status >= _SERVER_ERROR else ""


def attributes_of(r: RequestRecord, scheme: str = "http") -> dict[str, Attribute]:
    """Attributes of the span of a request."""
    found: dict[str, Attribute | None] = {
        "http.request.method": r.method if r.method in _METHODS else "_OTHER",
        "http.request.method_original": None if r.method in _METHODS else r.method,
        "url.path": r.path,
        "url.scheme": scheme,
        "http.response.status_code": None if _is_unsent(r) else r.status,
        "client.address": r.client_ip or None,
        "error.type": error_type(r) or None,
        "user.id": r.user or None,
        "tidegate.tenant": r.tenant or None,
        "tidegate.request_id": r.request_id,
        "tidegate.endpoint": r.endpoint,
        "tidegate.upstream": r.upstream or None,
        "tidegate.action": r.action,
        # False: observe mode decided the action but let the request pass.
        "tidegate.enforced": not r.would,
        "tidegate.limit": r.limit,
        "tidegate.score": r.score,
        "tidegate.class": r.cls,
        "tidegate.outcome": r.outcome,
        "tidegate.overhead_ms": r.overhead_ms,
    }
    if r.endpoint not in _NO_GENERATION:
        found |= _generation(r)
    return {
        key: value[:MAX_TEXT] if isinstance(value, str) else value
        for key, value in found.items()
        if value is not None
    }


def _generation(r: RequestRecord) -> Mapping[str, Attribute | None]:
    """Attributes of the conventions for generative AI."""
    found: dict[str, Attribute | None] = {
        "gen_ai.operation.name": _OPERATIONS.get(r.endpoint, r.endpoint),
        "gen_ai.request.model": r.model or None,
        "gen_ai.request.stream": r.stream or None,
        "tidegate.usage_source": r.usage_source,
    }
    if r.stream and r.ttfb_ms is not None:
        found["gen_ai.response.time_to_first_chunk"] = r.ttfb_ms / 1e3
    if r.usage_source != "none":
        found |= {
            "gen_ai.usage.input_tokens": r.prompt_tokens,
            "gen_ai.usage.output_tokens": r.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": r.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": r.reasoning_tokens or None,
            "tidegate.usd": r.usd,
        }
    return found


def _is_unsent(r: RequestRecord) -> bool:
    """Whether no response was sent: records state 499 for a client that left before."""
    return not r.status or (r.outcome == "client_closed" and r.ttfb_ms is None)


class TraceSink:
    """Queue of records and the thread that exports them. ``take`` neither blocks nor
    raises.

    ``queue``: most spans in it; ``batch``: spans in one export; ``delay_s``: longest wait
    for a full batch. ``environ``: names of the service, as the SDK reads them.
    ``open_exporter`` runs in the thread, because its imports would block the event loop
    too long. ``on_state`` is called in the thread when the error text changes, with "" on
    recovery.
    """

    def __init__(
        self,
        *,
        queue: int,
        batch: int,
        delay_s: float,
        scheme: str = "http",
        version: str = "",
        environ: Mapping[str, str] | None = None,
        on_state: Callable[[str], None] = lambda _problem: None,
        open_exporter: Callable[[], SpanExporter] | None = None,
    ) -> None:
        self._capacity, self._batch, self._delay_s = queue, batch, delay_s
        self._scheme, self._version = scheme, version
        self._environ = environ or {}
        self._on_state = on_state
        self._open_exporter = open_exporter or _official_exporter
        self._queue: deque[RequestRecord] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(
            target=self._run, name="tidegate-traces", daemon=True
        )
        self._exporter: SpanExporter | None = None
        self.exported = 0
        """Spans that the collector accepted."""
        self.dropped = 0
        """Spans dropped because the queue was full."""
        self.failed = 0
        """Spans that the collector did not accept."""
        self.error = ""
        """Last error, "" without one."""

    @property
    def waiting(self) -> int:
        """Spans in the queue."""
        return len(self._queue)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Queue finished requests that were sampled."""
        queue, capacity = self._queue, self._capacity
        for record in records:
            if record.trace == NO_TRACE or record.phase == OPENED:
                continue
            if len(queue) >= capacity:
                self.dropped += 1
            else:
                queue.append(record)
        if len(queue) >= self._batch:
            self._wake.set()

    def close(self) -> None:
        """Send the remaining spans for at most CLOSE_S."""
        self._ending = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() and self._exporter is not None:
            self._exporter.shutdown()  # interrupts its wait between attempts

    def public(self) -> dict[str, object]:
        """State for the status page."""
        return {
            "exported": self.exported,
            "turned_away": self.dropped,
            "failed": self.failed,
            "waiting": self.waiting,
            "error": self.error,
        }

    # -- the thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._exporter = exporter = self._open_exporter()
            make = _SpanMaker(self._scheme, self._version, self._environ)
        except (ImportError, ValueError, OSError) as error:
            # From now on all records are dropped once the queue is full.
            self._state(f"the exporter cannot be used: {type(error).__name__}")
            return
        while True:
            if len(self._queue) < self._batch and not self._ending:
                self._wake.wait(self._delay_s)
            self._wake.clear()
            ending = self._ending  # records taken before it are sent
            while self._queue:
                self._send(exporter, make)
                if len(self._queue) < self._batch and not ending:
                    break
            if ending:
                exporter.shutdown()
                return

    def _send(self, exporter: SpanExporter, make: Callable[..., Any]) -> None:
        size = min(len(self._queue), self._batch)
        records = [self._queue.popleft() for _ in range(size)]
        problem = "the collector does not accept spans"
        try:
            # 0 is SpanExportResult.SUCCESS; failures were already retried.
            if exporter.export([make(record) for record in records]).value == 0:
                problem = ""
        except Exception as error:  # noqa: BLE001 - an error of the library must not end the thread
            problem = f"the exporter failed: {type(error).__name__}"
        if problem:
            self.failed += size
        else:
            self.exported += size
        self._state(problem)

    def _state(self, problem: str) -> None:
        was, self.error = self.error, problem
        if was != problem:
            self._on_state(problem)


def _official_exporter() -> SpanExporter:
    """OTLP over HTTP; reads its environment variables itself."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    # It would log each failed attempt, perhaps with text from the collector.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return OTLPSpanExporter()


class _SpanMaker:
    """Converts records to finished spans of the SDK. No tracer is used, because the worker
    has set ids, times and the sampling decision.
    """

    def __init__(self, scheme: str, version: str, environ: Mapping[str, str]) -> None:
        from opentelemetry import trace as api  # noqa: PLC0415 - heavy
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import (  # noqa: PLC0415
            InstrumentationScope,
        )

        named = {} if _is_named(environ) else {"service.name": "tidegate"}
        self._resource = Resource.create({**named, "service.version": version})
        self._scope = InstrumentationScope(SCOPE, version)
        self._api, self._span, self._scheme = api, ReadableSpan, scheme

    def __call__(self, r: RequestRecord) -> ReadableSpan:
        """Make the span of a record. Positions are those of ``RequestRecord.trace``."""
        api = self._api
        trace, flags = int(r.trace[:32], 16), api.TraceFlags(int(r.trace[48:50], 16))
        parent = None
        if len(r.trace) > 50:  # noqa: PLR2004 - there is a parent span
            parent = api.SpanContext(
                trace, int(r.trace[50:], 16), is_remote=True, trace_flags=flags
            )
        failed = bool(error_type(r))
        code = api.StatusCode.ERROR if failed else api.StatusCode.UNSET
        began = round(r.ts * 1e6) * 1000
        return self._span(
            span_name(r),
            api.SpanContext(
                trace, int(r.trace[32:48], 16), is_remote=False, trace_flags=flags
            ),
            parent=parent,
            resource=self._resource,
            attributes=attributes_of(r, self._scheme),
            kind=api.SpanKind.SERVER,
            status=api.Status(code),
            start_time=began,
            end_time=began + round(r.duration_ms * 1e6),
            instrumentation_scope=self._scope,
        )


def _is_named(environ: Mapping[str, str]) -> bool:
    pairs = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    return bool(environ.get("OTEL_SERVICE_NAME", "").strip()) or any(
        pair.partition("=")[0].strip() == "service.name" for pair in pairs
    )

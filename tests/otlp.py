"""An OpenTelemetry collector for tests that stores the spans received by OTLP over
HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import web

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )
except ModuleNotFoundError:
    MISSING = "opentelemetry-proto is not installed"
else:
    MISSING = ""


class Span:
    """One received span in plain values."""

    def __init__(self, span: Any, resource: Any) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.failed: bool = span.status.code == 2
        self.took_s = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        self.began = span.start_time_unix_nano / 1e9
        self.attributes = plain(span.attributes)
        self.resource = plain(resource.attributes)


def plain(pairs: Any) -> dict[str, Any]:
    """OTLP attributes as a dictionary."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs
    }


class Receiver:
    """A collector in its own thread that answers ``status`` after ``delay_s``."""

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.delay_s = 0.0
        self.raw = b""  # every body, unpacked
        self.paths: set[str] = set()
        self.calls = 0
        self._spans: list[Span] = []
        self._port = port
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(60)
        self.url = f"http://127.0.0.1:{self._port}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{tail:.*}", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.calls += 1
        self.paths.add(request.path)
        self.raw += body
        await asyncio.sleep(self.delay_s)
        if self.status == 200:
            said = ExportTraceServiceRequest.FromString(body)
            for resource in said.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._spans.append(Span(span, resource.resource))
        return web.Response(status=self.status)

    def spans(self, **wanted: Any) -> list[Span]:
        """Accepted spans whose attributes have the given values."""
        return [
            span
            for span in list(self._spans)
            if all(span.attributes.get(k) == v for k, v in wanted.items())
        ]

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@contextlib.contextmanager
def running_receiver(port: int = 0) -> Iterator[Receiver]:
    """Run a collector for the length of a block."""
    receiver = Receiver(port)
    try:
        yield receiver
    finally:
        receiver.stop()

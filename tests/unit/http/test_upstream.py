"""The upstream's connection: parsing, reuse and loss."""

from __future__ import annotations

import pytest

from gateway.http.request_writer import NO_BODY, OutgoingHead, OutgoingRequest
from gateway.http.target import Target
from gateway.http.upstream import MAX_BYTES_WITHOUT_PROGRESS, UpstreamConnection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Wire:
    """A transport that records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return "abort" in self.calls or "close" in self.calls

    def __getattr__(self, name: str):
        return lambda *_given: self.calls.append(name)


class Sink:
    """An exchange that records the calls and releases after a whole answer."""

    def __init__(self, up: UpstreamConnection) -> None:
        self.up = up
        self.body = b""
        self.told: list[object] = []

    def on_answer_body(self, data: bytes) -> None:
        self.body += data

    def on_answer_end(self, complete: bool) -> None:
        self.told.append(("end", complete))
        if complete:
            self.up.release()

    def on_upstream_lost(self, status: int, reason: str, *, retry: bool) -> None:
        self.told.append(("lost", status, retry))

    def on_answer_head(self, answer) -> None:
        self.told.append(answer.status)

    def on_interim(self, status: int, lines: bytes) -> None:
        self.told.append((status, lines))

    def on_answer_flush(self) -> None:
        return


@pytest.fixture(name="target")
def _target() -> Target:
    """A target for the connections."""
    return Target("a", 80, tls=False, authority=b"a", base_path=b"")


def sent(target: Target, method: str = "GET") -> tuple[UpstreamConnection, Sink, Wire]:
    """A connection with one open request."""
    up, wire = UpstreamConnection(target, 0.0), Wire()
    up.connection_made(wire)  # type: ignore[arg-type]
    target.connections.add(up)
    sink = Sink(up)
    request = OutgoingRequest(OutgoingHead(method, b"/", b"a", b""), b"", b"1", NO_BODY)
    up.send(sink, request, b"", frozenset())  # type: ignore[arg-type]
    return up, sink, wire


def test_whole_answer_returns_to_the_pool(target):
    """After a complete answer the connection is idle and is taken next."""
    up, sink, _ = sent(target)
    up.data_received(OK)
    assert (sink.told, sink.body) == ([200, ("end", True)], b"{}")
    assert target.take(0.0) is up
    assert up.reused


@pytest.mark.parametrize("more", [OK, b"H", b"\0"])
def test_more_than_was_asked_for(more, target):
    """A connection with bytes after the answer is not reused."""
    up, sink, wire = sent(target)
    up.data_received(OK + more)
    assert sink.told == [200, ("end", True)]
    assert target.take(0.0) is None
    assert wire.is_closing()


def test_bytes_without_a_request_close_an_idle_connection(target):
    """Bytes without a request close the connection and reach no exchange."""
    up, _, wire = sent(target)
    up.data_received(OK)
    up.data_received(OK)
    assert wire.calls[-1] == "abort"
    assert target.take(0.0) is None


def test_unsent_bytes_keep_it_out_of_the_pool(target):
    """A connection with unsent request bytes is closed."""
    up, _, wire = sent(target)
    wire.unsent = 1
    up.data_received(OK)
    assert not target.idle
    assert wire.calls[-1] == "close"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_BYTES_WITHOUT_PROGRESS,
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_what_cannot_be_trusted_is_502(raw, target):
    """An ambiguous, endless or non-HTTP answer is a loss without a retry."""
    up, sink, wire = sent(target)
    up.reused = True
    up.data_received(raw)
    assert sink.told == [("lost", 502, False)]
    assert wire.calls[-1] == "abort"


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("before", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_retried_only_before_a_byte(before, reused, target):
    """Only a reused connection that closes without a byte allows a retry."""
    up, sink, _ = sent(target)
    up.reused = reused
    if before:
        up.data_received(before)
    up.connection_lost(None)
    assert sink.told == [("lost", 502, reused and not before)]
    assert not target.connections


@pytest.mark.parametrize(("error", "whole"), [(None, True), (OSError(), False)])
def test_close_delimited(error, whole, target):
    """A close ends a close-delimited answer; a reset does not."""
    up, sink, _ = sent(target)
    up.data_received(b"HTTP/1.1 200 OK\r\n\r\n{}")
    up.connection_lost(error)
    assert sink.told == [200, ("end", whole)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_interim_answers(method, target):
    """100 is not forwarded; 103 is, without hop-by-hop fields."""
    up, sink, _ = sent(target, method)
    up.data_received(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n")
    up.data_received(b"Link: a\r\nKeep-Alive: 1\r\n\r\n" + OK[:-2])
    assert sink.told[:2] == [(103, b"Link: a\r\n"), 200]


def test_abandoned(target):
    """Bytes after an abandoned exchange reach no exchange."""
    up, sink, wire = sent(target)
    up.abandon()
    up.connection_lost(None)
    assert not sink.told
    assert "abort" in wire.calls


def test_pauses_end_with_the_exchange(target):
    """Reading is resumed before a connection becomes idle."""
    up, _, wire = sent(target)
    up.pause_reading()
    up.pause_reading()
    up.data_received(OK)
    assert wire.calls[-2:] == ["pause_reading", "resume_reading"]
    assert not up.paused

"""Duties of an intermediary (RFC 9110 section 7), over real sockets."""

from __future__ import annotations

import re
import socket

import pytest

from tests.corpus.malformed import BODY, HOST, PATH, chunks, get, sized
from tests.corpus.reader import read_all
from tests.doubles import ANSWER, ANSWER_HEAD, gateway_with_recorder  # noqa: F401

WAIT_S = 20.0
CLOSE = b"Connection: close\r\n"


def talk(gateway, raw: bytes) -> bytes:
    """All bytes that the gateway answers until it closes."""
    with socket.create_connection(gateway.address, WAIT_S) as client:
        client.sendall(raw)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def passed(gateway, raw: bytes):
    """The parsed head and the body of the one request that reached the upstream."""
    talk(gateway, raw)
    requests = gateway.recorder.ask(lambda upstream: list(upstream.requests))
    ((head, body),), error, _ = read_all(requests)
    assert error is None
    return head, body


@pytest.fixture(name="gateway")
def _gateway(gateway_with_recorder):
    """The gateway, with an empty recording."""
    gateway_with_recorder.recorder.ask(lambda upstream: upstream.clear())
    return gateway_with_recorder


def test_hop_by_hop_fields_end_here(gateway):
    """Hop-by-hop fields and those named by Connection are not forwarded."""
    head, _ = passed(
        gateway,
        get(
            fields=b"Connection: close, X-Hop, te\r\nX-Hop: 1\r\nTE: trailers\r\n"
            b"Keep-Alive: timeout=5\r\nProxy-Authorization: Basic eA==\r\n"
            b"Proxy-Connection: close\r\nTrailer: A\r\nX-Kept:  a  b\r\n"
        ),
    )
    names = set(head.fields)
    assert not names & {b"x-hop", b"te", b"keep-alive", b"trailer", b"proxy-connection"}
    assert b"proxy-authorization" not in names
    assert b"X-Kept:  a  b\r\n" in head.forward


def test_via_and_forwarded_fields_grow(gateway):
    """Our hop is appended to Via and X-Forwarded-For; Proto and Host are replaced."""
    head, _ = passed(
        gateway, get(fields=CLOSE + b"Via: 1.0 a\r\nX-Forwarded-For: 192.0.2.7\r\n")
    )
    assert re.fullmatch(rb"1\.0 a, 1\.1 [!-~]+", head.fields[b"via"])
    assert head.fields[b"x-forwarded-for"] == b"192.0.2.7, 127.0.0.1"
    assert head.fields[b"x-forwarded-proto"] == b"http"
    assert head.fields[b"x-forwarded-host"] == b"gateway.test"


def test_loop_is_cut(gateway):
    """A request that returns to the same instance gets 508."""
    head, _ = passed(gateway, get(fields=CLOSE))
    answer = talk(gateway, get(fields=CLOSE + b"Via: %b\r\n" % head.fields[b"via"]))
    assert answer.startswith(b"HTTP/1.1 508 ")


def test_host_becomes_the_upstreams(gateway):
    """Host is the upstream's authority, also for an absolute target."""
    head, _ = passed(gateway, get(b"http://other.test/a%2Fb//c?d", CLOSE))
    port = gateway.recorder.ask(lambda upstream: upstream.port)
    assert head.fields[b"host"] == b"127.0.0.1:%d" % port
    assert head.target == b"/a%2Fb//c?d"
    assert head.fields[b"x-forwarded-host"] == b"other.test"


def test_verdict_never_comes_in(gateway):
    """A client cannot set the verdict of this gateway."""
    head, _ = passed(gateway, get(fields=CLOSE + b"X-Tidegate-Verdict: x;score=9\r\n"))
    assert b"x-tidegate-verdict" not in head.fields


def test_request_id_is_kept_or_made(gateway):
    """The client's request id is forwarded; without one it is generated."""
    head, _ = passed(gateway, get(fields=CLOSE + b"X-Request-Id: abc-1\r\n"))
    assert head.fields[b"x-request-id"] == b"abc-1"
    gateway.recorder.ask(lambda upstream: upstream.clear())
    assert passed(gateway, get(fields=CLOSE))[0].fields[b"x-request-id"]


def test_h2c_is_declined_and_the_body_kept(gateway):
    """An upgrade to h2c is answered as plain HTTP/1.1, its body forwarded."""
    raw = sized(b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n")
    head, body = passed(gateway, raw)
    assert body == BODY
    assert not {b"upgrade", b"http2-settings"} & set(head.fields)


def test_extensions_and_trailers_end_here(gateway):
    """Chunk extensions and trailers are not forwarded."""
    raw = chunks(b"1b;a=b\r\n" + BODY + b"\r\n0;c\r\nX-Sum: 1\r\n\r\n")
    talk(gateway, raw.replace(HOST, HOST + CLOSE))
    (request,) = gateway.recorder.ask(lambda upstream: list(upstream.requests))
    assert b"X-Sum" not in request
    assert b";a=b" not in request
    assert BODY in request


@pytest.mark.parametrize("method", [b"TRACE", b"OPTIONS"])
def test_max_forwards_counts_down(method, gateway):
    """Max-Forwards is decremented; at zero the gateway answers itself."""
    raw = get(fields=CLOSE + b"Max-Forwards: 3\r\n").replace(b"GET", method)
    head, _ = passed(gateway, raw)
    assert head.max_forwards == 2
    gateway.recorder.ask(lambda upstream: upstream.clear())
    assert talk(gateway, raw.replace(b": 3", b": 0")).startswith(b"HTTP/1.1 2")
    assert not gateway.recorder.ask(lambda upstream: list(upstream.requests))


def test_trace_gives_no_secret_back(gateway):
    """An answer to TRACE does not repeat credentials (RFC 9110 section 9.3.8)."""
    raw = get(fields=CLOSE + b"Max-Forwards: 0\r\nAuthorization: Bearer s3cret\r\n")
    assert b"s3cret" not in talk(gateway, raw.replace(b"GET", b"TRACE"))


def test_continue_comes_before_the_body(gateway):
    """The gateway sends 100 Continue and does not forward the expectation."""
    raw = sized(CLOSE + b"Expect: 100-continue\r\n")
    with socket.create_connection(gateway.address, WAIT_S) as client:
        client.sendall(raw.removesuffix(BODY))
        assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    (request,) = gateway.recorder.ask(lambda upstream: list(upstream.requests))
    assert b"expect" not in request.lower()


def test_pipelined_requests_are_answered_in_order(gateway):
    """Answers keep the order of the requests, even when the first is slow."""
    slow = (0.05, ANSWER_HEAD + b"1}")
    gateway.recorder.ask(lambda upstream: upstream.scripts.extend([slow, ANSWER]))
    answer = talk(gateway, sized() + get() + get(fields=CLOSE))
    assert re.findall(rb"\r\n\r\n(..)", answer) == [b"1}", b"{}", b"{}"]
    requests = gateway.recorder.ask(lambda upstream: list(upstream.requests))
    assert [raw.split(b" ")[1] for raw in requests] == [PATH, *[b"/v1/models"] * 2]


def test_http10_client_gets_what_it_understands(gateway):
    """An HTTP/1.0 client gets a chunked answer close-delimited."""
    script = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    gateway.recorder.ask(lambda upstream: upstream.scripts.append((script,)))
    answer = talk(gateway, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"{}"
    assert b"transfer-encoding" not in head.lower()


def test_answer_fields_pass_but_hop_by_hop(gateway):
    """The upstream's fields are forwarded unchanged, but not its Connection."""
    script = (
        b"HTTP/1.1 201 Created\r\nX-B: 1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    gateway.recorder.ask(lambda upstream: upstream.scripts.append((script,)))
    answer = talk(gateway, get(fields=CLOSE))
    assert b"\r\nX-B: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\n" in answer
    assert b"X-Hop" not in answer
    assert b"Keep-Alive" not in answer

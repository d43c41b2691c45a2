"""The bytes of a request head, and of a streamed body, to an upstream."""

from __future__ import annotations

import pytest

from gateway.http.request_writer import (
    CHUNKED,
    NO_BODY,
    OutgoingHead,
    OutgoingRequest,
    rewrite_values,
    write_chunk,
    write_fields,
    write_head,
)

FIELDS = b"Accept-Encoding: gzip\r\nVia: 1.1 a\r\n"


def outgoing(body_length: int) -> OutgoingRequest:
    """A request with one line of its own."""
    head = OutgoingHead("POST", b"/v1/x?a=%20", b"api.test:8443", FIELDS)
    return OutgoingRequest(head, b"baggage: a=b\r\n", b"id-1", body_length)


@pytest.mark.parametrize(
    ("length", "framing"),
    [
        (0, b"Content-Length: 0\r\n"),
        (17, b"Content-Length: 17\r\n"),
        (CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        (NO_BODY, b""),
    ],
)
def test_head(length, framing):
    """Request line, Host, shared fields, own lines, request id, framing: in this order."""
    assert write_head(outgoing(length)) == (
        b"POST /v1/x?a=%20 HTTP/1.1\r\nHost: api.test:8443\r\n"
        b"Accept-Encoding: gzip\r\nVia: 1.1 a\r\n"
        b"baggage: a=b\r\nX-Request-Id: id-1\r\n" + framing + b"\r\n"
    )


def test_own_fields_follow_the_shared_ones():
    """Fields of one request are written before its lines and its request id."""
    request = outgoing(NO_BODY)
    request.fields = ((b"X-A", b"1"), (b"X-B", b"2"))
    written = write_head(request)
    assert b"Via: 1.1 a\r\nX-A: 1\r\nX-B: 2\r\nbaggage" in written


def test_uncompressed_answer_is_asked_for():
    """``uncompressed`` replaces gzip by identity for this request only."""
    request = outgoing(NO_BODY)
    request.uncompressed = True
    for _ in range(2):
        written = write_head(request)
        assert b"\r\nAccept-Encoding: identity\r\n" in written
        assert b"gzip" not in written
    request.uncompressed = False
    assert b"\r\nAccept-Encoding: gzip\r\n" in write_head(request)


def test_chunk():
    """A chunk states its size in hexadecimal digits."""
    assert write_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_fields():
    """Each pair is one line; no pairs are no lines."""
    assert write_fields([(b"A", b"1"), (b"B", b"")]) == b"A: 1\r\nB: \r\n"
    assert write_fields([]) == b""


def test_values_are_rewritten_or_removed():
    """Names match in any case; other lines keep their bytes."""
    lines = b"A:1\r\nsec-X:  old \r\nSEC-X: gone\r\nB: 2\r\n"
    changed = rewrite_values(lines, {b"sec-x": lambda old: old.replace(b"gone", b"")})
    assert changed == b"A:1\r\nsec-X: old\r\nB: 2\r\n"
    assert rewrite_values(lines, {}) == lines
    assert rewrite_values(b"", {b"a": bytes}) == b""

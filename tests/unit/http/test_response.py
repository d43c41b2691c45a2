"""The answer's head: framing, forwarding, refusals."""

from __future__ import annotations

import pytest

from gateway.http import response as module
from gateway.http.head import WireError
from gateway.http.response import RATE_LIMIT_FIELDS, AnswerHead, read_answer_head

NONE: frozenset[bytes] = frozenset()
LENGTH = (b"Content-Length", b"5")
CHUNKED = (b"Transfer-Encoding", b"Chunked")


def read(*headers, status=200, http10=False, method="POST", drop=NONE) -> AnswerHead:
    """Parse one answer's head."""
    return read_answer_head(status, http10, list(headers), method, drop=drop)


def framing(head: AnswerHead) -> tuple[int | None, bool, bool, bool]:
    """How its body ends."""
    return head.content_length, head.chunked, head.close_delimited, head.no_body


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (read(LENGTH), (5, False, False, False)),
        (read(LENGTH, LENGTH), (5, False, False, False)),
        (read(CHUNKED), (None, True, False, False)),
        (read(), (None, False, True, False)),
        (read(LENGTH, method="HEAD"), (5, False, False, True)),
        (read(CHUNKED, method="HEAD"), (None, False, False, True)),
        (read(method="HEAD"), (None, False, False, True)),
        (read(LENGTH, status=304), (5, False, False, True)),
        (read(LENGTH, status=204), (None, False, False, True)),
        (read(LENGTH, status=100), (None, False, False, True)),
        (read(status=101), (None, False, False, True)),
        (read(LENGTH, http10=True), (5, False, False, False)),
    ],
)
def test_framing(head, expected):
    """A body ends by length, chunks or close, or there is none."""
    assert framing(head) == expected


@pytest.mark.parametrize(
    ("headers", "http10"),
    [
        ([LENGTH, CHUNKED], False),
        ([CHUNKED], True),
        ([CHUNKED, CHUNKED], False),
        ([(b"Transfer-Encoding", b"gzip, chunked")], False),
        ([(b"Transfer-Encoding", b"")], False),
        ([LENGTH, (b"content-length", b"6")], False),
        ([(b"Content-Length", b"5, 5")], False),
        ([(b"Content-Length", b"")], False),
        ([(b"Content-Length", b"+5")], False),
        ([(b"Content-Length", b"9" * 19)], False),
        ([(b"Bad Name", b"a")], False),
    ],
)
def test_ambiguous_answer_is_a_bad_gateway(headers, http10):
    """An answer that two parsers could read differently gets 502."""
    with pytest.raises(WireError) as caught:
        read(*headers, http10=http10)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("headers", "http10", "reusable"),
    [
        ([LENGTH], False, True),
        ([LENGTH, (b"Connection", b"keep-alive")], False, True),
        ([LENGTH, (b"Connection", b"Close")], False, False),
        ([LENGTH, (b"Connection", b"a"), (b"Connection", b"close")], False, False),
        ([LENGTH], True, False),
        ([LENGTH, (b"Connection", b"Keep-Alive")], True, True),
        ([], False, False),
        ([(b"Connection", b"keep-alive")], False, False),
    ],
)
def test_upstream_connection_reuse(headers, http10, reusable):
    """The upstream connection is reusable unless version or Connection end it."""
    assert read(*headers, http10=http10).keep_alive is reusable


def test_forward_leaves_out_hop_by_hop():
    """Framing, hop-by-hop and Connection-named fields are not forwarded."""
    head = read(
        (b"Date", b"now"),
        (b"Connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"Keep-Alive", b"5"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Trailer", b"A"),
        LENGTH,
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
    )
    assert head.forward == b"Date: now\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"


def test_noted_fields():
    """Type, coding and request id are kept and forwarded; Upgrade is kept only."""
    head = read(
        (b"content-type", b"text/event-stream"),
        (b"Content-Type", b"text/plain"),
        (b"Content-Encoding", b"gzip"),
        (b"content-encoding", b"br"),
        (b"X-Request-ID", b"r1"),
        (b"Upgrade", b"WebSocket"),
    )
    assert head.content_type == b"text/event-stream"
    assert head.content_encoding == b"gzip, br"
    assert (head.request_id, head.upgrade) == (b"r1", b"websocket")
    assert head.forward.count(b"\r\n") == 5


def test_get_is_case_insensitive():
    """``get`` returns the first value by the lower-case name."""
    head = read((b"Retry-After", b"3"), (b"retry-after", b"4"))
    assert head.get(b"retry-after") == b"3"
    assert head.get(b"age") is None


def test_dropped_fields():
    """Dropped names and prefixes are not forwarded; each set has its own table."""
    fields = (
        (b"X-RateLimit-Limit-Requests", b"1"),
        (b"RateLimit", b"a"),
        (b"RateLimit-Policy", b"b"),
        (b"Retry-After", b"2"),
    )
    assert read(*fields, drop=RATE_LIMIT_FIELDS).forward == b"Retry-After: 2\r\n"
    assert read(*fields).forward.count(b"\r\n") == 4


def test_tables_are_bounded(monkeypatch):
    """Neither names nor sets of dropped fields grow without bound."""
    monkeypatch.setattr(module, "_tables", {})
    monkeypatch.setattr(module, "_MAX_DROP_SETS", 1)
    monkeypatch.setattr(module, "_MAX_NAMES", 1)
    read((b"A", b"1"), (b"B", b"2"))
    read((b"A", b"1"), drop=frozenset({b"a"}))
    assert module._tables == {NONE: {b"A": 0}}

"""The cache of parsed heads: hits, misses and bounds."""

from __future__ import annotations

import pytest

from gateway.http.head import WireError
from gateway.http.heads import MAX_CACHED, MAX_HEAD_BYTES, HeadCache

START = b"POST /x HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(name="cache")
def _cache() -> HeadCache:
    """A cache with the default limits."""
    return HeadCache(100, 16_384)


def sized(
    length: bytes, *, name: bytes = b"Content-Length: ", more: bytes = b""
) -> bytes:
    """A head with this length."""
    return START + name + length + b"\r\n" + more + b"\r\n"


def test_only_the_length_differs(cache):
    """Another Content-Length finds the same head, and keeps its own length."""
    first, one = cache.parse(sized(b"1"))
    again, other = cache.parse(sized(b"99"))
    assert again is first
    assert (one.length, other.length) == (1, 99)
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.parametrize(
    "raw",
    [
        sized(b"5") .replace(b"Host: a", b"Host: a\r\nContent-Length: 5"),
        sized(b"5", more=b"Content-Length: 6\r\n"),
        sized(b"5", more=b"content-length: 5\r\n"),
        sized(b"5", more=b"Transfer-Encoding: chunked\r\n"),
        sized(b"5", name=b"Content-Length : "),
        sized(b"+5"),
        sized(b"5,5"),
        sized(b"5 5"),
        sized(b"0x5"),
        sized(b"9" * 19),
        sized(b"5").replace(b"Host: a", b"Host: a\n"),
        sized(b"5").replace(b"/x HTTP", b"/x  HTTP"),
        sized(b"\xb2"),
    ],
)  # fmt: skip
def test_malformed_twin_never_hits(raw, cache):
    """A malformed head is refused each time, however similar to a cached one."""
    cache.parse(sized(b"5"))
    cache.parse(START + b"\r\n")
    for _ in range(2):
        with pytest.raises(WireError):
            cache.parse(raw)


@pytest.mark.parametrize(
    ("length", "name"),
    [
        (b"007", b"Content-Length: "),
        (b"7", b"Content-Length:"),
        (b" 7 ", b"Content-Length: "),
        (b"7", b"CONTENT-LENGTH: "),
        (b"7\t", b"Content-Length:\t"),
    ],
)
def test_odd_spelling_is_read_and_not_kept(length, name, cache):
    """A valid length in another spelling is parsed and not cached."""
    cache.parse(sized(b"5"))
    raw = sized(length, name=name)
    for _ in range(2):
        assert cache.parse(raw)[1].length == 7
    assert not cache.hits
    assert cache.parse(sized(b"6"))[1].length == 6


def test_no_length_is_another_head(cache):
    """A head without length has none, whatever was cached before."""
    with_body, _ = cache.parse(sized(b"5"))
    without, own = cache.parse(START + b"\r\n")
    assert without is not with_body
    assert own.length is None


@pytest.mark.parametrize(
    "fields",
    [
        b"Expect: 100-continue\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"X-Large: %b\r\n" % (b"x" * MAX_HEAD_BYTES),
    ],
)
def test_some_heads_are_not_kept(fields, cache):
    """Heads whose rules depend on the body, or that are large, are not cached."""
    raw = START + fields + b"\r\n"
    assert cache.parse(raw)[0] is not cache.parse(raw)[0]


def test_random_heads_stay_bounded(cache):
    """The cache is bounded; the oldest heads are evicted first."""
    for number in range(MAX_CACHED + 50):
        cache.parse(START + b"X-Number: %d\r\n\r\n" % number)
    assert MAX_CACHED // 2 <= len(cache._cached) <= MAX_CACHED
    hits = cache.hits
    cache.parse(START + b"X-Number: 0\r\n\r\n")
    assert cache.hits == hits


def test_clear_forgets(cache):
    """Values derived from a head are evicted with it."""
    known, _ = cache.parse(sized(b"5"))
    known.derived["peer"] = object()
    cache.clear()
    assert cache.parse(sized(b"5"))[0].derived == {}


def test_tracing_does_not_make_another_head(cache):
    """Ids of a request are returned beside the cached head."""
    trace = b"traceparent: 00-%032x-%016x-01\r\n"
    first, _ = cache.parse(sized(b"5", more=trace % (1, 1) + b"X-Request-Id: a\r\n"))
    again, own = cache.parse(sized(b"6", more=trace % (2, 2) + b"X-Request-Id: b\r\n"))
    assert again is first
    assert (own.length, own.request_id, own.lines) == (6, b"b", trace % (2, 2))
    assert cache.parse(sized(b"7"))[0] is first


@pytest.mark.parametrize(
    "fields",
    [
        b"X-Request-Id: a\r\nX-Request-Id: b\r\n",
        b"traceparent: 1\r\n" * 9,
        b"traceparent: 1\r\nConnection: traceparent\r\n",
        b"TRACEPARENT: 1\r\n",
        b"traceparent:1\r\n",
        b"traceparent: \xff\r\n",
    ],
)
def test_unusual_tracing_is_read_in_full(fields, cache):
    """Lines in unusual spellings are parsed with the head and follow its rules."""
    cache.parse(START + b"\r\n")
    known, own = cache.parse(START + fields + b"\r\n")
    assert (own.lines, own.request_id) == (b"", b"")
    dropped = b"Connection" in fields or b"X-Request" in fields
    assert (b"race" in known.head.forward.lower()) is not dropped


@pytest.mark.parametrize(
    "fields",
    [
        b"traceparent: 1\r\n folded\r\n",
        b"traceparent : 1\r\n",
        b"traceparent: 1\x00\r\n",
        b"Content-Length: 5\r\ntraceparent: 1\r\nContent-Length: 5\r\n",
        b"traceparent: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"x-request-id: a\r\n\tfolded\r\n",
    ],
)
def test_malformed_around_tracing_is_refused(fields, cache):
    """Cutting lines out never makes a malformed head well-formed."""
    cache.parse(START + b"\r\n")
    cache.parse(sized(b"5"))
    for _ in range(2):
        with pytest.raises(WireError):
            cache.parse(START + fields + b"\r\n")

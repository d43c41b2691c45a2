"""The request head: parsing, forwarding, refusals."""

from __future__ import annotations

import pytest

from gateway.http import head as module
from gateway.http.head import (
    WireError,
    check_partial_head,
    oversize_error,
    parse_request_head,
    strip_leading_crlf,
)
from tests.corpus.malformed import CASES, CUT, get, sized
from tests.corpus.reader import read_all
from tests.corpus.wellformed import VALID

HOST = b"Host: gateway.test\r\n"


def refusal(raw: bytes) -> int:
    """The status a head is refused with."""
    with pytest.raises(WireError) as caught:
        parse_request_head(raw)
    return caught.value.status


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_corpus_is_refused(case):
    """Every malformed request gets its status, after the good ones before it."""
    requests, error, idle = read_all([case.raw])
    assert len(requests) == case.passes
    assert (error.status if error else 0) == case.status
    assert not idle


@pytest.mark.parametrize("case", CUT, ids=lambda case: case.name)
def test_cut_request_never_completes(case):
    """A truncated request stays incomplete."""
    requests, error, idle = read_all([case.raw])
    assert (requests, error, idle) == ([], None, False)


@pytest.mark.parametrize("valid", VALID, ids=lambda valid: valid.name)
def test_valid_exchange_is_read(valid):
    """Every well-formed request gives its method, target and body."""
    ((head, body),), error, idle = read_all([valid.raw])
    assert error is None
    assert idle
    assert (head.method, head.target, body) == (valid.method, valid.target, valid.body)


def test_forward_keeps_bytes_and_order():
    """Fields are forwarded unchanged, except ours and hop-by-hop ones."""
    head = parse_request_head(
        b"POST /x HTTP/1.1\r\nhOST: a\r\nX-B:  two  spaces \r\nUser-agent:curl\r\n"
        b"Content-Length: 2\r\nConnection: close, X-Hop\r\nx-hop: 1\r\nTE: trailers\r\n"
        b"Keep-Alive: 5\r\nProxy-Connection: a\r\nTrailer: b\r\nVia: 1.1 c\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\nX-Request-Id: r\r\nx-tidegate-verdict: v\r\n"
        b"Accept-Encoding: br\r\nX-A: \xe9\r\nForwarded: for=1.2.3.4\r\n\r\n"
    )
    assert head.forward == (
        b"X-B:  two  spaces \r\nUser-agent:curl\r\nX-A: \xe9\r\n"
        b"Forwarded: for=1.2.3.4\r\n"
    )
    assert head.fields[b"accept-encoding"] == b"br"
    assert head.fields[b"x-b"] == b"two  spaces"


def test_no_field_left_to_forward():
    """Without fields to forward, ``forward`` is empty."""
    assert parse_request_head(get()).forward == b""


def test_credentials_are_separate_lines():
    """Credentials keep name and order, and are not among the forwarded lines."""
    head = parse_request_head(
        sized(b"X-API-Key: k\r\nAuthorization: Bearer  b \r\napi-key: a\r\n", b"")
    )
    assert head.credentials == (
        (b"X-API-Key", b"k"),
        (b"Authorization", b"Bearer  b"),
        (b"api-key", b"a"),
    )
    assert head.forward == b"Content-Type: application/json\r\n"


def test_repeated_fields_are_joined():
    """List fields are joined for look-ups and forwarded line by line."""
    head = parse_request_head(get(fields=b"A: b\r\nVia: x\r\na: c\r\nvia: y\r\n"))
    assert head.fields[b"a"] == b"b, c"
    assert head.fields[b"via"] == b"x, y"
    assert head.forward == b"A: b\r\na: c\r\n"


@pytest.mark.parametrize(
    ("raw", "target", "host", "scheme"),
    [
        (get(b"http://Other.test:81/a%2f?b"), b"/a%2f?b", b"Other.test:81", b"http"),
        (get(b"hTTps://[::1]?b"), b"/?b", b"[::1]", b"https"),
        (get(b"/a?b"), b"/a?b", b"gateway.test", b""),
        (b"GET / HTTP/1.0\r\n\r\n", b"/", b"", b""),
    ],
)
def test_absolute_form_wins_over_host(raw, target, host, scheme):
    """The authority of an absolute target replaces Host; HTTP/1.0 may have none."""
    head = parse_request_head(raw)
    assert (head.target, head.host, head.scheme) == (target, host, scheme)


def test_path_and_query_are_not_decoded():
    """Path and query are split at the first question mark and kept escaped."""
    head = parse_request_head(get(b"/a%2F?b=%20?c"))
    assert (head.path, head.query) == ("/a%2F", "b=%20?c")


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: Keep-Alive\r\n", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: CLOSE\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: ,\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: x, Keep-Alive\r\n", True),
        (b"1.0", b"Connection: x\r\n", False),
    ],
)
def test_keep_alive(version, connection, kept):
    """Version and Connection say whether the client wants the connection kept."""
    raw = b"GET / HTTP/" + version + b"\r\n" + HOST + connection + b"\r\n"
    assert parse_request_head(raw).keep_alive is kept


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        (b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"websocket"),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", b"websocket"),
        (b"Connection: Upgrade\r\nUpgrade: a/1, b\r\n", b"a/1, b"),
        (b"Connection: Upgrade\r\nUpgrade:\r\n", b""),
        (b"Connection: Upgrade\r\n", b""),
        (b"Connection: close\r\nUpgrade: websocket\r\n", b""),
        (b"Upgrade: websocket\r\n", b""),
    ],
)
def test_upgrade(fields, upgrade):
    """Upgrade counts only when Connection names it; h2c is cut out; none passes."""
    head = parse_request_head(get(fields=fields))
    assert head.upgrade == upgrade
    assert head.forward == b""


def test_upgrade_on_http10_is_ignored():
    """Upgrade is ignored in HTTP/1.0."""
    fields = b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert parse_request_head(b"GET / HTTP/1.0\r\n" + fields).upgrade == b""


def test_h2c_keeps_its_body():
    """An h2c upgrade is ignored; the body stays a body."""
    raw = sized(b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: A\r\n")
    raw = raw.replace(b"Connection", b"Upgrade: h2c\r\nConnection")
    ((head, body),), _, _ = read_all([raw])
    assert head.upgrade == b""
    assert head.content_length == len(body)
    assert b"HTTP2-Settings" not in head.forward


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (sized(b"Expect: 100-continue\r\n"), True),
        (sized(b"Expect: 100-Continue\r\n"), True),
        (sized(b"Expect: 100-continue\r\n", b""), False),
        (get(fields=b"Expect: 100-continue\r\n"), False),
        (sized(b"Expect: 100-continue\r\n").replace(b"P/1.1", b"P/1.0"), False),
        (sized(), False),
    ],
)
def test_expect_continue(raw, expected):
    """An interim answer is due only on HTTP/1.1 and before a body."""
    assert parse_request_head(raw.partition(b"{")[0]).expect_continue is expected


@pytest.mark.parametrize(
    ("method", "value", "hops", "forward"),
    [
        (b"TRACE", b"3", 3, b""),
        (b"OPTIONS", b"0", 0, b""),
        (b"OPTIONS", b"9" * 18, 1_000_000, b""),
        (b"GET", b"x", None, b"Max-Forwards: x\r\n"),
    ],
)
def test_max_forwards(method, value, hops, forward):
    """Max-Forwards is read for TRACE and OPTIONS, and passes on other methods."""
    raw = get(fields=b"Max-Forwards: " + value + b"\r\n").replace(b"GET", method)
    head = parse_request_head(raw)
    assert (head.max_forwards, head.forward) == (hops, forward)


def test_options_without_max_forwards():
    """Without the field there is no hop count."""
    assert parse_request_head(get().replace(b"GET", b"OPTIONS")).max_forwards is None


def test_limits_are_the_callers():
    """The caller sets the limits of header count and target length."""
    assert refusal(get(fields=b"A: b\r\n" * 100)) == 431
    assert parse_request_head(get(fields=b"A: b\r\n" * 99)).fields[b"a"]
    with pytest.raises(WireError, match="414"):
        parse_request_head(get(b"/abc"), max_target=3)


def test_connect_answer_names_allowed_methods():
    """A 405 answer has Allow (RFC 9110 section 15.5.6)."""
    with pytest.raises(WireError) as caught:
        parse_request_head(b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n")
    assert caught.value.fields.startswith(b"Allow: GET")
    assert caught.value.reason == "CONNECT is not allowed"


def test_known_names_are_bounded(monkeypatch):
    """Random or long names are not cached once the table is full."""
    monkeypatch.setattr(module, "_names", {})
    monkeypatch.setattr(module, "_MAX_NAMES", 3)
    raw = get(fields=b"B: c\r\n" + b"L" * 65 + b": d\r\nC: c\r\nD: d\r\n")
    head = parse_request_head(raw)
    assert set(module._names) == {b"Host", b"B", b"C"}
    assert head.forward.count(b"\r\n") == 4


def test_llhttp_is_asked():
    """Input that llhttp refuses is refused, even if our own checks accept it."""
    with pytest.raises(WireError, match="malformed request head"):
        module._check_with_llhttp(b"FROBNICATE / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("raw", [b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"\r\n\r\n"])
def test_head_must_be_whole(raw):
    """The parser takes a whole head, and no empty line before it."""
    assert refusal(raw) == 400


@pytest.mark.parametrize(
    ("raw", "cut"), [(b"\r\n\r\nG", b"\r\nG"), (b"GET", b"GET"), (b"\r", b"\r")]
)
def test_one_leading_empty_line_is_cut(raw, cut):
    """At most one empty line before a request is accepted."""
    assert strip_leading_crlf(raw) == cut


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r",
        b"\r\n",
        b"\r\nGET",
        b"GET / HT",
        b"GET / HTTP/1.1\r",
        b"G / HTTP/1.1",
    ],
)
def test_promising_start_may_wait(raw):
    """An incomplete head that can become valid is not refused."""
    check_partial_head(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"GET /\n",
        b"GET /\r\r",
        b"GET /\r\n",
        b"\x16\x03\x01",
        b"G / RTSP/1.0\r\n",
    ],
)
def test_hopeless_start_is_refused_at_once(raw):
    """An incomplete head that can no longer become valid is refused."""
    with pytest.raises(WireError, match="400"):
        check_partial_head(raw)


@pytest.mark.parametrize(
    "raw",
    [b"GET / HTTP/1.1\r\nA: b\r\nC", b"GET / HTTP/1.1\r\nA\n", b"GET /\r\n", b"G\rE"],
)
def test_start_may_be_checked_in_parts(raw):
    """Checking only the new bytes gives the same result as checking all."""

    def refused(upto: int, start: int) -> bool:
        try:
            check_partial_head(raw[:upto], start)
        except WireError:
            return True
        return False

    for upto in range(1, len(raw) + 1):
        whole = refused(upto, 0)
        assert whole == refused(upto, upto - 1)
        if whole:
            return


@pytest.mark.parametrize(
    ("raw", "limit", "status"),
    [
        (b"GET /aaaa", None, 414),
        (b"\r\nGET /aaaa", None, 414),
        (b"GET / HTTP/1.1\r\nA: bbbb", None, 431),
        (b"GET /aaaa HTTP/1.1\r\nA: b", 8, 414),
    ],
)
def test_oversize_names_the_culprit(raw, limit, status):
    """Too long a request line gets 414, header fields get 431."""
    assert oversize_error(raw, limit).status == status

"""Wire rules against random splits and random bytes."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import h11
import httptools
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.chunked import ChunkedDecoder
from gateway.http.head import WireError, check_partial_head, parse_request_head
from gateway.http.proxyproto import parse_proxy_header
from gateway.http.response import read_answer_head
from tests.corpus.malformed import CASES, HOST
from tests.corpus.reader import read_all
from tests.corpus.wellformed import VALID

TOKEN = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=20)
TE = b"transfer-encoding"
VALUE = st.text(
    st.characters(
        min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"
    ).filter(lambda char: not "\x80" <= char <= "\x9f"),
    max_size=40,
)
# Bytes with a meaning in HTTP are weighted.
MARKS = (
    [b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b",", b";", b"\x00", b"0", b"5", b"//"],
    [b"GET / HTTP/1.1\r\n", b"POST ", b"HTTP/1.0", b"\r\n\r\n", HOST],
    [b"Transfer-Encoding: chunked", b"Content-Length", b"Connection: "],
)
WIRE_BYTES = st.lists(
    st.one_of(*map(st.sampled_from, MARKS), st.binary(max_size=4)), max_size=30
).map(b"".join)


def split(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Cut ``raw`` at these places (modulo its length)."""
    places = sorted({cut % (len(raw) + 1) for cut in cuts} | {0, len(raw)})
    return [raw[a:b] for a, b in pairwise(places)]


def refusal(raw: bytes) -> str:
    """The reason of the refusal; empty when the head is accepted."""
    try:
        parse_request_head(raw)
    except WireError as error:
        return error.reason
    return ""


CUTS = st.lists(st.integers(0, 5000), max_size=12)


@given(st.lists(st.sampled_from(VALID), min_size=1, max_size=4), CUTS)
def test_any_split_reads_the_same(exchanges, cuts):
    """Pipelined well-formed requests give the same result however they are cut."""
    raw = b"".join(valid.raw for valid in exchanges)
    requests, error, idle = read_all(split(raw, cuts))
    assert (error, idle) == (None, True)
    assert [(head.method, head.target, body) for head, body in requests] == [
        (valid.method, valid.target, valid.body) for valid in exchanges
    ]


@given(st.sampled_from([case for case in CASES if len(case.raw) < 5000]), CUTS)
def test_any_split_is_refused_alike(case, cuts):
    """A malformed request gets the same answer however it is cut."""
    requests, error, _ = read_all(split(case.raw, cuts))
    assert len(requests) == case.passes
    assert (error.status if error else 0) == case.status


@given(WIRE_BYTES)
def test_junk_raises_only_wire_errors(junk):
    """No input raises anything but `WireError`."""
    for parse in (
        parse_request_head,
        check_partial_head,
        parse_proxy_header,
        lambda raw: ChunkedDecoder().feed(raw),
        lambda raw: parse_request_head(b"GET / HTTP/1.1\r\n" + HOST + raw),
        lambda raw: read_answer_head(200, False, [(raw, raw)], "GET", drop=frozenset()),
    ):
        with contextlib.suppress(WireError):
            parse(junk)


@given(st.sampled_from(VALID), st.integers(0, 300), st.binary(min_size=1, max_size=1))
def test_llhttp_never_refuses_what_we_accept(valid, at, byte):
    """After a random change of one byte, llhttp accepts all that our checks accept."""
    raw = valid.raw.removeprefix(b"\r\n")
    raw = raw[: raw.find(b"\r\n\r\n") + 4]
    at %= len(raw) - 4
    changed = raw[:at] + byte + raw[at + 1 :]
    assert refusal(changed) != "malformed request head"


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=12))
def test_fields_keep_their_bytes(pairs):
    """Forwarded fields keep their bytes and their order."""
    lines = [b"y-%b:%b\r\n" % (a.encode(), b.encode("latin-1")) for a, b in pairs]
    raw = b"GET / HTTP/1.1\r\n" + HOST + b"".join(lines) + b"\r\n"
    assert parse_request_head(raw).forward == b"".join(lines)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), CUTS, st.binary())
def test_chunked_round_trip(parts, cuts, rest):
    """Any body in any chunks is decoded, and no byte after it is consumed."""
    raw = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    decoder = ChunkedDecoder()
    body, used = b"", 0
    for piece in [*split(raw, cuts)[:-1], split(raw, cuts)[-1] + rest]:
        found, count = decoder.feed(piece)
        body += b"".join(found)
        used += count
    assert (body, used, decoder.done) == (b"".join(parts), len(raw), True)


class _Seen:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


@given(st.sampled_from(VALID))
def test_forwarded_request_is_read_alike(valid):
    """llhttp reads the forwarded lines as the fields that we parsed."""
    ((head, _),), _, _ = read_all([valid.raw])
    seen = _Seen()
    raw = b"GET / HTTP/1.1\r\n" + head.forward + b"\r\n"
    httptools.HttpRequestParser(seen).feed_data(raw)
    for name, value in seen.headers:
        assert value.rstrip(b" \t") in head.fields[name.lower()].split(b", ")


def h11_reads(raw: bytes) -> tuple[str, bytes, dict[bytes, bytes], bytes]:
    """Method, target, fields and body as h11 reads them."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    fields: dict[bytes, bytes] = {}
    for name, value in request.headers:
        fields[name] = fields[name] + b", " + value if name in fields else value
    return request.method.decode(), request.target, fields, body


@given(st.sampled_from(VALID), st.integers(0, 300), st.binary(min_size=1, max_size=1))
def test_h11_reads_what_we_accept(valid, at, byte):
    """After a random change of one byte, h11 reads all that we accept as we do."""
    raw = valid.raw.removeprefix(b"\r\n")
    at %= raw.find(b"\r\n\r\n")
    requests, error, idle = read_all([raw[:at] + byte + raw[at + 1 :]])
    if error is None and idle and len(requests) == 1:
        ((head, body),) = requests
        seen = h11_reads(raw[:at] + byte + raw[at + 1 :])
        # h11 returns the name of a coding in lower case.
        fields = {**head.fields, **({TE: b"chunked"} if head.chunked else {})}
        assert (seen[0], seen[2], seen[3]) == (head.method, fields, body)
        assert head.scheme or seen[1] == head.target

"""The chunk decoder: any split, strict grammar, bounds."""

from __future__ import annotations

import pytest

from gateway.http.chunked import ChunkedDecoder
from gateway.http.head import WireError
from tests.corpus.malformed import CHUNK_BODIES

BODY = b'5\r\nhello\r\n00A;x="\\"\xff";y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n'
CUT_OR_ENDLESS = {"ext-never-ends"}


def decode(pieces: list[bytes]) -> tuple[bytes, ChunkedDecoder]:
    """The body bytes of these calls."""
    decoder = ChunkedDecoder()
    found = [part for piece in pieces for part in decoder.feed(piece)[0]]
    return b"".join(found), decoder


def test_whole_body_at_once():
    """One call returns the pieces and the bytes consumed."""
    decoder = ChunkedDecoder()
    pieces, used = decoder.feed(BODY + b"GET / HTTP/1.1")
    assert pieces == [b"hello", b"0123456789"]
    assert used == len(BODY)
    assert decoder.done


def test_byte_by_byte():
    """One byte per call gives the same body."""
    body, decoder = decode([BODY[i : i + 1] for i in range(len(BODY))])
    assert body == b"hello0123456789"
    assert decoder.done


def test_every_split_in_two():
    """Cut anywhere, the body is the same."""
    for cut in range(len(BODY) + 1):
        body, decoder = decode([BODY[:cut], BODY[cut:]])
        assert (body, decoder.done) == (b"hello0123456789", True)


def test_nothing_is_consumed_after_the_end():
    """After the end every byte belongs to the next request."""
    _, decoder = decode([BODY])
    assert decoder.feed(b"0\r\n\r\n") == ([], 0)


def test_not_done_before_the_last_line():
    """Without its final empty line the body has not ended."""
    _, decoder = decode([BODY[:-1]])
    assert not decoder.done


@pytest.mark.parametrize("name", CHUNK_BODIES)
def test_malformed_body_is_refused(name):
    """Each malformed body is refused with 400, whole and byte by byte."""
    body = CHUNK_BODIES[name][0]
    with pytest.raises(WireError, match="400"):
        decode([body])
    with pytest.raises(WireError, match="400"):
        decode([body[i : i + 1] for i in range(len(body))])


def test_bounds_are_inclusive():
    """Input at its limit passes."""
    extension = b";a=" + b"b" * 253
    assert decode([b"000000001" + extension + b"\r\nx\r\n0\r\n\r\n"])[1].done
    assert decode([b"0\r\nA: " + b"b" * 8184 + b"\r\n\r\n"])[1].done


def test_extension_bound_counts_the_extension_alone():
    """Fewer size digits do not allow a longer extension."""
    with pytest.raises(WireError, match="extensions"):
        decode([b"1;a=" + b"b" * 260 + b"\r\nx\r\n0\r\n\r\n"])


def test_endless_line_is_refused_while_it_runs():
    """A size line over its limit is refused before its end arrives."""
    with pytest.raises(WireError, match="too long"):
        decode([b"1;", b"a" * 300])

"""Bounded decoding."""

import gzip
import zlib

import brotli
import pytest
from backports import zstd

from gateway.metering.inflate import MEMBERS_MAX, PIECE_BYTES, InflateError, Inflater

TEXT = b"".join(b"%d words of text, " % n for n in range(20_000))


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


@pytest.mark.parametrize(
    ("coding", "coded"),
    [
        ("gzip", gzip.compress(TEXT)),
        (" X-GZip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("gzip", gzip.compress(TEXT) + b"\0\0\0"),
        ("br", brotli.compress(TEXT)),
        ("zstd", zstd.compress(TEXT)),
        ("ZSTD", zstd.compress(TEXT[:100]) + zstd.compress(TEXT[100:])),
    ],
)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_codings(coding, coded, size):
    """gzip (also of several members) and both forms of deflate decode in any pieces."""
    inflater = Inflater(coding, 1 << 24)
    pieces = [coded[at : at + size] for at in range(0, len(coded), size)]
    assert b"".join(map(inflater.feed, pieces)) == TEXT
    assert inflater.finished


def test_pieces_are_small():
    """A large body is decoded in bounded pieces."""
    inflater = Inflater("gzip", 1 << 24)
    pieces = list(inflater.pieces(gzip.compress(TEXT)))
    assert b"".join(pieces) == TEXT
    assert max(map(len, pieces)) <= PIECE_BYTES


def test_cut_short():
    """A truncated body is not finished."""
    inflater = Inflater("gzip", 1 << 24)
    assert TEXT.startswith(inflater.feed(gzip.compress(TEXT)[:5000]))
    assert not inflater.finished


def test_sizes_are_bounded():
    """A body too large, or too large for its coded size, raises an error that says so."""
    with pytest.raises(InflateError, match="large") as caught:
        Inflater("gzip", 1000).feed(gzip.compress(TEXT))
    assert caught.value.status == 413
    bomb = gzip.compress(bytes(8 << 20))
    with pytest.raises(InflateError, match="far") as caught:
        Inflater("gzip", 1 << 30).feed(bomb)
    assert caught.value.status == 413
    with pytest.raises(InflateError):
        Inflater("gzip", 1 << 22, 2000).feed(bomb)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_junk(coding):
    """Invalid bytes raise an InflateError."""
    with pytest.raises(InflateError, match="decoded") as caught:
        Inflater(coding, 1000).feed(b"\xff\xff\xff\xff no")
    assert caught.value.status == 400
    with pytest.raises(InflateError, match="unknown"):
        Inflater("compress", 1000)


def test_window_filled_exactly():
    """Output that remains in the decoder behind a full window is returned."""
    zeros = bytes(4 * PIECE_BYTES)
    coded = gzip.compress(zeros)
    for at in range(len(coded)):
        inflater = Inflater("gzip", 1 << 24, 10_000)
        assert inflater.feed(coded[:at]) + inflater.feed(coded[at:]) == zeros


@pytest.mark.parametrize("coding", ["gzip, gzip", "compress", "x", "", "br, gzip"])
def test_unknown_codings(coding):
    """A coding that cannot be decoded is told apart from a broken body."""
    with pytest.raises(InflateError, match="unknown") as caught:
        Inflater(coding, 1)
    assert caught.value.status == 415


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_empty_members_are_bounded(size):
    """A body of many gzip members that decode to nothing is refused; its work is small."""
    coded = gzip.compress(b"") * (MEMBERS_MAX + 1) + gzip.compress(TEXT)
    inflater = Inflater("gzip", 1 << 24)
    pieces = (coded[at : at + size] for at in range(0, len(coded), size))
    with pytest.raises(InflateError, match="members") as caught:
        b"".join(map(inflater.feed, pieces))
    assert caught.value.status == 400


@pytest.mark.parametrize("size", [777, 1 << 20])
def test_many_full_members_pass(size):
    """A stream with a member for each event decodes."""
    coded = b"".join(
        gzip.compress(TEXT[at : at + 300]) for at in range(0, 300_000, 300)
    )
    inflater = Inflater("gzip", 1 << 24)
    plain = b"".join(
        inflater.feed(coded[at : at + size]) for at in range(0, len(coded), size)
    )
    assert plain == TEXT[:300_000]
    assert inflater.finished


def test_padding_in_a_later_piece_is_ignored():
    """Whatever follows padding is not decoded either."""
    inflater = Inflater("gzip", 1 << 24)
    assert inflater.feed(gzip.compress(b"a")) == b"a"
    assert inflater.feed(bytes(9)) == b""
    assert inflater.feed(gzip.compress(b"b")) == b""
    assert inflater.finished

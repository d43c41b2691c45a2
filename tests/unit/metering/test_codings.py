"""Bounded decoding of br and zstd."""

from __future__ import annotations

import sys

import brotli
import pytest
from backports import zstd

from gateway.metering.codings import FRAMES_MAX, find_decoders
from gateway.metering.inflate import PIECE_BYTES, InflateError, Inflater

TEXT = b"".join(b"%d words of text, " % n for n in range(20_000))


@pytest.mark.parametrize(
    ("coding", "compress"), [("br", brotli.compress), ("zstd", zstd.compress)]
)
def test_other_codings_are_bounded(coding, compress):
    """Bombs and broken bodies in br and zstd are errors; pieces stay small."""
    bomb = compress(bytes(1 << 26))
    with pytest.raises(InflateError) as caught:
        Inflater(coding, 1 << 24).feed(bomb)
    assert caught.value.status == 413
    sizes = [len(piece) for piece in Inflater(coding, 1 << 27, 1e9).pieces(bomb)]
    assert sum(sizes) == 1 << 26
    assert max(sizes) <= 4 * PIECE_BYTES
    with pytest.raises(InflateError) as caught:
        Inflater(coding, 1 << 24).feed(b"\xff" * 100)
    assert caught.value.status == 400
    cut = Inflater(coding, 1 << 24)
    cut.feed(compress(TEXT)[:-3])
    assert not cut.finished


def test_many_frames():
    """A zstd body has a bounded number of frames."""
    frames = zstd.compress(b"a") * (FRAMES_MAX + 1)
    with pytest.raises(InflateError, match="frames"):
        Inflater("zstd", 1 << 24).feed(frames)


def test_without_libraries(monkeypatch):
    """Without the libraries these codings are unknown."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    assert find_decoders() == {}

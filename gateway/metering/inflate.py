"""Bounded decoding of content codings, for the copies of bodies that are read.

The forwarded bytes stay unchanged. Decoding stops where a small input would become a
large output (a decompression bomb), or where many members decode to little.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from gateway.metering.codings import Decoder, find_decoders

_DECODERS = find_decoders()
CODINGS = frozenset({"gzip", "x-gzip", "deflate", *_DECODERS})
# For Accept-Encoding of a refusal (RFC 9110, section 15.5.16).
ACCEPTED = ", ".join(["gzip", "deflate", *_DECODERS])
TOO_LARGE = 413
PIECE_BYTES = 64 * 1024
_ZLIB_HEADER_BYTES = 2
# Largest ratio of decoded to coded size. JSON and text reach 20, a stream of similar
# chunks 60; a decompression bomb up to zlib's maximum of 1,032.
RATIO_MAX = 200
# The ratio is checked only beyond this size, so that small repetitive bodies pass.
RATIO_FROM_BYTES = 512 * 1024
# Input decoded at a time: zlib copies the rest of its input after each piece of output
# and after each member.
SLICE_BYTES = 64 * 1024
# Members of a gzip body: encoders write one, or one for each block (bgzip: 64 KiB).
# More are accepted if they decode to so many bytes on average.
MEMBERS_MAX = 256
MEMBER_BYTES = 256


class InflateError(Exception):
    """The coding is unknown, the coded bytes are invalid, or their decoded form is too
    large. ``status``: of the refusal.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Inflater:
    """Decodes one body, fed in any pieces.

    ``max_bytes`` bounds the decoded size, ``max_ratio`` decoded size / coded size.
    """

    __slots__ = (
        "_begun",
        "_coded",
        "_decoded",
        "_decoder",
        "_max",
        "_members",
        "_other",
        "_padded",
        "_ratio",
    )

    def __init__(
        self, coding: str, max_bytes: int, max_ratio: float = RATIO_MAX
    ) -> None:
        coding = coding.strip().lower()
        if coding not in CODINGS:
            message = f"unknown content coding {coding[:64]!r}"
            raise InflateError(message, 415)
        make = _DECODERS.get(coding)
        self._other = None if make is None else make()
        # 47: gzip or zlib, detected by the header.
        self._decoder: Decoder = self._other or zlib.decompressobj(47)
        # deflate: the bytes so far, until its two header bytes have arrived.
        self._begun: bytes | None = b"" if coding == "deflate" else None
        self._max = max_bytes
        self._ratio = max_ratio
        self._coded = 0
        self._decoded = 0
        self._members = 1
        self._padded = False  # what follows the last member is padding

    @property
    def finished(self) -> bool:
        """Whether the coded body is complete."""
        return self._decoder.eof

    def feed(self, data: bytes) -> bytes:
        """Everything that ``data`` decodes to. Raises InflateError."""
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` decodes to, at most 64 KiB at a time. Raises InflateError."""
        self._coded += len(data)
        if self._begun is not None:
            data = self._begin(self._begun + data)
        for at in range(0, len(data), SLICE_BYTES):
            yield from self._slice(data[at : at + SLICE_BYTES])

    def _slice(self, data: bytes) -> Iterator[bytes]:
        if self._padded:
            return
        if self._other is None and self._decoder.eof:
            data = self._next_member(data)
        while data:
            piece = self._decode(data)
            if piece:
                yield piece
            data = self._rest()
            if not data and len(piece) == PIECE_BYTES:
                while piece := self._decode(b""):  # output still inside the decoder
                    yield piece
            while self._other is not None and self._other.pending:
                if piece := self._decode(b""):
                    yield piece

    def _begin(self, data: bytes) -> bytes:
        """Detect deflate without the zlib header (RFC 9110 section 8.4.1.2)."""
        if len(data) < _ZLIB_HEADER_BYTES:
            self._begun = data
            return b""
        self._begun = None
        if data[0] & 0x0F != zlib.DEFLATED or int.from_bytes(data[:2], "big") % 31:
            self._decoder = zlib.decompressobj(-15)
        return data

    def _decode(self, data: bytes) -> bytes:
        try:
            piece = self._decoder.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise InflateError(f"body cannot be decoded: {error}") from None
        self._decoded += len(piece)
        self._check()
        return piece

    def _rest(self) -> bytes:
        """Input not decoded yet; a gzip body may consist of several members."""
        decoder = self._decoder
        if self._other is not None or not decoder.eof:
            return decoder.unconsumed_tail
        rest = decoder.unused_data
        return self._next_member(rest) if rest else b""

    def _next_member(self, data: bytes) -> bytes:
        """Begin the gzip member that ``data`` begins with; b"" if it is padding."""
        if data[:2] != b"\x1f\x8b"[: len(data)]:
            self._padded = True  # ignored, as gzip does
            return b""
        self._members += 1
        if self._members > MEMBERS_MAX + self._decoded // MEMBER_BYTES:
            raise InflateError("body has too many gzip members")
        self._decoder = zlib.decompressobj(47)
        return data

    def _check(self) -> None:
        if self._decoded > self._max:
            raise InflateError("decoded body is too large", TOO_LARGE)
        if (
            self._decoded > RATIO_FROM_BYTES
            and self._decoded > self._ratio * self._coded
        ):
            raise InflateError("body is compressed too far", TOO_LARGE)

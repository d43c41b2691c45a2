"""Bounded decoding of gzip and deflate, for the copies that are read.

What is forwarded stays as it came; this decodes a copy, and stops where a small input
would become a large output.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
PIECE_BYTES = 64 * 1024
# A body this much larger than its coded form is a bomb; zlib's best is 1,032.
# JSON and text reach 20, a stream of alike chunks 60.
RATIO_MAX = 200
# ... judged only beyond this, so that tiny repetitive bodies pass.
RATIO_FROM_BYTES = 1024 * 1024


class InflateError(Exception):
    """The coded bytes are broken, or their decoded form is too large."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class Inflater:
    """Decodes one body, fed in any pieces.

    ``max_bytes`` bounds the decoded size, ``max_ratio`` decoded by coded size.
    """

    __slots__ = ("_coded", "_decoded", "_decoder", "_max", "_ratio", "_raw")

    def __init__(
        self, coding: str, max_bytes: int, max_ratio: float = RATIO_MAX
    ) -> None:
        coding = coding.strip().lower()
        if coding not in CODINGS:
            raise InflateError(f"unknown content coding {coding!r}")
        self._raw = coding == "deflate"
        # 47: zlib or gzip, told by the header.
        self._decoder = zlib.decompressobj(47)
        self._max = max_bytes
        self._ratio = max_ratio
        self._coded = 0
        self._decoded = 0

    @property
    def finished(self) -> bool:
        """Whether the coded body has come to its proper end."""
        return self._decoder.eof

    def feed(self, data: bytes) -> bytes:
        """Everything that ``data`` decodes to. Raises InflateError."""
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` decodes to, at most 64 KiB at a time. Raises InflateError."""
        self._coded += len(data)
        while data:
            piece = self._decode(data)
            if piece:
                self._decoded += len(piece)
                self._check()
                yield piece
            data = self._rest()
            if not data and len(piece) == PIECE_BYTES:
                # The window was full: more may be waiting inside.
                data = b""
                yield from self._drain()

    def _drain(self) -> Iterator[bytes]:
        while piece := self._decode(b""):
            self._decoded += len(piece)
            self._check()
            yield piece

    def _decode(self, data: bytes) -> bytes:
        try:
            return self._decoder.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            if self._raw and not self._decoded:
                return self._retry_raw(data)
            raise InflateError(f"body cannot be decoded: {error}") from None

    def _retry_raw(self, data: bytes) -> bytes:
        """Some senders of ``deflate`` leave out the zlib header (RFC 9110 8.4.1.2)."""
        self._raw = False
        self._decoder = zlib.decompressobj(-15)
        return self._decode(data)

    def _rest(self) -> bytes:
        """Input not taken in yet; a gzip body may hold several members."""
        decoder = self._decoder
        if not decoder.eof:
            return decoder.unconsumed_tail
        rest = decoder.unused_data
        if rest:
            if rest[:2] != b"\x1f\x8b"[: len(rest)]:
                return b""  # padding after the end is ignored, as gzip does
            self._decoder = zlib.decompressobj(47)
        return rest

    def _check(self) -> None:
        if self._decoded > self._max:
            raise InflateError("decoded body is too large", too_large=True)
        if (
            self._decoded > RATIO_FROM_BYTES
            and self._decoded > self._ratio * self._coded
        ):
            raise InflateError("body is compressed too far", too_large=True)

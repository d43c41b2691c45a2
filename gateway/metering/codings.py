"""Decoders of br and zstd, where a library is installed (``tidegate[codings]``).

They have the interface of ``zlib.decompressobj``, with ``pending``: output is left for
a call without input.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

# RFC 9659: the largest window that HTTP decoders must support is 8 MiB.
_ZSTD_WINDOW_LOG = 23
# Frames of a zstd body: encoders write one.
FRAMES_MAX = 256
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")


class Decoder(Protocol):
    """What ``Inflater`` needs of a decoder."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class BrotliDecoder:
    """RFC 7932. Raises zlib.error."""

    unused_data = unconsumed_tail = b""

    def __init__(self, module: Any) -> None:
        self._decoder = module.Decompressor()
        self._error = module.error
        self._more = False

    @property
    def eof(self) -> bool:
        return bool(self._decoder.is_finished())

    @property
    def pending(self) -> bool:
        return self._more and not self.eof

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        try:
            piece = bytes(self._decoder.process(data, output_buffer_limit=max_length))
        except self._error as error:
            raise zlib.error(str(error)) from None
        self._more = bool(piece)  # perhaps: it does not say
        return piece


class ZstdDecoder:
    """RFC 8878, several frames. Raises zlib.error."""

    unused_data = unconsumed_tail = b""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._frames = 0
        self._begin()

    def _begin(self) -> None:
        window = {self._module.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._decoder = self._module.ZstdDecompressor(options=window)
        self._next = b""
        self._frames += 1
        if self._frames > FRAMES_MAX:
            raise zlib.error("too many frames")

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof) and not self._next

    @property
    def pending(self) -> bool:
        decoder = self._decoder
        return bool(self._next) or not (decoder.eof or decoder.needs_input)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if self._decoder.eof:
            data = self._next + data
            if not data:
                return b""
            self._begin()
        try:
            piece = bytes(self._decoder.decompress(data, max_length))
        except self._module.ZstdError as error:
            raise zlib.error(str(error)) from None
        if self._decoder.eof:
            self._next = bytes(self._decoder.unused_data)
        return piece


def _found(*names: str) -> Any:
    """The first of these modules that is installed; None: none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def find_decoders() -> dict[str, Callable[[], BrotliDecoder | ZstdDecoder]]:
    """Makers of decoders by content coding."""
    found: dict[str, Callable[[], BrotliDecoder | ZstdDecoder]] = {}
    brotli, zstd = _found("brotli"), _found(*_ZSTD_MODULES)
    if brotli is not None:
        found["br"] = lambda: BrotliDecoder(brotli)
    if zstd is not None:
        found["zstd"] = lambda: ZstdDecoder(zstd)
    return found

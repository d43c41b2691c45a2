"""External merge sort of requests by time.

Records are written when requests end, files of several gateways overlap, and exports
come in any order. Up to one run is sorted in memory; more are written as sorted runs to
the system's temporary directory and merged.
"""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterator
from operator import attrgetter
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from gateway.replay.requests import Request

# Requests in one run: about 120 MB of memory.
RUN: Final = 250_000
_BLOCK: Final = 2000
_LENGTH: Final = struct.Struct(">I")

_when = attrgetter("ts")
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(list[Request]).decode


class Sorter:
    """Takes requests in any order and iterates over them by time; equal times keep
    their order of arrival. Leaving the context removes the temporary files.
    """

    def __init__(self, run: int = RUN) -> None:
        self._run = run
        self._held: list[Request] = []
        self._files: list[IO[bytes]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()

    def add(self, request: Request) -> None:
        """Add a request. Raises OSError when a temporary file cannot be written."""
        self._held.append(request)
        self._count += 1
        if len(self._held) >= self._run:
            self._write_run()

    def _write_run(self) -> None:
        self._held.sort(key=_when)
        file = tempfile.TemporaryFile(prefix="tidegate-")  # noqa: SIM115 - __exit__
        self._files.append(file)
        for start in range(0, len(self._held), _BLOCK):
            block = _encode(self._held[start : start + _BLOCK])
            file.write(_LENGTH.pack(len(block)))
            file.write(block)
        self._held.clear()

    def __iter__(self) -> Iterator[Request]:
        """All requests, oldest first."""
        self._held.sort(key=_when)
        if not self._files:
            return iter(self._held)
        runs = [_read_run(file) for file in self._files]
        return heapq.merge(*runs, self._held, key=_when)


def _read_run(file: IO[bytes]) -> Iterator[Request]:
    file.seek(0)
    while head := file.read(_LENGTH.size):
        yield from _decode(file.read(_LENGTH.unpack(head)[0]))

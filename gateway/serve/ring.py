"""Ring buffer of records from a worker to control, in a memory-mapped file.

One writer (the worker), one reader (control), no lock and no system call. Batches over
the link would cost a write and a read each, and records in the worker's memory would be
lost with a SIGKILL. Pages of a mapped file belong to the kernel: a record appended just
before its worker is killed is still read, and after control is killed the next one
continues at the committed head. The cost is a fixed size: while control is down for
longer than the ring lasts, records are dropped and counted; the worker never waits.

The file: one page of header (magic, capacity, head, tail, drops, each on its own cache
line), then ``capacity`` bytes. Head and tail only grow; a position is the offset modulo
the capacity. An entry is its length, the CRC-32 of its bytes, the bytes, padded to 8. An
entry never wraps: a marker skips the bytes before the end. The tail is stored last, in
one aligned 8-byte write. The CRC covers machines that reorder stores (not x86): an entry
that does not match has not arrived completely.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from zlib import crc32

DEFAULT_BYTES = 8 * 1024 * 1024
HEADER_BYTES = 4096
# Entries larger than 1/MAX_SHARE of the ring are refused: they could starve others.
MAX_SHARE = 8

_MAGIC = b"tgring01"
_ENTRY = struct.Struct("<II")
_pack_into = _ENTRY.pack_into
_CAPACITY, _HEAD, _TAIL, _DROPS = 8, 64, 128, 192  # byte offsets in the header
_SKIP = 0xFFFFFFFF
# An entry that is unreadable for this many reads (one second at 10 Hz) is damaged.
_MAX_RETRIES = 10


class RingError(Exception):
    """The file is not a ring of this version."""


def create_ring(path: str, capacity: int = DEFAULT_BYTES) -> None:
    """Create the file with all blocks reserved. An existing ring is kept with its capacity
    and its entries; a file that is not a ring of this version is replaced.

    ``capacity``: bytes, a power of two. Raises OSError on a full disk, where writing to a
    sparse file would end the worker by SIGBUS later.
    """
    if capacity < HEADER_BYTES or capacity & (capacity - 1):
        msg = f"capacity must be a power of two, not {capacity}"
        raise ValueError(msg)
    with suppress(FileNotFoundError, RingError):
        _map(path).close()
        return
    draft = f"{path}.new"
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(fd, 0, HEADER_BYTES + capacity)
        os.pwrite(fd, _MAGIC + struct.pack("<Q", capacity), 0)
        os.rename(draft, path)
    except OSError:
        os.unlink(draft)
        raise
    finally:
        os.close(fd)


def _map(path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        if size <= HEADER_BYTES:
            msg = f"{path} is not a ring"
            raise RingError(msg)
        pages = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    (capacity,) = struct.unpack_from("<Q", pages, _CAPACITY)
    if pages[:8] != _MAGIC or capacity != size - HEADER_BYTES:
        pages.close()
        msg = f"{path} is not a ring of this version"
        raise RingError(msg)
    return pages


class _Ring:
    """The mapped file, with head, tail and drops as 8-byte views."""

    __slots__ = ("_capacity", "_drops", "_head", "_mask", "_pages", "_tail", "_words")

    def __init__(self, path: str) -> None:
        self._pages = _map(path)
        self._capacity = len(self._pages) - HEADER_BYTES
        self._mask = self._capacity - 1
        self._words = memoryview(self._pages)
        self._head = self._words[_HEAD : _HEAD + 8].cast("Q")
        self._tail = self._words[_TAIL : _TAIL + 8].cast("Q")
        self._drops = self._words[_DROPS : _DROPS + 8].cast("Q")

    @property
    def dropped(self) -> int:
        """Entries dropped since the file was created, by any writer."""
        return self._drops[0]

    def close(self) -> None:
        """Unmap; the content of the file is kept."""
        for view in (self._head, self._tail, self._drops, self._words):
            view.release()
        self._pages.close()


class RingWriter(_Ring):
    """The worker's end. A restarted worker continues at the stored tail."""

    __slots__ = ("_limit", "_next", "_room_until")

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._limit = self._capacity // MAX_SHARE
        self._next = self._tail[0]
        # The tail may grow up to here without reading the head again.
        self._room_until = self._head[0] + self._capacity

    def append(self, payload: bytes) -> bool:
        """Append an entry; False if there is no room: it is dropped and counted."""
        size = len(payload)
        start = self._next
        at = start & self._mask
        end = at + size + 8
        after = start + ((size + 15) & -8)
        if after > self._room_until or end > self._capacity or size > self._limit:
            return self._append_slow(payload)
        pages = self._pages
        at += HEADER_BYTES
        _pack_into(pages, at, size, crc32(payload))
        pages[at + 8 : end + HEADER_BYTES] = payload
        self._next = self._tail[0] = after
        return True

    def _append_slow(self, payload: bytes) -> bool:
        """Slow path: too little known room, or the end of the file is too close."""
        size = len(payload)
        if size > self._limit:
            return self._drop()
        self._room_until = self._head[0] + self._capacity
        at = self._next & self._mask
        left = self._capacity - at
        needed = (size + 15) & -8
        skipped = left if size + 8 > left else 0
        if self._next + skipped + needed > self._room_until:
            return self._drop()
        if skipped:
            _pack_into(self._pages, HEADER_BYTES + at, _SKIP, 0)
            self._next = self._tail[0] = self._next + skipped
        return self.append(payload)

    def _drop(self) -> bool:
        self._drops[0] += 1
        return False


class RingReader(_Ring):
    """Control's end: ``read``, store the entries, ``commit``."""

    __slots__ = ("_cursor", "_stuck", "damaged")

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._cursor = self._head[0]
        self._stuck = 0
        self.damaged = 0
        """Number of times that unreadable bytes were skipped."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes not read yet."""
        return self._tail[0] - self._cursor

    def read(self, limit: int = 1 << 30) -> list[bytes]:
        """Read up to ``limit`` further entries, oldest first."""
        entries: list[bytes] = []
        pages = self._pages
        tail = self._tail[0]
        cursor = self._cursor
        while cursor < tail and len(entries) < limit:
            at = cursor & self._mask
            size, crc = _ENTRY.unpack_from(pages, HEADER_BYTES + at)
            if size == _SKIP:
                cursor += self._capacity - at
                continue
            start = HEADER_BYTES + at + 8
            entry = pages[start : start + size]
            if size > self._capacity - at - 8 or crc32(entry) != crc:
                cursor = self._unreadable(cursor, tail)
                break
            entries.append(entry)
            cursor += (size + 15) & -8
            self._stuck = 0
        self._cursor = cursor
        return entries

    def commit(self) -> None:
        """Release the space of the entries that were read."""
        self._head[0] = self._cursor

    def _unreadable(self, cursor: int, tail: int) -> int:
        """Retry an incomplete entry; after _MAX_RETRIES reads, skip to the tail."""
        self._stuck += 1
        if self._stuck < _MAX_RETRIES:
            return cursor
        self._stuck = 0
        self.damaged += 1
        return tail

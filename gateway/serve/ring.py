"""Records on their way from a worker to control: a ring in an mmap'ed file.

One writer (the worker), one reader (control), no lock and no system call. Batches over
the link would cost the worker a write and control a read each, and whatever sat in the
worker's memory would be gone with a SIGKILL. Pages of a mapped file belong to the
kernel: a record appended an instant before its worker is killed is still read, and a
control that is killed leaves the head where its predecessor's sinks had got to, so the
next one goes on there. The price is a fixed size: a control that is away longer than
the ring lasts costs counted drops, never memory and never a wait.

The file: one page of header (magic, capacity, head, tail, drops, each on its own cache
line), then ``capacity`` bytes. Head and tail only grow; a position is the offset modulo
the capacity. An entry is its length, the CRC-32 of its bytes, the bytes, padded to 8. An
entry never wraps: what is left before the end is skipped by a marker. The tail is stored
last, in one aligned 8-byte write. The CRC is for what cannot happen on x86 and might on
machines that reorder stores: an entry that does not match is not there yet.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from zlib import crc32

DEFAULT_BYTES = 8 * 1024 * 1024
HEADER_BYTES = 4096
# An entry larger than this share of the ring is refused (it could starve the rest).
MAX_SHARE = 8

_MAGIC = b"tgring01"
_ENTRY = struct.Struct("<II")
_pack_into = _ENTRY.pack_into
_CAPACITY, _HEAD, _TAIL, _DROPS = 8, 64, 128, 192  # byte offsets in the header
_SKIP = 0xFFFFFFFF
# An entry that stays unreadable for so many reads (at 10 Hz: a second) is damage.
_PATIENCE = 10


class RingError(Exception):
    """The file is not a ring (or not one of this version)."""


def create_ring(path: str, capacity: int = DEFAULT_BYTES) -> None:
    """Make the file, all its blocks reserved; an existing ring stays as it is.

    ``capacity`` is a power of two. Raises OSError when there is no room: a sparse file
    would be SIGBUS for the worker later.
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
    """The mapped file, with its words as plain 8-byte cells."""

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
        """Entries refused since the file was made, whoever wrote."""
        return self._drops[0]

    def close(self) -> None:
        """Unmap; what is in the file stays for whoever comes next."""
        for view in (self._head, self._tail, self._drops, self._words):
            view.release()
        self._pages.close()


class RingWriter(_Ring):
    """The worker's end. A restarted worker goes on at the tail it finds."""

    __slots__ = ("_limit", "_next", "_room_until")

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._limit = self._capacity // MAX_SHARE
        self._next = self._tail[0]
        # The tail may grow to here without a look at the reader's head.
        self._room_until = self._head[0] + self._capacity

    def append(self, payload: bytes) -> bool:
        """False when there is no room: the entry is dropped, and counted."""
        size = len(payload)
        start = self._next
        at = start & self._mask
        end = at + size + 8
        after = start + ((size + 15) & -8)
        if after > self._room_until or end > self._capacity or size > self._limit:
            return self._append_slowly(payload)
        pages = self._pages
        at += HEADER_BYTES
        _pack_into(pages, at, size, crc32(payload))
        pages[at + 8 : end + HEADER_BYTES] = payload
        self._next = self._tail[0] = after
        return True

    def _append_slowly(self, payload: bytes) -> bool:
        """No room by what was known, or the end of the file in the way."""
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
    """Control's end: ``read``, bring it to safety, ``commit``."""

    __slots__ = ("_cursor", "_stuck", "damaged")

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._cursor = self._head[0]
        self._stuck = 0
        self.damaged = 0
        """Times that unreadable bytes had to be given up."""

    @property
    def waiting_bytes(self) -> int:
        """How much is not read yet."""
        return self._tail[0] - self._cursor

    def read(self, limit: int = 1 << 30) -> list[bytes]:
        """Up to ``limit`` entries after those read before, oldest first."""
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
        """What was read is safe: its room belongs to the writer again."""
        self._head[0] = self._cursor

    def rewind(self) -> None:
        """Read again from the last commit on."""
        self._cursor = self._head[0]

    def _unreadable(self, cursor: int, tail: int) -> int:
        """Wait for stores that are late; when they never come, skip to the tail."""
        self._stuck += 1
        if self._stuck < _PATIENCE:
            return cursor
        self._stuck = 0
        self.damaged += 1
        return tail

"""A file of changes, appended one by one, that outlives a SIGKILL.

The first entry is a whole state, each further one a change of it. What a full disk takes
only in part ends the file: whatever came behind it could not be read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

_FRAME = struct.Struct(">I")


class Journal:
    """Raises OSError only where an existing file cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    @property
    def is_written(self) -> bool:
        """Whether entries reach the file: a full disk ends that, ``begin`` mends it."""
        return self._file is not None

    def entries(self) -> Iterator[bytes]:
        """What a predecessor wrote, as far as it is whole."""
        with suppress(FileNotFoundError), open(self._path, "rb") as file:
            yield from _frames(file.read())

    def begin(self, state: bytes) -> None:
        """A new file in place of the old, in one step; on a full disk the old stays."""
        self.close()
        draft = f"{self._path}.new"
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = open(fd, "wb", buffering=0)  # noqa: SIM115 - kept open
            self.append(state)
            if self._file is not None:
                os.replace(draft, self._path)
        except OSError:
            self.close()

    def append(self, content: bytes) -> None:
        """One entry, or the end of the file."""
        frame = _FRAME.pack(len(content)) + content
        try:
            written = 0 if self._file is None else self._file.write(frame)
        except OSError:
            written = 0
        if written != len(frame):
            self.close()

    def close(self) -> None:
        """Leave the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Nothing in it is needed any more."""
        self.close()
        with suppress(OSError):
            os.unlink(self._path)


def _frames(content: bytes) -> Iterator[bytes]:
    """Whole frames; what a kill cut off is left out."""
    at = 0
    while at + _FRAME.size <= len(content):
        (size,) = _FRAME.unpack_from(content, at)
        at += _FRAME.size
        if at + size > len(content):
            return
        yield content[at : at + size]
        at += size

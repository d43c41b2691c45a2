"""Records as JSON lines in a file that is rotated by size.

Written by control only. Each batch is one write of whole lines. Lines that the disk
refuses are dropped and counted, and the file is reopened at the next batch; proxying is
not affected.

After a SIGKILL the last batch is still in the rings and may be in the file as well. A
sink therefore remembers the last lines of the file that it opens, and skips them in the
backlog.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

# More than one batch: what a killed process may have written without committing it.
_TAIL_BYTES = 4 * 1024 * 1024


class FileSink:
    """Append lines to ``path``; older ones are in ``path.1`` (newest) … ``path.keep``.

    The file is rotated once it has ``max_bytes``; it may exceed them by one batch, because
    a batch is never split.
    """

    def __init__(self, path: str, *, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1
        self._size = 0
        self._seen: frozenset[bytes] = frozenset()
        self.written = 0
        """Lines written by this sink."""
        self.dropped = 0
        """Lines dropped because the disk refused them."""
        self.error = ""
        """Error of the last batch, "" if it was written."""

    def start(self) -> None:
        """Open the file and remember its last lines."""
        try:
            self._open()
            self._seen = self._last_lines()
        except OSError as error:
            self._failed(error)

    def caught_up(self) -> None:
        """End of the backlog: later lines cannot be in the file already."""
        self._seen = frozenset()

    def write(self, lines: Sequence[bytes]) -> None:
        """Append a batch (lines without their ends). Never raises."""
        if self._seen:
            lines = [line for line in lines if line not in self._seen]
        if not lines:
            return
        try:
            if self._fd < 0:
                self._open()
            if self._size >= self._max_bytes:
                self._rotate()
            self._append(b"\n".join(lines) + b"\n")
        except OSError as error:
            self.dropped += len(lines)
            self._failed(error)
        else:
            self.written += len(lines)
            self.error = ""

    def public(self) -> dict[str, object]:
        """State for the status page."""
        return {
            "path": self._path,
            "written": self.written,
            "dropped": self.dropped,
            "error": self.error,
        }

    def close(self) -> None:
        """Flush to disk and close."""
        if self._fd >= 0:
            with suppress(OSError):
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _append(self, batch: bytes) -> None:
        """Append the whole batch; undo a partial write when the disk is full."""
        done = 0
        try:
            while done < len(batch):
                done += os.write(self._fd, batch[done:] if done else batch)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += done

    def _open(self) -> None:
        """Open the file for appending; create it and its directory if needed. Raises
        OSError.
        """
        directory = os.path.dirname(self._path)
        if directory:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        """Remove an incomplete last line, which a loss of power may leave."""
        start = max(0, self._size - _TAIL_BYTES)
        tail = os.pread(self._fd, self._size - start, start)
        if tail and not tail.endswith(b"\n"):
            self._size = start + tail.rfind(b"\n") + 1
            os.ftruncate(self._fd, self._size)

    def _last_lines(self) -> frozenset[bytes]:
        start = max(0, self._size - _TAIL_BYTES)
        return frozenset(os.pread(self._fd, self._size - start, start).split(b"\n"))

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        if self._keep == 0:
            os.unlink(self._path)
        else:
            for number in range(self._keep - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.replace(self._path, f"{self._path}.1")
        self._open()

    def _failed(self, error: OSError) -> None:
        self.error = f"{self._path}: {error.strerror or error}"
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1

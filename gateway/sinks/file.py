"""Records as JSON lines in a file that turns over by size.

Only control writes it. Each batch is one write of whole lines; what the disk refuses is
dropped and counted, the file is opened again at the next batch, and proxying never
notices.

After a SIGKILL the batch that was being written is in the rings still, and may be in
the file already. So a sink that opens a file remembers its last lines, and a line of
the first batches that is among them is not written twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

# More than one batch of a drain: what a killed predecessor may have written uncommitted.
_TAIL_BYTES = 4 * 1024 * 1024


class FileSink:
    """Appends lines to ``path``; ``path.1`` (newest) … ``path.keep`` hold what was.

    ``max_bytes`` is when a file is turned over, not a bound to the byte: a batch is
    never torn apart.
    """

    def __init__(self, path: str, *, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1
        self._size = 0
        self._seen: frozenset[bytes] = frozenset()
        self.written = 0
        """Lines in the file, by this sink."""
        self.dropped = 0
        """Lines that the disk refused."""
        self.error = ""
        """Why the last batch failed ("" when it did not)."""

    def start(self) -> None:
        """Open the file and learn what a predecessor wrote last."""
        try:
            self._open()
            self._seen = self._last_lines()
        except OSError as error:
            self._failed(error)

    def caught_up(self) -> None:
        """What a predecessor left has been read: lines are new from here on."""
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
                self._turn_over()
            self._append(b"\n".join(lines) + b"\n")
        except OSError as error:
            self.dropped += len(lines)
            self._failed(error)
        else:
            self.written += len(lines)
            self.error = ""

    def public(self) -> dict[str, object]:
        """As the status page shows it."""
        return {
            "path": self._path,
            "written": self.written,
            "dropped": self.dropped,
            "error": self.error,
        }

    def close(self) -> None:
        """Everything written reaches the disk."""
        if self._fd >= 0:
            with suppress(OSError):
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _append(self, batch: bytes) -> None:
        """All of it, or (disk full in the middle) none of it."""
        done = 0
        try:
            while done < len(batch):
                done += os.write(self._fd, batch[done:] if done else batch)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += done

    def _open(self) -> None:
        directory = os.path.dirname(self._path)
        if directory:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        """A machine that lost power may leave half a line, which no reader can use."""
        start = max(0, self._size - _TAIL_BYTES)
        tail = os.pread(self._fd, self._size - start, start)
        if tail and not tail.endswith(b"\n"):
            self._size = start + tail.rfind(b"\n") + 1
            os.ftruncate(self._fd, self._size)

    def _last_lines(self) -> frozenset[bytes]:
        start = max(0, self._size - _TAIL_BYTES)
        return frozenset(os.pread(self._fd, self._size - start, start).split(b"\n"))

    def _turn_over(self) -> None:
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

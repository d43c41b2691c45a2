"""Sources of lines: standard input, a file, a gzip file, a file that is followed."""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from typing import BinaryIO, Protocol

STDIN = "-"
# Records are under 1 kB; events may carry long prompts.
LINE_LIMIT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18
# Poll interval of a followed file.
_POLL_S = 0.2
_KAFKA = ("kafka://", "kafka+ssl://")


class SourceError(Exception):
    """An input that cannot be read; the text says which and why."""


class Readable(Protocol):
    """A source that returns available bytes and waits only for the first one."""

    def read1(self, size: int, /) -> bytes: ...


class Splitter:
    """Splits chunks of bytes into lines.

    A line over the limit is cut one byte above it, so that the caller can detect it.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in ``chunk``, without newline characters."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()[: LINE_LIMIT_BYTES + 1]
        return lines

    def end(self) -> list[bytes]:
        """The last line if no newline ended it."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def check_name(name: str, *, follow: bool) -> None:
    """Raise SourceError for a source that is not supported."""
    if name.startswith(_KAFKA):
        raise SourceError(f"{name}: reading from Kafka comes with a later version")
    if follow and name == STDIN:
        raise SourceError("--follow needs a file; standard input is followed anyway")
    if follow and name.endswith(".gz"):
        raise SourceError(f"{name}: a compressed file cannot be followed")


def read_file(name: str, passed: Callable[[int], None]) -> Iterator[bytes]:
    """The lines of a file; ``passed`` is called with the bytes read so far.

    Raises SourceError when reading fails, also in the middle.
    """
    try:
        with open(name, "rb") as file:
            lines = _unzip(file) if name.endswith(".gz") else file
            yield from read_lines(lines, lambda: passed(file.tell()))
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"cannot read {name}: {_why(error)}") from None


def read_stdin() -> Iterator[bytes]:
    """The lines of standard input; raises SourceError if it is closed."""
    try:
        with open(0, "rb", closefd=False) as file:
            yield from read_lines(file)
    except OSError as error:
        raise SourceError(f"cannot read standard input: {_why(error)}") from None


def read_lines(
    source: Readable, after_chunk: Callable[[], None] = lambda: None
) -> Iterator[bytes]:
    """The lines of an open source until its end, each as soon as it is complete.

    ``after_chunk`` is called when all lines of a chunk are consumed.
    """
    splitter = Splitter()
    while chunk := source.read1(_CHUNK_BYTES):
        yield from splitter.feed(chunk)
        after_chunk()
    yield from splitter.end()


def follow_file(
    name: str, wait: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """The lines of a file and all that are appended later, without end. A replaced or
    truncated file is read from its start. Raises SourceError when it cannot be opened.
    """
    try:
        file: BufferedReader = open(name, "rb")  # noqa: SIM115 - closed by ``finally``
    except OSError as error:
        raise SourceError(f"cannot read {name}: {_why(error)}") from None
    splitter = Splitter()
    try:
        while True:
            # Checked before reading, so that lines written before a rename are read.
            replaced = _replaced(name, file)
            while chunk := file.read1(_CHUNK_BYTES):
                yield from splitter.feed(chunk)
            if replaced:
                yield from splitter.end()
                file.close()
                file = open(name, "rb")  # noqa: SIM115 - as above
            else:
                wait(_POLL_S)
    except OSError as error:
        raise SourceError(f"cannot read {name}: {_why(error)}") from None
    finally:
        file.close()


def _replaced(name: str, file: BinaryIO) -> bool:
    """Whether the name refers to another file now, or the file was truncated."""
    held = os.fstat(file.fileno())
    try:
        named = os.stat(name)
    except FileNotFoundError:  # during a rotation
        return False
    if (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino):
        return True
    return file.seekable() and held.st_size < file.tell()


def _unzip(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file, mode="rb")


def _why(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error) or type(error).__name__

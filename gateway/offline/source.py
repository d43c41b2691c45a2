"""Files of past requests, a chunk at a time: CSV, JSON lines (both also gzipped),
Parquet. A chunk is a polars frame with the lines of its rows, so a file may be larger
than memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Literal, TypeAlias

import msgspec
import polars as pl

from gateway.offline.errors import InputError

Format: TypeAlias = Literal["csv", "jsonl", "parquet"]
# Bytes of text that become one frame: large enough to keep polars busy.
CHUNK_BYTES = 24 << 20
CHUNK_ROWS = 400_000
# The column that holds each row's line (1 is the first line of the file).
LINE = "__line"
# A quoted cell with line ends in it is followed as far as this; a lone quote is not.
_QUOTED_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MAGIC = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_MAGIC = b"PAR1"
_SEPARATORS = ",;\t|"
_SAMPLE_LINES = 200


class Piece(msgspec.Struct, frozen=True):
    """Whole lines of a text file and the number of the first."""

    text: bytes
    line: int
    passed: int  # bytes of the file read so far, as they are on disk


class LogSource(msgspec.Struct, frozen=True):
    """One file, looked at: its format and the names of its columns."""

    name: str
    format: Format
    zipped: bool
    columns: tuple[str, ...]
    separator: str = ","

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return os.path.getsize(self.name)


def open_source(name: str) -> LogSource:
    """Look at a file; raises InputError when it cannot be read or has nothing in it."""
    with _reading(name):
        with open(name, "rb") as file:
            magic = file.read(4)
        if magic[:2] in _UTF16_MAGIC:
            raise InputError(f"{name}: the text is UTF-16; save it as UTF-8")
        if magic == _PARQUET_MAGIC:
            schema = pl.read_parquet_schema(name)
            return LogSource(name, "parquet", zipped=False, columns=tuple(schema))
        zipped = magic[:2] == _GZIP_MAGIC
        with _open(name, zipped=zipped) as text:
            head = [text.readline(_QUOTED_BYTES) for _ in range(_SAMPLE_LINES)]
    lines = [line for line in head if line.strip()]
    if not lines:
        raise InputError(f"{name}: the file is empty")
    start = lines[0].lstrip(b"\xef\xbb\xbf \t")
    if re.match(rb"\[\s*(\{|$)", start):
        raise InputError(
            f"{name}: a JSON array; one object a line is read: jq -c '.[]' makes it so"
        )
    if start.startswith(b"{"):
        return LogSource(name, "jsonl", zipped=zipped, columns=_json_names(lines))
    separator = _separator(lines[0])
    return LogSource(
        name, "csv", zipped, _csv_names(name, lines[0], separator), separator
    )


def read_pieces(source: LogSource) -> Iterator[Piece]:
    """The lines of a text file, cut where a record ends."""
    quoted = source.format == "csv"
    with _reading(source.name), open(source.name, "rb") as disk:
        unzipped = gzip.GzipFile(fileobj=disk, mode="rb") if source.zipped else disk
        rest, line = b"", 1
        if source.format == "csv":
            line += _skip_header(unzipped)
        while chunk := unzipped.read(CHUNK_BYTES):
            rest += chunk
            end = _record_end(rest, quoted=quoted)
            if end:
                yield Piece(rest[:end], line, disk.tell())
                line += rest.count(b"\n", 0, end)
                rest = rest[end:]
        if rest:
            yield Piece(rest, line, disk.tell())


def parse_piece(
    source: LogSource, piece: Piece, names: Sequence[str], numbers: Sequence[str] = ()
) -> pl.DataFrame:
    """The named columns of a piece as text (``numbers`` as such where all are), and
    LINE. Lines that are no records are rows without any value.
    """
    if source.format == "csv":
        return _parse_csv(source, piece, names, numbers)
    return _parse_json(piece, names)


def read_parquet(
    source: LogSource, names: Sequence[str], passed: Callable[[int], None]
) -> Iterator[pl.DataFrame]:
    """The named columns of a Parquet file in their own types; LINE counts rows."""
    with _reading(source.name):
        total = max(1, pl.scan_parquet(source.name).select(pl.len()).collect().item())
        scan = pl.scan_parquet(source.name).select(names)
        done = 0
        for frame in scan.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            yield with_lines(frame, done + 1)
            done += len(frame)
            passed(source.size * done // total)


def with_lines(frame: pl.DataFrame, first: int) -> pl.DataFrame:
    """The frame with its rows numbered from ``first``."""
    return frame.with_row_index(LINE, offset=first)


# -- text ----------------------------------------------------------------------------


def _parse_csv(
    source: LogSource, piece: Piece, names: Sequence[str], numbers: Sequence[str]
) -> pl.DataFrame:
    """Counts as numbers where all are; else as text; else line by line."""
    wanted = sorted(source.columns.index(name) for name in names)
    tries: tuple[tuple[Sequence[str], Literal["utf8", "utf8-lossy"]], ...]
    tries = ((numbers, "utf8"), ((), "utf8-lossy"))
    for whole, encoding in tries:
        schema = {
            one: pl.Int64 if one in whole else pl.String for one in source.columns
        }
        try:
            frame = pl.read_csv(
                piece.text,
                has_header=False,
                # Rows of other lengths: short ones are filled, long ones cut.
                schema=schema,
                columns=wanted,
                separator=source.separator,
                truncate_ragged_lines=True,
                encoding=encoding,
            )
        except pl.exceptions.PolarsError:
            continue
        return with_lines(frame, piece.line)
    return _slow_csv(source, piece, names)


def _slow_csv(source: LogSource, piece: Piece, names: Sequence[str]) -> pl.DataFrame:
    """Line by line, for pieces that polars refuses (a lone quote, say)."""
    text = io.StringIO(piece.text.decode("utf-8", "replace"), newline="")
    wanted = {name: source.columns.index(name) for name in names}
    cells: dict[str, list[str | None]] = {name: [] for name in names}
    lines = []
    for number, raw in enumerate(text, piece.line):
        row = next(csv.reader([raw], delimiter=source.separator), [])
        lines.append(number)
        for name, at in wanted.items():
            cells[name].append((row[at] or None) if at < len(row) else None)
    held = pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String))
    return held.with_columns(pl.Series(LINE, lines, dtype=pl.UInt32))


def _parse_json(piece: Piece, names: Sequence[str]) -> pl.DataFrame:
    if b"\n\n" not in piece.text and b"\n\r" not in piece.text:
        try:
            frame = pl.read_ndjson(piece.text, schema=_json_schema(names))
            if len(frame) == piece.text.count(b"\n") + (piece.text[-1:] != b"\n"):
                flat = [_field(name).alias(name) for name in names]
                return with_lines(frame.select(flat), piece.line)
        except (pl.exceptions.PolarsError, UnicodeDecodeError):
            pass  # some line is no object: see which
    return _slow_json(piece, names)


def _slow_json(piece: Piece, names: Sequence[str]) -> pl.DataFrame:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    cells: dict[str, list[str | None]] = {name: [] for name in names}
    lines = []
    for number, raw in enumerate(piece.text.split(b"\n"), piece.line):
        if not raw.strip():
            continue
        try:
            record = decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            record = {}
        lines.append(number)
        for name in names:
            cells[name].append(_text(_reach(record, name)))
    held = pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String))
    return held.with_columns(pl.Series(LINE, lines, dtype=pl.UInt32))


def _reach(record: dict[str, object], name: str) -> object:
    if name in record or "." not in name:
        return record.get(name)
    outer, inner = name.split(".", 1)
    held = record.get(outer)
    return held.get(inner) if isinstance(held, dict) else None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value)


def _json_schema(names: Sequence[str]) -> dict[str, pl.DataType | type[pl.DataType]]:
    schema: dict[str, pl.DataType | type[pl.DataType]] = {}
    inner: dict[str, list[str]] = {}
    for name in names:
        if "." in name:
            inner.setdefault(name.split(".", 1)[0], []).append(name.split(".", 1)[1])
        else:
            schema[name] = pl.String
    for outer, fields in inner.items():
        schema[outer] = pl.Struct(dict.fromkeys(fields, pl.String))
    return schema


def _field(name: str) -> pl.Expr:
    if "." not in name:
        return pl.col(name)
    outer, inner = name.split(".", 1)
    return pl.col(outer).struct.field(inner)


def _json_names(lines: Sequence[bytes]) -> tuple[str, ...]:
    """Field names of the first records; those of inner objects after a dot."""
    names: dict[str, None] = {}
    for line in lines:
        try:
            record = msgspec.json.decode(line, type=dict[str, object])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        for name, value in record.items():
            if isinstance(value, dict):
                names.update(dict.fromkeys(f"{name}.{inner}" for inner in value))
            else:
                names[name] = None
    return tuple(names)


def _csv_names(name: str, line: bytes, separator: str) -> tuple[str, ...]:
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    names = tuple(next(csv.reader([text], delimiter=separator), []))
    if len(set(names)) < len(names):
        # Numbered, so that each can be named.
        names = tuple(
            f"{one}_{at}" if one in names[:at] else one for at, one in enumerate(names)
        )
    if not any(cell and not cell[0].isdigit() for cell in names):
        raise InputError(f"{name}: the first line names no columns")
    return names


def _separator(line: bytes) -> str:
    return max(_SEPARATORS, key=lambda one: line.count(one.encode()))


def _skip_header(file: BinaryIO | gzip.GzipFile) -> int:
    """Lines until the header has ended."""
    skipped = 0
    while line := file.readline(_QUOTED_BYTES):
        skipped += 1
        if line.strip():
            break
    return skipped


def _record_end(text: bytes, *, quoted: bool) -> int:
    """Where the last whole record ends; 0: not in here."""
    end = text.rfind(b"\n") + 1
    if not quoted or not end or text.count(b'"', 0, end) % 2 == 0:
        return end
    # Inside a quoted cell: back to the record before it.
    floor = max(0, end - _QUOTED_BYTES)
    at = end
    while (at := text.rfind(b'"', floor, at)) >= 0:
        before = text.rfind(b"\n", floor, at) + 1
        if before and text.count(b'"', 0, before) % 2 == 0:
            return before
    return end


# -- opening -------------------------------------------------------------------------


def _open(name: str, *, zipped: bool) -> BinaryIO | gzip.GzipFile:
    return gzip.open(name, "rb") if zipped else open(name, "rb")


class _reading:  # noqa: N801 - reads as a statement
    """Errors of the file system, gzip and Parquet as one InputError."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _tb: object) -> None:
        if isinstance(
            error, OSError | EOFError | zlib.error | pl.exceptions.PolarsError
        ):
            reason = error.strerror if isinstance(error, OSError) else None
            text = reason or (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot read {self._name}: {text}") from None

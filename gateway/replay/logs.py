"""Logs of other systems as requests: CSV, Parquet, JSON lines with other names.

``offline`` reads the files; here rows become requests. Besides time, user and tokens
the detector uses address, model, tenant, status, path, cost and fingerprint columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import polars as pl

from gateway.detect.event_mapping import event_from_record
from gateway.detect.model import EventError
from gateway.offline.columns import ANY, Choice, LogColumns, find_columns
from gateway.offline.errors import InputError
from gateway.offline.rows import read_rows
from gateway.offline.source import (
    LogSource,
    open_source,
    parse_piece,
    read_parquet,
    read_pieces,
)
from gateway.offline.times import Times
from gateway.replay.reading import NAMED, RecordReader, SkippedLine
from gateway.replay.requests import Request, request_of

# Usual names of the additional columns, most likely first.
_FURTHER: dict[str, tuple[str, ...]] = {
    "client_ip": (
        "client_ip", "ip", "ip_address", "remote_addr", "remote_ip", "source_ip",
        "src_ip", "client_address", "remote_address", "clientip", "client_addr",
        "requester_ip_address", "host",
    ),
    "model": ("model", "model_name", "model_id", "deployment", "engine"),
    "tenant": ("tenant", "tenant_id", "organization", "org", "org_id", "team"),
    "status": ("status", "status_code", "http_status", "response_code"),
    "endpoint": ("endpoint", "path", "route", "uri", "url_path"),
    "usd": ("usd", "cost", "cost_usd", "usd_cost", "spend"),
    "fingerprint": ("fingerprint",),
}  # fmt: skip
_LINES = re.compile(r"\.(?:jsonl|ndjson|json)(?:\.gz)?$")
_OTHER = re.compile(r"[^a-z0-9]+")
# Names of the time field of records.
_RECORD_TIMES = frozenset({"ts", "timestamp"})


class LogOptions(msgspec.Struct, frozen=True):
    """Options of the command line: column names and the format of times."""

    choice: Choice = ANY
    address: str | None = None
    zone: str = "UTC"
    form: str | None = None
    # For rows without a tenant.
    tenant: str = "default"

    @property
    def is_default(self) -> bool:
        """Whether no option about columns or times was given."""
        return self == LogOptions(tenant=self.tenant)


def is_of_records(source: LogSource) -> bool:
    """Whether a file holds records or events, which RecordReader reads strictly."""
    if source.format == "csv" and _LINES.search(source.name):
        return True  # only its first line may be malformed
    names = set(source.columns)
    known = "client_ip" in names and bool(names & _RECORD_TIMES)
    return source.format == "jsonl" and known


def read_log(
    name: str, reader: RecordReader, options: LogOptions, passed: Callable[[int], None]
) -> None:
    """Read all rows of a file into the reader's sorter. Raises InputError."""
    source = open_source(name)
    if options.is_default and is_of_records(source):
        reader.read(name, passed)
        return
    columns = find_columns(source.columns, options.choice, source=name)
    further = _find_further(source, options)
    if columns.user is None and "client_ip" not in further:
        raise InputError(
            f"{name}: neither a user nor an address column found, one of them is needed;"
            " name it with --user-column or --address-column"
        )
    rows = _LogRows(columns, further, Times(options.zone, options.form), options.tenant)
    for chunk in _chunks(source, rows.names, passed):
        rows.take(name, chunk, reader)


def _find_further(source: LogSource, options: LogOptions) -> dict[str, str]:
    if options.address is not None and options.address not in source.columns:
        raise InputError(f"{source.name}: no column {options.address!r}")
    spelled = {_spell(name): name for name in reversed(source.columns)}
    found = {
        role: spelled[usual]
        for role, names in _FURTHER.items()
        if (usual := next((one for one in names if one in spelled), None))
    }
    return found | ({"client_ip": options.address} if options.address else {})


def _spell(name: str) -> str:
    return _OTHER.sub("_", name.strip().lower()).strip("_")


def _chunks(
    source: LogSource, names: Sequence[str], passed: Callable[[int], None]
) -> Iterator[pl.DataFrame]:
    if source.format == "parquet":
        yield from read_parquet(source, names, passed)
        return
    for piece in read_pieces(source):
        yield parse_piece(source, piece, names)
        passed(piece.passed)


class _LogRows:
    """Converts the rows of one file to requests."""

    def __init__(
        self, columns: LogColumns, further: dict[str, str], times: Times, tenant: str
    ) -> None:
        self._columns = columns
        self._further = further
        self._times = times
        self._tenant = tenant
        self.names = list(dict.fromkeys([*columns.names, *further.values()]))

    def take(self, file: str, raw: pl.DataFrame, reader: RecordReader) -> None:
        """Convert one chunk of rows."""
        reader.lines += len(raw)
        room = max(0, NAMED - len(reader.named))
        rows = read_rows(raw, self._columns, self._times, most_skipped=room)
        reader.skipped += rows.bad
        reader.named += [SkippedLine(file, one.line, one.why) for one in rows.skipped]
        roles, frame = self._frame(raw)
        for values in frame.iter_rows():
            record = dict(zip(roles, values, strict=True))
            try:
                reader.sorter.add(self._request(record))
            except EventError as error:
                reader.skipped += 1
                if len(reader.named) < NAMED:
                    line = record["line"]
                    reader.named.append(SkippedLine(file, line, str(error)))

    def _frame(self, raw: pl.DataFrame) -> tuple[list[str], pl.DataFrame]:
        """The usable rows, with one column for each field of an event."""
        columns = self._columns
        cells: dict[str, pl.Series] = {"us": self._times.parse(raw[columns.time])}
        for role in ("prompt", "completion", "total"):
            name = getattr(columns, role)
            if name is not None:
                cells[role] = raw[name].cast(pl.Float64, strict=False)
        tokens = pl.any_horizontal(
            pl.col(role).is_not_null() for role in cells if role != "us"
        )
        if columns.user is not None:
            cells["user"] = raw[columns.user].cast(pl.String)
        for role, name in self._further.items():
            kind = pl.Float64 if role in ("status", "usd") else pl.String
            cells[role] = raw[name].cast(kind, strict=False)
        cells["line"] = raw["__line"]
        frame = pl.DataFrame(list(cells.values()), schema=list(cells))
        return list(cells), frame.filter(pl.col("us").is_not_null() & tokens)

    def _request(self, row: dict[str, Any]) -> Request:
        user = row.get("user") or None
        record = {
            "ts": row["us"] / 1e6,
            # Without an address the user is the address: one shared value would look like a
            # single source.
            "client_ip": row.get("client_ip") or user or "unknown",
            "user": user,
            "tenant": row.get("tenant") or self._tenant,
            "model": row.get("model"),
            "endpoint": row.get("endpoint"),
            "prompt_tokens": row.get("prompt"),
            "completion_tokens": row.get("completion"),
            "total_tokens": row.get("total"),
            "status": row.get("status"),
            "usd": row.get("usd"),
            "fingerprint": row.get("fingerprint"),
        }
        return request_of(event_from_record(record))

"""Frames of polars and pandas, as rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from gateway.offline.columns import Choice, LogColumns, find_columns
from gateway.offline.errors import InputError
from gateway.offline.rows import read_rows
from gateway.offline.source import CHUNK_ROWS, with_lines
from gateway.offline.times import Times
from gateway.offline.traffic import MOST_SKIPPED, Gatherer


def gather_frame(frame: Any, choice: Choice, times: Times, gatherer: Gatherer) -> None:
    """Add a frame's rows; raises InputError for what is no frame or lacks a column."""
    names, chunks = _chunks(frame, choice)
    for raw in chunks:
        rows = read_rows(raw, names, times, most_skipped=MOST_SKIPPED)
        gatherer.add(rows, gatherer.sum(rows.frame), None)


def _chunks(frame: Any, choice: Choice) -> tuple[LogColumns, Iterator[pl.DataFrame]]:
    if isinstance(frame, pl.LazyFrame):
        columns = find_columns(frame.collect_schema().names(), choice)
        return columns, _lazy(frame.select(columns.names))
    if isinstance(frame, pl.DataFrame):
        columns = find_columns(frame.columns, choice)
        return columns, _slices(frame.select(columns.names))
    if type(frame).__module__.split(".")[0] == "pandas":
        columns = find_columns([str(name) for name in frame.columns], choice)
        return columns, _slices(_from_pandas(frame, columns))
    raise InputError(f"a polars or pandas frame is needed, not {type(frame).__name__}")


def _lazy(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    first = 1
    for part in frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
        yield with_lines(part, first)
        first += len(part)


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for at in range(0, len(frame), CHUNK_ROWS):
        yield with_lines(frame.slice(at, CHUNK_ROWS), at + 1)


def _from_pandas(frame: Any, columns: LogColumns) -> pl.DataFrame:
    """The needed columns by way of numpy: pyarrow need not be there."""
    return pl.DataFrame({name: _series(frame[name], name) for name in columns.names})


def _series(column: Any, name: str) -> pl.Series:
    kind = str(column.dtype)
    if kind.startswith("datetime64"):
        zoned = column.dt.tz is not None if hasattr(column.dt, "tz") else False
        plain = column.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else column
        series = pl.Series(name, plain.astype("datetime64[us]").to_numpy())
        return series.dt.replace_time_zone("UTC") if zoned else series
    if kind.lower().startswith(("int", "uint", "float")):
        numbers = column.astype("float64").to_numpy()
        return pl.Series(name, numbers, nan_to_null=True)
    texts = [None if value != value else str(value) for value in column.tolist()]  # noqa: PLR0124 - NaN
    return pl.Series(name, texts, dtype=pl.String)

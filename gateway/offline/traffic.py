"""Rows to windows: tokens, requests and the largest request of each user and window."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from gateway.offline.columns import Choice, LogColumns, find_columns
from gateway.offline.errors import InputError
from gateway.offline.rows import A_TIME, Rows, SkippedRow, read_rows
from gateway.offline.source import (
    LogSource,
    open_source,
    parse_piece,
    read_parquet,
    read_pieces,
)
from gateway.offline.times import Times

Passed = Callable[[int], None]
Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
# Unusable rows that are named; all are counted.
MOST_SKIPPED = 100
# Sums of chunks are added up when there are so many of them: bounds memory.
_COMPACT_ROWS = 3_000_000
# The largest request of a window counts up to this many times the usual.
GIANT = 8.0
# Chunks that are parsed at once.
_THREADS = 2
# A log may have holes; a lone row years away is a wrong clock, not a span.
_MOST_WINDOWS = 1_200_000
_SUMS = ("tokens", "prompt", "requests")
_NO_ROWS = "no usable row"
_SAY_FORM = '; say how times are written, such as --time-format "%d/%m/%Y %H:%M"'


class Traffic(msgspec.Struct):
    """Windows of a log. Row i of the sparse columns is one user in one window, sorted
    by user, then window; ``window`` counts from ``first`` (epoch windows, shifted by
    ``offset_s``). ``users`` is empty where the log tells none apart.
    """

    window_s: int
    first: int
    windows: int
    offset_s: int
    users: list[str]
    user: Ints
    window: Ints
    tokens: Floats
    prompt: Floats
    requests: Floats
    largest: Floats  # tokens of the largest request
    rows: int
    bad: int
    skipped: list[SkippedRow]
    from_us: int  # first and last row
    to_us: int

    def tempered(self) -> Floats:
        """Tokens, but of each row's largest request no more than ``GIANT`` times what
        is usual for the user or for all: one giant request is not a flood.
        """
        if not len(self.tokens):
            return self.tokens
        sizes = np.log(np.maximum(1.0, self.tokens / self.requests))
        held = self.user.clip(0)
        count = np.maximum(1, np.bincount(held))
        own = (np.bincount(held, sizes) / count)[held]
        most = GIANT * np.exp(np.maximum(own, float(np.mean(sizes))))
        calm: Floats = self.tokens - np.maximum(0.0, self.largest - most)
        return calm

    def start_of(self, window: int) -> int:
        """Epoch seconds at which a window begins."""
        return (self.first + window) * self.window_s - self.offset_s


class Gatherer:
    """Adds rows up, chunk by chunk; memory grows with users times windows only."""

    def __init__(self, window_s: int, zone: ZoneInfo) -> None:
        self._window_s, self._zone = window_s, zone
        # Of the zone's clock at the log's first chunk.
        self._offset_s: int | None = None
        self._codes: dict[str, int] = {}
        self._parts: list[pl.DataFrame] = []
        self._held = 0
        self._lock = threading.Lock()
        self._with_users = False
        self.rows = self.bad = 0
        self.skipped: list[SkippedRow] = []
        self._from_us, self._to_us = 1 << 62, 0

    def sum(self, frame: pl.DataFrame) -> pl.DataFrame:
        """One chunk's sums by window and user (may run beside others)."""
        window = (pl.col("us") // 1_000_000 + self._offset(frame)) // self._window_s
        by = ["window", "user"] if "user" in frame.columns else ["window"]
        return (
            frame.lazy()
            .with_columns(window.cast(pl.Int32).alias("window"))
            .group_by(by)
            .agg(
                pl.col("tokens").sum(),
                pl.col("prompt").sum(),
                pl.len().cast(pl.Float64).alias("requests"),
                pl.col("tokens").max().alias("largest"),
                pl.col("us").min().alias("from"),
                pl.col("us").max().alias("to"),
            )
            .collect()
        )

    def _offset(self, frame: pl.DataFrame) -> int:
        with self._lock:
            if self._offset_s is None and len(frame):
                at = datetime.fromtimestamp(frame["us"][0] / 1e6, self._zone)
                offset = at.utcoffset()
                self._offset_s = int(offset.total_seconds()) if offset else 0
            return self._offset_s or 0

    def add(self, rows: Rows, sums: pl.DataFrame, file: str | None) -> None:
        """Take in one chunk."""
        self.rows += len(rows.frame)
        self.bad += rows.bad
        for one in rows.skipped[: MOST_SKIPPED - len(self.skipped)]:
            self.skipped.append(SkippedRow(one.line, one.why, file))
        if not len(sums):
            return
        self._from_us = min(self._from_us, int(sums["from"].min() or 0))  # type: ignore[arg-type]
        self._to_us = max(self._to_us, int(sums["to"].max() or 0))  # type: ignore[arg-type]
        self._parts.append(self._coded(sums.drop("from", "to")))
        self._held += len(sums)
        if self._held > _COMPACT_ROWS:
            self._compact()
            # Not again before as much was added as is held now.
            self._held = -len(self._parts[0]) // 2

    def _coded(self, sums: pl.DataFrame) -> pl.DataFrame:
        """Users by number."""
        if "user" not in sums.columns:
            return sums.with_columns(pl.lit(-1, dtype=pl.Int32).alias("user"))
        names = sums["user"].unique()
        for name in names.to_list():
            self._codes.setdefault(name, len(self._codes))
        codes = [self._codes[name] for name in names.to_list()]
        known = pl.DataFrame({"user": names, "code": pl.Series(codes, dtype=pl.Int32)})
        return (
            sums.join(known, on="user", how="left")
            .drop("user")
            .rename({"code": "user"})
        )

    def _compact(self) -> None:
        joined = (
            pl.concat(self._parts, how="diagonal")
            .group_by("user", "window")
            .agg(*(pl.col(name).sum() for name in _SUMS), pl.col("largest").max())
        )
        self._parts = [joined]

    def traffic(self, place: str = "the frame") -> Traffic:
        """What was gathered from ``place``; raises InputError when that is nothing."""
        if not self.rows:
            raise InputError(self._nothing(place))
        self._compact()
        table = self._parts[0]
        table = self._without_strays(table).sort("user", "window")
        first, last = table["window"].min(), table["window"].max()
        assert isinstance(first, int)
        assert isinstance(last, int)
        column = {
            name: table[name].to_numpy()
            for name in ("user", "window", *_SUMS, "largest")
        }
        return Traffic(
            window_s=self._window_s,
            first=first,
            windows=last - first + 1,
            offset_s=self._offset_s or 0,
            users=list(self._codes),
            user=column["user"],
            window=column["window"] - np.int32(first),
            tokens=column["tokens"],
            prompt=column["prompt"],
            requests=column["requests"],
            largest=column["largest"],
            rows=self.rows,
            bad=self.bad,
            skipped=self.skipped,
            from_us=self._from_us,
            to_us=self._to_us,
        )

    def _without_strays(self, table: pl.DataFrame) -> pl.DataFrame:
        """Drops what is years from the bulk of the log: a wrong clock."""
        ordered = table["window"].sort()
        if int(ordered[-1]) - int(ordered[0]) < _MOST_WINDOWS:
            return table
        middle = int(ordered[len(ordered) // 2])
        near = (table["window"] - middle).abs() < _MOST_WINDOWS // 2
        far = table.filter(~near)
        count = int(far["requests"].sum())
        self.bad += count
        self.rows -= count
        self.skipped.append(SkippedRow(0, f"{count} rows years away from the others"))
        kept = table.filter(near)
        size_us = self._window_s * 1_000_000
        windows = kept["window"]
        self._from_us = max(self._from_us, int(windows.min() or 0) * size_us)  # type: ignore[arg-type]
        self._to_us = min(self._to_us, (int(windows.max() or 0) + 1) * size_us)  # type: ignore[arg-type]
        return kept

    def _nothing(self, place: str) -> str:
        if not self.skipped:
            return f"{place}: {_NO_ROWS}: nothing follows the names of the columns"
        first = self.skipped[0]
        where = f"{first.file}: " if first.file else ""
        fix = _SAY_FORM if first.why.endswith(A_TIME) else ""
        why = f"{where}line {first.line}: {first.why}{fix}"
        return f"{_NO_ROWS}; {self.bad} were skipped, {why}"


def gather_files(
    names: list[str], choice: Choice, times: Times, gatherer: Gatherer, passed: Passed
) -> None:
    """Read every file into the gatherer; raises InputError for the first bad one.

    ``passed`` is told how many bytes were read of all of them.
    """
    sources = [open_source(name) for name in names]
    found = [find_columns(s.columns, choice, source=s.name) for s in sources]
    if len({columns.user is None for columns in found}) > 1:
        without = next(
            s.name for s, c in zip(sources, found, strict=True) if not c.user
        )
        raise InputError(
            f"{without}: no user column, but other files have one; name it with "
            "--user-column"
        )
    before = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for source, columns in zip(sources, found, strict=True):
            base = before
            one = _LogFile(source, columns, times, gatherer)
            one.run(pool, lambda at, base=base: passed(base + at))  # type: ignore[misc]
            before += source.size


class _LogFile:
    """One file on its way into the gatherer."""

    def __init__(
        self, source: LogSource, columns: LogColumns, times: Times, gatherer: Gatherer
    ) -> None:
        self._source, self._columns = source, columns
        self._times, self._gatherer = times, gatherer

    def run(self, pool: ThreadPoolExecutor, passed: Passed) -> None:
        """A few chunks at once, added in their order."""
        waiting: deque[Future[tuple[Rows, pl.DataFrame, int]]] = deque()
        for job in self._jobs(passed):
            waiting.append(pool.submit(job))
            if len(waiting) > _THREADS:
                self._take(waiting.popleft(), passed)
        while waiting:
            self._take(waiting.popleft(), passed)

    def _jobs(
        self, passed: Passed
    ) -> Iterator[Callable[[], tuple[Rows, pl.DataFrame, int]]]:
        source, names = self._source, self._columns.names
        if source.format == "parquet":
            for frame in read_parquet(source, names, passed):
                yield lambda frame=frame: self._sum(frame, -1)  # type: ignore[misc]
            return
        for piece in read_pieces(source):
            yield lambda piece=piece: self._sum(  # type: ignore[misc]
                parse_piece(source, piece, names, self._columns.counts), piece.passed
            )

    def _sum(self, raw: pl.DataFrame, at: int) -> tuple[Rows, pl.DataFrame, int]:
        rows = read_rows(raw, self._columns, self._times, most_skipped=MOST_SKIPPED)
        return rows, self._gatherer.sum(rows.frame), at

    def _take(
        self, done: Future[tuple[Rows, pl.DataFrame, int]], passed: Passed
    ) -> None:
        rows, sums, at = done.result()
        self._gatherer.add(rows, sums, self._source.name)
        if at >= 0:
            passed(at)

"""Rows of a log as four columns: time, user, tokens, requests; unusable rows are counted."""

from __future__ import annotations

from math import isfinite, isnan

import msgspec
import polars as pl

from gateway.offline.columns import LogColumns
from gateway.offline.source import LINE
from gateway.offline.times import Times

# Who asked without saying who.
ANONYMOUS = "anonymous"
_NUMBERS = ("prompt", "completion", "total")
# A row that claims more tokens than this is a mistake, not a request.
_MOST_TOKENS = 1e12
_SHOWN = 60
A_TIME = "a time"


class SkippedRow(msgspec.Struct, frozen=True):
    """A row that could not be used: its line (of a frame: row, from 1) and why."""

    line: int
    why: str
    file: str | None = None


class Rows(msgspec.Struct):
    """Usable rows (``us`` epoch microseconds, ``user`` where the log has users,
    ``tokens``, ``prompt``), how many were not, and the first of those.
    """

    frame: pl.DataFrame
    bad: int
    skipped: list[SkippedRow]


def read_rows(
    raw: pl.DataFrame, columns: LogColumns, times: Times, *, most_skipped: int
) -> Rows:
    """Time, user and tokens of each row of a chunk; the raw frame must have LINE."""
    frame = raw.select(
        pl.col(LINE),
        times.parse(raw[columns.time]).alias("us"),
        *_numbers(raw, columns),
        *_user(raw, columns),
    )
    plain = columns.total is None and columns.prompt and columns.completion
    if plain and not _gaps(frame["prompt"]) and not _gaps(frame["completion"]):
        sums = frame["prompt"] + frame["completion"]
        frame = frame.with_columns(sums.alias("tokens"))
    else:
        frame = frame.with_columns(_tokens().alias("tokens"))
    usable = frame["us"].is_not_null() & frame["tokens"].is_not_null()
    wanted = ["us", "tokens", "prompt", *(["user"] if columns.user else [])]
    bad = len(usable) - int(usable.sum())
    if not bad:
        return Rows(frame.select(wanted), 0, [])
    named = frame.filter(~usable).head(most_skipped)
    origin = raw.filter(~usable).head(most_skipped)
    skipped = [
        SkippedRow(row[LINE], _why(row, origin.row(at, named=True), columns))
        for at, row in enumerate(named.iter_rows(named=True))
    ]
    return Rows(frame.filter(usable).select(wanted), bad, skipped)


def _gaps(counts: pl.Series) -> bool:
    """Whether a value is missing or no count."""
    return counts.null_count() > 0 or counts.is_nan().any()


def _numbers(raw: pl.DataFrame, columns: LogColumns) -> list[pl.Expr | pl.Series]:
    """Each count as a float; NaN where something stands there that is no count."""
    found: list[pl.Expr | pl.Series] = []
    for role in _NUMBERS:
        name = getattr(columns, role)
        if name is None:
            found.append(pl.lit(None, dtype=pl.Float64).alias(role))
            continue
        column = raw[name]
        found.append(_count(column).alias(role))
    return found


def _count(column: pl.Series) -> pl.Series:
    if column.dtype.is_numeric():
        number = column.cast(pl.Float64)
        given = column.is_not_null()
    else:
        text = column.cast(pl.String)
        number = text.cast(pl.Float64, strict=False)
        if number.null_count() == text.null_count():
            given = text.is_not_null()
        else:
            text = text.str.strip_chars()
            number = text.cast(pl.Float64, strict=False)
            given = text.is_not_null() & ~text.is_in(["", "null", "None", "-", "NULL"])
    if number.null_count() == 0 and _within(number):
        return number
    odd = given & (
        number.is_null() | ~number.is_between(0.0, _MOST_TOKENS).fill_null(value=False)
    )
    return number.set(odd, float("nan")) if odd.any() else number


def _within(number: pl.Series) -> bool:
    """Whether no value is out of bounds; NaN and infinity are."""
    low, high, total = number.min(), number.max(), number.sum()
    if not isinstance(low, float) or not isinstance(high, float):
        return False
    return low >= 0.0 and high <= _MOST_TOKENS and isfinite(total)


def _user(raw: pl.DataFrame, columns: LogColumns) -> list[pl.Series]:
    if columns.user is None:
        return []
    text = raw[columns.user].cast(pl.String)
    return [text.set(text == "", None).fill_null(ANONYMOUS).alias("user")]


def _tokens() -> pl.Expr:
    """The total where the log states one, else prompt and completion; null: unusable."""
    prompt, completion, total = (pl.col(role) for role in _NUMBERS)
    parts = pl.sum_horizontal(prompt, completion)
    stated = pl.when(total > 0).then(total)
    known = pl.any_horizontal(pl.col(role).is_not_null() for role in _NUMBERS)
    odd = pl.any_horizontal(
        pl.col(role).is_nan().fill_null(value=False) for role in _NUMBERS
    )
    tokens = pl.coalesce(stated, parts)
    return pl.when(known & ~odd).then(tokens)


def _why(row: dict[str, object], origin: dict[str, object], columns: LogColumns) -> str:
    """One plain reason; the first that is true."""
    texts = {name: origin[name] for name in columns.names}
    if all(value is None for value in texts.values()):
        return "not a record with any of the columns"
    if row["us"] is None:
        return _fault(columns.time, texts[columns.time], A_TIME)
    for role in _NUMBERS:
        value = row[role]
        if isinstance(value, float) and isnan(value):
            name = getattr(columns, role)
            return _fault(name, texts[name], "a count of tokens")
    return "no count of tokens"


def _fault(name: str, value: object, wanted: str) -> str:
    if value is None or value == "":
        return f"{name}: missing"
    text = str(value)
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return f"{name}: {shown!r} is not {wanted}"

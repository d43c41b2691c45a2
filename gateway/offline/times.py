"""Timestamps of any common form to epoch microseconds, a column at a time."""

from __future__ import annotations

import re
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from gateway.offline.errors import InputError

# Tried in this order, the one that fitted last time first. Forms with a zone end in %z
# (or in a literal UTC); the rest are read in the zone that the user names.
_ISO = tuple(
    f"%Y-%m-%d{between}%H:%M{rest}"
    for between in ("T", " ")
    for rest in (
        ":%S%.f%#z",
        ":%S%.f",
        "",
        ":%S,%3f",
        ":%S%.f UTC",
        ":%S%.f %#z",
        "%#z",
    )
)
_FORMS = (
    *_ISO,
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%d.%m.%Y %H:%M:%S%.f",
    "%d.%m.%Y %H:%M",
    "%d/%b/%Y:%H:%M:%S %#z",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %#z",
    "%a %b %e %H:%M:%S %Y",
    "%b %e, %Y %H:%M:%S",
    "%b %e, %Y %I:%M:%S %p",
    "%d %b %Y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",
    "%Y-%m-%d %I:%M:%S %p",
    "%Y%m%dT%H%M%S%#z",
    "%Y%m%dT%H%M%S",
    "%Y-%m-%d",
)
_CLOCKS = ("%H:%M:%S%.f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_SLASHED = re.compile(r"\s*(\d{1,2})([/-])(\d{1,2})\2(\d{4}|\d\d)[ ,T]")
_MOST_MONTHS, _SHORT_YEAR = 12, 2
# Epoch numbers tell their unit by size: seconds until the year 5138, and so on.
_UNITS = ((1e11, 1_000_000.0), (1e14, 1_000.0), (1e17, 1.0), (1e20, 0.001))
# What lies outside is no time of a request (2001-09-09 to 2100-01-01).
_FIRST_US, _LAST_US = 1_000_000_000_000_000, 4_102_444_800_000_000
# 2026-01-05T08:00:00, then a fraction, then a zone.
_TO_SECOND, _FEW = 19, 1000
_FRACTION, _ZONE = r"^[.,]\d{1,9}", r"Z|[+-]\d\d(:?\d\d)?|"
_US: Literal["us"] = "us"


def check_zone(name: str) -> str:
    """The name of a time zone; raises InputError for one that nobody knows."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"unknown time zone {name!r}; use a name such as UTC or Europe/Berlin"
        ) from None
    return name


class Times:
    """How the times of one log are read: zone of those without one, and their form."""

    def __init__(
        self, zone: str = "UTC", form: str | None = None, *, whole_seconds: bool = False
    ) -> None:
        # Fractions may be cut off: several times as fast for a log in order.
        self._whole = whole_seconds
        self.zone = check_zone(zone)
        self._named = form is not None
        self._forms = [form] if form is not None else list(_FORMS)
        self._settled = form is not None

    def parse(self, column: pl.Series) -> pl.Series:
        """Epoch microseconds (Int64), null where a value is no time."""
        kind = column.dtype
        if kind.is_temporal() and kind != pl.Time:
            epochs = self._epoch(column.cast(pl.Datetime(_US, _zone_of(kind))))
        elif kind.is_numeric():
            epochs = _from_number(column)
        else:
            epochs = self._from_text(column.cast(pl.String))
        return epochs.set((epochs < _FIRST_US) | (epochs > _LAST_US), None)

    def _from_text(self, column: pl.Series) -> pl.Series:
        text = column.str.strip_chars()
        if not self._named and _looks_numeric(text):
            numbers = _from_number(text.cast(pl.Float64, strict=False))
            if not (numbers.is_null() & text.is_not_null()).any():
                return numbers
        quick = None if self._named else self._by_second(text)
        return self._by_forms(text) if quick is None else quick

    def _by_second(self, text: pl.Series) -> pl.Series | None:
        """ISO times of a log in order: each second is parsed once, fractions are cut
        off. None where the times are not of that kind.
        """
        if not self._whole or text.null_count() or len(text) < _FEW:
            return None
        runs = text.str.head(_TO_SECOND).rle_id()
        if int(runs[-1]) > len(text) // 4:
            return None
        tail = text.str.slice(_TO_SECOND)
        kinds = tail.unique().str.replace(_FRACTION, "").unique().to_list()
        if len(kinds) != 1 or not re.fullmatch(_ZONE, kinds[0] or ""):
            return None
        first = (runs.cast(pl.Int64).diff().fill_null(1) != 0).arg_true()
        seconds = text.gather(first).str.head(_TO_SECOND) + kinds[0]
        return self._by_forms(seconds).gather(runs)

    def _by_forms(self, text: pl.Series) -> pl.Series:
        self._settle(text)
        # The first form is for nearly all rows; the others see what it left over.
        epochs = self._strptime(text, self._forms[0])
        for form in self._forms[1:]:
            rest = (epochs.is_null() & text.is_not_null()).arg_true()
            if not len(rest):
                break
            part = self._strptime(text.gather(rest), form)
            if 2 * (len(part) - part.null_count()) > len(text):
                self._forms = [form, *(f for f in self._forms if f != form)]
            epochs = epochs.scatter(rest, part)
        if self._named:
            return epochs
        return epochs.zip_with(
            epochs.is_not_null(), _from_number(text.cast(pl.Float64, strict=False))
        )

    def _strptime(self, text: pl.Series, form: str) -> pl.Series:
        try:
            moments = text.str.to_datetime(
                form, strict=False, time_unit=_US, ambiguous="earliest"
            )
        except pl.exceptions.PolarsError as error:
            raise InputError(f"time form {form!r}: {_first_line(error)}") from None
        # "UTC" and "GMT" as plain words of the form.
        if form.endswith(("UTC", "GMT", "Z")) and not _zone_of(moments.dtype):
            moments = moments.dt.replace_time_zone("UTC")
        return self._epoch(moments)

    def _epoch(self, moments: pl.Series) -> pl.Series:
        if _zone_of(moments.dtype) is None and self.zone != "UTC":
            moments = moments.dt.replace_time_zone(
                self.zone, ambiguous="earliest", non_existent="null"
            )
        return moments.dt.epoch(_US)

    def _settle(self, text: pl.Series) -> None:
        """Dates such as 3/2/2026: day or month first, told once for the whole log."""
        if self._settled:
            return
        sample = text.drop_nulls().head(100_000)
        pairs = [_SLASHED.match(one) for one in sample.unique().to_list()]
        found = [(int(p[1]), int(p[3])) for p in pairs if p]
        if not found:
            return
        first, second = ("%d", "%m") if _day_first(found) else ("%m", "%d")
        kinds = {(p[2], "%y" if len(p[4]) == _SHORT_YEAR else "%Y") for p in pairs if p}
        slashed = [
            f"{first}{mark}{second}{mark}{year}{between}{clock}"
            for mark, year in sorted(kinds)
            for clock in _CLOCKS
            for between in (" ", ", ")
        ]
        self._forms = [*slashed, *self._forms]
        self._settled = True


def _day_first(pairs: list[tuple[int, int]]) -> bool:
    """Whether 3/2/2026 is in February; raises InputError where nothing tells."""
    firsts, seconds = ({pair[at] for pair in pairs} for at in (0, 1))
    if max(firsts) > _MOST_MONTHS:
        return True
    if max(seconds) > _MOST_MONTHS:
        return False
    # A log goes from day to day: what varies while the other stands still is the day.
    if (len(firsts) > 1) != (len(seconds) > 1):
        return len(firsts) > 1
    raise InputError(
        "dates such as {}/{}/…: day or month first? say so with "
        '--time-format "%d/%m/%Y %H:%M:%S" or "%m/%d/%Y %H:%M:%S"'.format(*pairs[0])
    )


def _from_number(column: pl.Series) -> pl.Series:
    """Epoch seconds, ms, us or ns, told by their size."""
    numbers = column.cast(pl.Float64, strict=False)
    held = pl.col("n")
    scaled: pl.Expr = pl.lit(None, dtype=pl.Float64)
    for bound, factor in reversed(_UNITS):
        scaled = pl.when(held.abs() < bound).then(held * factor).otherwise(scaled)
    frame = pl.DataFrame({"n": numbers})
    return frame.select(scaled.floor().cast(pl.Int64, strict=False)).to_series()


def _looks_numeric(text: pl.Series) -> bool:
    head = text.drop_nulls().head(20)
    # Ten digits and more: "20260105" is a date, not seconds.
    return len(head) > 0 and bool(head.str.contains(r"^\d{9,}(\.\d*)?$").all())


def _zone_of(kind: pl.DataType) -> str | None:
    return kind.time_zone if isinstance(kind, pl.Datetime) else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]

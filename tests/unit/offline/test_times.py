"""Parsing of timestamps in all common formats."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from gateway.offline.errors import InputError
from gateway.offline.times import Times

EIGHT = 1_767_600_000_000_000  # 2026-01-05T08:00:00Z
SECOND = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T08:00:00Z",
        "2026-01-05T08:00:00.000Z",
        "2026-01-05T10:00:00+02:00",
        "2026-01-05 10:00:00+0200",
        "2026-01-05 10:00:00+02",
        "2026-01-05 08:00:00",
        "2026-01-05 08:00:00,000",
        "2026-01-05 08:00:00 UTC",
        "2026-01-05 10:00:00 +0200",
        "2026-01-05T08:00",
        "2026/01/05 08:00:00",
        "05.01.2026 08:00:00",
        "05/Jan/2026:08:00:00 +0000",
        "Mon, 05 Jan 2026 08:00:00 GMT",
        "Mon, 05 Jan 2026 10:00:00 +0200",
        "Mon Jan  5 08:00:00 2026",
        "Jan 5, 2026 08:00:00",
        "Jan 5, 2026 8:00:00 AM",
        "5 Jan 2026 08:00:00",
        "05-Jan-2026 08:00:00",
        "2026-01-05 08:00:00 AM",
        "20260105T080000Z",
        " 2026-01-05T08:00:00Z ",
        "1767600000",
        "1767600000.0",
        "1767600000000",
        "1767600000000000",
        "1767600000000000000",
    ],
)
def test_common_forms(text):
    """Common formats are detected without an option."""
    assert Times().parse(pl.Series([text])).to_list() == [EIGHT]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1_767_600_000], EIGHT),
        ([1_767_600_000.5], EIGHT + SECOND // 2),
        ([1_767_600_000_000], EIGHT),
        ([datetime(2026, 1, 5, 9)], EIGHT),  # noqa: DTZ001 - read in the named zone
        ([datetime(2026, 1, 5, 8, tzinfo=UTC)], EIGHT),
        ([date(2026, 1, 5)], EIGHT - 9 * 3600 * SECOND),
        (["2026-01-05 09:00:00"], EIGHT),
        (["2026-01-05T08:00:00Z"], EIGHT),
    ],
)
def test_types_and_zone(values, wanted):
    """The unit of numbers follows from their size, and times without a zone use the
    given one.
    """
    assert Times("Europe/Berlin").parse(pl.Series(values)).to_list() == [wanted]


def test_mixed_forms_and_rubbish():
    """A column may mix formats; an unparseable text is null."""
    texts = ["2026-01-05T08:00:00Z", "1767600000", "soon", None, "", "1970-01-01"]
    parsed = Times().parse(pl.Series(texts)).to_list()
    assert parsed == [EIGHT, EIGHT, None, None, None, None]


@pytest.mark.parametrize(
    ("texts", "month"),
    [
        (["25/01/2026 08:00:00"], 1),
        (["01/25/2026 08:00:00"], 1),
        (["1/25/2026, 8:00:00 AM"], 1),
        (["1/25/26 8:00"], 1),
        (["01-25-2026 08:00:00"], 1),
        (["03/02/2026 08:00", "03/03/2026 08:00"], 3),
        (["02/03/2026 08:00", "03/03/2026 08:00"], 3),
    ],
)
def test_order_of_slashed_dates_is_detected(texts, month):
    """Day and month are told apart by a number over 12, or by the part that varies."""
    for at in Times().parse(pl.Series(texts)).to_list():
        assert datetime.fromtimestamp(at / SECOND, UTC).month == month


def test_ambiguous_slashed_dates_need_a_format():
    """Ambiguous dates are an error unless a format is given."""
    texts = pl.Series(["03/02/2026 08:00:00"])
    with pytest.raises(InputError, match="day or month first"):
        Times().parse(texts)
    parsed = Times(form="%d/%m/%Y %H:%M:%S").parse(texts)
    assert datetime.fromtimestamp(parsed[0] / SECOND, UTC).month == 2


def test_whole_seconds_agree_with_the_long_way():
    """With ``whole_seconds`` the result equals that of full parsing, cut to seconds."""
    ordered = [
        f"2026-01-05T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}.{k:03}+01:00"
        for n in range(900)
        for k in (0, 250, 500, 750, 999)
    ]
    for texts in (ordered, ordered[::-1], [*ordered, "never"]):
        exact = Times().parse(pl.Series(texts))
        coarse = Times(whole_seconds=True).parse(pl.Series(texts))
        assert (exact // SECOND).equals(coarse // SECOND, null_equal=True)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd"])
def test_unknown_zone(zone):
    """An unknown time zone is refused at once."""
    with pytest.raises(InputError, match="unknown time zone"):
        Times(zone)

"""Silences and maintenance windows, by the clock."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.alerts.silences import Silence, is_silenced, read_silences
from gateway.alerts.weekly import DAYS, Weekly, WeeklyError

BERLIN = "Europe/Berlin"
PAYLOAD = {
    "tenant": "acme",
    "class": "scraping",
    "subject": {"kind": "client_ip", "id": "203.0.113.9"},
}


def at(text: str) -> float:
    """Epoch seconds of UTC text."""
    return datetime.fromisoformat(f"{text}:00+00:00").timestamp()


def sundays(starts="02:00", ends="04:00", days=("sun",), **bounds) -> Silence:
    """Each Sunday in Berlin."""
    weekly = Weekly(days, starts, ends, BERLIN, **bounds)
    return Silence("sil_1", 0.0, 0.0, weekly=weekly)


def span(silence: Silence, now: str) -> tuple[str, str]:
    """The window at or after a moment, UTC."""
    public = silence.public(at(now))
    return public["from"][:16], public["to"][:16]


def test_a_planned_window_begins_later():
    """A planned silence is pending, active, then over, and silences only while active."""
    silence = Silence("s", at("2026-12-01T10:00"), at("2026-12-01T12:00"))
    moments = ("2026-12-01T09:59", "2026-12-01T10:00", "2026-12-01T12:00")
    states = [silence.public(at(one))["state"] for one in moments]
    assert states == ["pending", "active", "over"]
    held = [is_silenced([silence], PAYLOAD, at(one)) for one in moments]
    assert held == [False, True, False]


def test_a_weekly_silence_follows_local_time():
    """A weekly silence follows local time in winter and summer, and is pending in
    between.
    """
    silence = sundays()
    assert span(silence, "2026-01-05T00:00") == ("2026-01-11T01:00", "2026-01-11T03:00")
    assert span(silence, "2026-07-05T01:00") == ("2026-07-05T00:00", "2026-07-05T02:00")
    assert silence.state(at("2026-07-05T00:00")) == "active"
    assert silence.state(at("2026-07-05T02:00")) == "pending"


@pytest.mark.parametrize(
    ("starts", "ends", "since", "until"),
    [
        # Clocks go from 02:00 to 03:00 at 01:00 UTC: 02:00 is then 03:00.
        ("02:00", "04:00", "2026-03-29T01:00", "2026-03-29T02:00"),
        ("01:00", "02:30", "2026-03-29T00:00", "2026-03-29T01:30"),
        ("02:30", "04:00", "2026-03-29T01:30", "2026-03-29T02:00"),
        # Empty on that day, so the next Sunday counts.
        ("02:30", "03:15", "2026-04-05T00:30", "2026-04-05T01:15"),
    ],
)
def test_the_day_when_clocks_go_forward(starts, ends, since, until):
    """On the day when clocks go forward a silence is an hour shorter, and a time that
    does not exist counts an hour later.
    """
    assert span(sundays(starts, ends), "2026-03-28T23:00") == (since, until)


@pytest.mark.parametrize(
    ("starts", "ends", "since", "until"),
    [
        # Clocks go from 03:00 to 02:00 at 01:00 UTC: 02:00 to 03:00 comes twice.
        ("02:00", "04:00", "2026-10-25T00:00", "2026-10-25T03:00"),
        ("01:30", "02:30", "2026-10-24T23:30", "2026-10-25T01:30"),
        ("02:15", "02:45", "2026-10-25T00:15", "2026-10-25T01:45"),
    ],
)
def test_the_day_when_clocks_go_back(starts, ends, since, until):
    """On the day when clocks go back a silence is an hour longer, without a gap."""
    assert span(sundays(starts, ends), "2026-10-24T22:30") == (since, until)


def test_over_midnight():
    """A silence over midnight belongs to the day on which it begins; equal times are a
    whole day.
    """
    silence = sundays("23:00", "01:00")
    assert silence.state(at("2026-01-11T23:30")) == "active"  # Monday in Berlin
    assert silence.state(at("2026-01-12T00:00")) == "pending"
    assert silence.state(at("2026-01-10T23:30")) == "pending"
    whole = sundays("00:00", "00:00")
    assert span(whole, "2026-01-11T05:00") == ("2026-01-10T23:00", "2026-01-11T23:00")


def test_a_weekly_silence_has_a_first_and_last_moment():
    """A weekly silence is limited by its first and last moment, after which it is over."""
    silence = sundays(first=at("2026-01-11T02:00"), last=at("2026-01-18T02:00"))
    assert span(silence, "2026-01-01T00:00") == ("2026-01-11T02:00", "2026-01-11T03:00")
    assert span(silence, "2026-01-12T00:00") == ("2026-01-18T01:00", "2026-01-18T02:00")
    assert silence.state(at("2026-01-18T02:00")) == "over"
    assert silence.public(at("2026-02-01T00:00"))["to"].startswith("2026-01-18T02:00")


def test_older_gateways_ignore_a_weekly_silence():
    """A weekly silence is stored so that an older gateway, which ignores ``weekly``,
    never matches it.
    """
    silence = sundays()
    body = msgspec.json.encode(silence)
    assert read_silences({"a": body, "b": b'{"id":1}'}) == [silence]
    older = {k: v for k, v in msgspec.json.decode(body).items() if k != "weekly"}
    known = msgspec.convert(older, Silence)
    assert not known.matches(PAYLOAD, at("2026-07-05T01:00"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": ()},
        {"days": ("someday",)},
        {"starts": "2:00"},
        {"starts": "25:00"},
        {"ends": "02.00"},
        {"ends": "\u0660\u0662:\u0660\u0660"},
        {"zone": "Nowhere/Land"},
        {"zone": "../etc/passwd"},
        {"zone": ""},
    ],
)
def test_invalid_days_times_and_zones_are_refused(wrong):
    """Invalid days, times and zones raise WeeklyError."""
    given_ = {"days": ("sun",), "starts": "02:00", "ends": "04:00", "zone": BERLIN}
    with pytest.raises(WeeklyError):
        Weekly(**given_ | wrong).check()


CLOCK = st.times().map(lambda one: f"{one:%H:%M}")


@given(
    st.sets(st.sampled_from(DAYS), min_size=1),
    CLOCK,
    CLOCK,
    st.sampled_from([BERLIN, "UTC", "America/St_Johns", "Australia/Lord_Howe"]),
    st.floats(1.7e9, 1.9e9),
)
def test_the_window_is_now_or_later_and_stays_what_it_is(days, starts, ends, zone, now):
    """Asked again within it, the answer is the same."""
    weekly = Weekly(tuple(sorted(days)), starts, ends, zone)
    weekly.check()
    window = weekly.window(now)
    assert window is not None
    since, until = window
    assert now < until
    assert 0 < until - since <= 25 * 3600 + 60
    assert weekly.window((since + until) / 2) in (window, weekly.window(since))

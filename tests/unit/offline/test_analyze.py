"""Findings of ``analyze`` in logs that contain attacks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from gateway.offline import InputError, analyze

MONDAY = 1_767_571_200
DAY, HOUR, MINUTE = 86_400, 3600, 60


def ordinary(days=7, users=60, rows=60_000, seed=1, start=MONDAY):
    """Users of unequal size with a daily cycle."""
    rng = np.random.default_rng(seed)
    at = rng.random(rows * 2) * days * DAY
    keep = rng.random(rows * 2) < 0.5 + 0.35 * np.sin((at / HOUR - 8) / 12 * np.pi)
    at = at[keep]
    weight = rng.lognormal(0, 0.8, users)
    who = rng.choice(users, len(at), p=weight / weight.sum())
    return frame(start + at, [f"user-{n}" for n in who], rng.lognormal(6, 0.9, len(at)))


def frame(at, users, tokens):
    """A data frame of requests."""
    return pl.DataFrame(
        {"ts": at, "user": list(users), "tokens": np.round(tokens)},
        schema={"ts": pl.Float64, "user": pl.String, "tokens": pl.Float64},
    )


def burst(user, start, length, count, tokens=500.0, seed=2):
    """Requests of one user at random times of a span."""
    rng = np.random.default_rng(seed)
    at = start + rng.random(count) * length
    return frame(at, [user] * count, tokens * rng.lognormal(0, 0.5, count))


def flagged(report, subject="*"):
    """Starts of the abnormal windows of a subject."""
    return [window.start for window in report.windows if window.subject == subject]


def test_a_flood_in_the_week_is_found_by_window_and_by_name():
    """A flood is found in its windows with at most two others, and its user is named
    with the cause.
    """
    start = MONDAY + 3 * DAY + 10 * HOUR
    report = analyze(pl.concat([ordinary(), burst("user-3", start, HOUR, 1500)]))
    inside = set(range(start, start + HOUR, 300))
    found = set(flagged(report))
    assert len(found & inside) >= 11
    assert len(found - inside) <= 2
    assert inside <= set(flagged(report, "user-3")) | {start, start + HOUR - 300}
    worst = max(report.windows, key=lambda one: one.tokens)
    assert (worst.cls, worst.severity) == ("cost_spike", "critical")
    assert worst.top_users[0].user == "user-3"
    assert worst.top_users[0].share > 0.5
    assert "requests" in worst.top_users[0].did


def test_a_distributed_flood_is_volume():
    """A flood of many users, none of which explains it, has the class ``volume``."""
    start = MONDAY + 2 * DAY + 20 * HOUR
    rng = np.random.default_rng(3)
    names = [f"bot-{n}" for n in rng.integers(0, 300, 2000)]
    crowd = frame(start + rng.random(2000) * HOUR, names, rng.lognormal(6, 0.5, 2000))
    report = analyze(pl.concat([ordinary(), crowd]))
    found = [one for one in report.windows if one.kind == "all"]
    assert len(found) >= 11
    assert {one.cls for one in found} == {"volume"}
    assert all(start - 300 < one.start < start + HOUR for one in found)


def test_a_small_user_s_spike_is_named():
    """A spike of a small user is found for the user even where the service's total
    hardly changes.
    """
    start = MONDAY + 4 * DAY + 3 * HOUR
    report = analyze(pl.concat([ordinary(), burst("user-9", start, HOUR, 120)]))
    assert len(flagged(report, "user-9")) >= 10
    assert len(flagged(report)) <= 6


@pytest.mark.parametrize("days", [2, 7, 14])
def test_a_nightly_job_is_ordinary(days):
    """A job that runs at the same hour each night is not flagged."""
    jobs = [
        burst("batch", MONDAY + n * DAY + 2 * HOUR + n % 3 * 240, 1800, 900, seed=n)
        for n in range(days)
    ]
    report = analyze(pl.concat([ordinary(days=days, rows=8000 * days), *jobs]))
    assert flagged(report, "batch") == []
    assert len(flagged(report)) <= 2


def test_a_level_that_stays_is_shown_when_it_starts():
    """A lasting increase is flagged only in its first windows."""
    cut = MONDAY + 3 * DAY + 12 * HOUR
    base = ordinary(rows=120_000)
    more = ordinary(rows=150_000, seed=5).filter(pl.col("ts") > cut)
    report = analyze(pl.concat([base, more]))
    found = flagged(report)
    assert 1 <= len(found) <= 12
    assert all(cut - 2 * HOUR <= at <= cut + 2 * HOUR for at in found)


def test_quiet_weeks_are_quiet():
    """Two weeks of ordinary traffic have hardly a flagged window."""
    report = analyze(ordinary(days=14, rows=120_000))
    assert len(flagged(report)) <= 2
    assert len(report.windows) <= 12


def test_one_giant_request_is_no_flood():
    """A single request of a hundred times the usual size is not flagged."""
    giant = frame([MONDAY + 2.5 * DAY], ["user-1"], [60_000.0])
    report = analyze(pl.concat([ordinary(), giant]))
    assert flagged(report, "user-1") == []


def test_every_number_is_finite_and_sorted():
    """Logs of one row, of a minute or without tokens give finite figures and sorted
    windows.
    """
    rng = np.random.default_rng(1)
    silent = frame([MONDAY, MONDAY + 7 * DAY], "ab", [5, 5])
    short = frame(MONDAY + rng.random(50) * 60, ["a"] * 50, rng.random(50) * 10)
    nothing = frame([MONDAY, MONDAY + 300], "ab", [0, 0])
    for one in (silent[:1], short, silent, nothing):
        report = analyze(one)
        assert np.isfinite(report.timeline.limit).all()
        starts = [window.start for window in report.windows]
        assert starts == sorted(starts)
        assert report.to_html()
        assert report.table()


def test_no_users_means_the_service_alone():
    """Without a user column only the service is analyzed."""
    start = MONDAY + 3 * DAY + 10 * HOUR
    rows = pl.concat([ordinary(), burst("x", start, HOUR, 1500)]).drop("user")
    report = analyze(rows)
    assert report.users == 0
    assert {window.kind for window in report.windows} == {"all"}
    assert len(report.windows) >= 11
    assert all(window.top_users == () for window in report.windows)


def test_one_user_gets_both():
    """With a single user both the service's and the user's windows are flagged."""
    start = MONDAY + 3 * DAY + 10 * HOUR
    rows = pl.concat([ordinary(users=1), burst("user-0", start, HOUR, 1500)])
    kinds = {window.kind for window in analyze(rows).windows}
    assert kinds == {"all", "user"}


def test_order_of_rows_does_not_matter():
    """Shuffled rows give the same report."""
    rows = pl.concat([ordinary(), burst("user-3", MONDAY + 3 * DAY, HOUR, 1500)])
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=4)
    assert analyze(rows).to_dict() == analyze(shuffled).to_dict()


def test_frames_of_every_kind_agree():
    """polars, lazy polars and pandas frames give the same report."""
    pandas = pytest.importorskip("pandas")
    rows = pl.concat([ordinary(rows=20_000), burst("user-3", MONDAY + DAY, HOUR, 1500)])
    told = analyze(rows).to_dict()
    assert analyze(rows.lazy()).to_dict() == told
    plain = pandas.DataFrame({name: rows[name].to_numpy() for name in rows.columns})
    assert analyze(plain).to_dict() == told
    plain["ts"] = pandas.to_datetime(plain["ts"], unit="s", utc=True)
    assert analyze(plain).to_dict()["windows"] == told["windows"]


@pytest.mark.parametrize("window", ["0s", "7m", "2d", "five", "500ms"])
def test_windows_must_divide_a_day(window):
    """A window that does not divide a day is refused."""
    with pytest.raises(InputError, match="window"):
        analyze(ordinary(rows=100), window=window)


def test_windows_follow_the_clock_of_the_zone():
    """Windows of a day start at midnight of the zone."""
    report = analyze(ordinary(rows=5000), window="1d", timezone="Asia/Kolkata")
    assert report.timeline.start % DAY == 18 * HOUR + 30 * MINUTE


def test_another_type_is_refused():
    """A list instead of a frame is refused with its type."""
    with pytest.raises(InputError, match="not list"):
        analyze([1, 2])


def test_a_lone_wrong_clock_does_not_stretch_the_log():
    """A row years away is skipped and counted."""
    stray = frame([MONDAY - 20 * 365 * DAY], ["a"], [5.0])
    report = analyze(pl.concat([ordinary(rows=5000), stray]))
    assert report.skipped == 1
    assert len(report.timeline.tokens) <= 7 * 288 + 1


def strangers(start, count=300, requests=10, seed=5):
    """Requests of many keys that each exist for half an hour."""
    keys = [f"key-{n}" for n in range(count)]
    return pl.concat(
        [
            burst(key, start, HOUR // 2, requests, seed=seed + n)
            for n, key in enumerate(keys)
        ]
    )


def office(rows, keep=8):
    """The rows with little traffic at night and on the weekend."""
    hour, day = pl.col("ts") % DAY / HOUR, (pl.col("ts") - MONDAY) // DAY
    rare = (day >= 5) | ~hour.is_between(7, 19)
    counted = rows.with_row_index()
    return counted.filter(~rare | (pl.col("index") % keep == 0)).drop("index")


def test_strangers_do_not_hide_the_spike_of_one_of_few_users():
    """Keys that exist for half an hour do not raise the threshold of other users."""
    start = MONDAY + 2 * DAY + 11 * HOUR
    parts = [
        office(ordinary(users=12, rows=60_000)),
        burst("user-3", start, 10 * MINUTE, 250),
        strangers(MONDAY + 4 * DAY + 12 * HOUR, requests=3),
    ]
    report = analyze(pl.concat(parts))
    assert {start, start + 300} <= set(flagged(report, "user-3"))
    assert {start, start + 300} <= set(flagged(report))


def test_twice_the_usual_load_is_flagged_in_spite_of_jobs():
    """An hour of twice the usual load is flagged although regular jobs add to the
    expectation.
    """
    hour = MONDAY + 4 * DAY + 15 * HOUR
    base = ordinary(rows=120_000)
    jobs = [
        burst(f"job-{at}", MONDAY + day * DAY + at * HOUR + 600, 600, 150, seed=at)
        for day in range(7)
        for at in (1, 3, 5, 7, 9, 11)
    ]
    busy = base.filter(pl.col("ts").is_between(hour, hour + HOUR))
    report = analyze(pl.concat([base, busy, *jobs]))
    inside = set(range(hour, hour + HOUR, 300))
    assert len(inside & set(flagged(report))) >= 10


@pytest.mark.parametrize("rows", [120, 200, 400])
def test_sparse_traffic_is_not_flagged(rows):
    """In sparse traffic single requests are not flagged, and a flood is."""
    calm = ordinary(users=20, rows=rows)
    assert not analyze(calm).windows
    start = MONDAY + 3 * DAY + 14 * HOUR
    report = analyze(pl.concat([calm, burst("user-3", start, 10 * MINUTE, 60)]))
    assert set(flagged(report)) == {start, start + 300}
    assert set(flagged(report, "user-3")) == {start, start + 300}


def test_a_large_spike_does_not_hide_a_small_one_days_later():
    """Each spike of a user is shown by its own windows."""
    large, small = MONDAY + DAY + 9 * HOUR, MONDAY + 5 * DAY + 15 * HOUR
    parts = [
        ordinary(),
        burst("user-3", large, 10 * MINUTE, 8000),
        burst("user-3", small, 10 * MINUTE, 150, seed=3),
    ]
    found = set(flagged(analyze(pl.concat(parts)), "user-3"))
    assert {large, large + 300, small, small + 300} <= found


def test_what_is_abnormal_lies_above_the_threshold():
    """Every flagged window of the service is above the drawn threshold, also where one
    user's excess was decisive.
    """
    start = MONDAY + 3 * DAY + 10 * HOUR
    report = analyze(pl.concat([ordinary(), burst("user-3", start, 6 * HOUR, 2500)]))
    line = report.timeline
    at = [(start - line.start) // 300 for start in flagged(report)]
    assert len(at) >= 60
    assert (line.tokens[at] >= line.limit[at]).all()

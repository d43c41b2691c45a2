"""What is remembered of a subject."""

from __future__ import annotations

import math
import random

import pytest

from gateway.detect.model import REFUSED_STATUS, Event
from gateway.detect.subject import (
    COMPANY,
    DENIED,
    FAILED,
    KNOWN_ANSWERS,
    MISSING,
    OK,
    REJECTED,
    TARGETS,
    WINDOW_S,
    SubjectState,
    network_of,
    outcome_of,
)

T = 1_767_607_200.0


def new_track() -> SubjectState:
    """A user seen for the first time."""
    track = SubjectState(kind="user", id="u", tenant="t", born=T, last=T)
    track.window, track.minute = int(T // WINDOW_S), int(T // 60)
    return track


def send(
    track: SubjectState, ts: float, *, company: str = "net", **fields: object
) -> bool:
    """Count one event."""
    event = Event(ts, "10.0.0.1", "u", **fields)
    return track.count(event, outcome_of(event.status), company)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, OK),
        (0, OK),
        (401, DENIED),
        (403, DENIED),
        (404, MISSING),
        (405, MISSING),
        (400, REJECTED),
        (429, REJECTED),
        (500, FAILED),
    ],
)
def test_conduct(status, kind):
    """Answers by what they say about the one who asked."""
    assert outcome_of(status) == kind


def test_networks():
    """A /24, a /48, or what there is."""
    assert network_of("203.0.113.9") == "203.0.113"
    assert network_of("2001:db8:1:2::/64") == "2001:db8:1"
    assert network_of("unknown") == "unknown"


def test_minutes_and_windows_turn():
    """The last minute slides; a turned window says so; late events change nothing."""
    track = new_track()
    assert not any(send(track, T + n) for n in range(30))
    assert not send(track, T + 60)
    assert track.rate_m(T + 60) == 31
    assert track.rate_m(T + 90) == 16
    assert track.rate_m(T + 150) == 0.5
    assert not send(track, T + 30)
    assert track.requests == 32
    assert send(track, T + 600)
    assert (track.requests_b, track.peak_m) == (0, 30)


def test_a_refusal_of_our_own_is_no_answer():
    """It counts as a request and as nothing else."""
    track = new_track()
    send(track, T, status=REFUSED_STATUS)
    assert (track.requests, track.answered, sum(track.outcomes)) == (1, 0, 0)


def test_targets_of_refused_requests_are_bounded():
    """Different models that were refused are told apart, up to a bound."""
    track = new_track()
    for n in range(40):
        send(track, T + n, status=404, model=f"m{n}")
    assert len(track.targets) == len(track.models) == TARGETS


def test_alike_prompts():
    """Prompts of one template make a share near one, unrelated ones near zero."""
    chance = random.Random(4)
    walker, reader = new_track(), new_track()
    base = chance.getrandbits(64)
    for n in range(30):
        send(walker, T + n, fingerprint=base ^ (1 << chance.randrange(64)))
        send(reader, T + n, fingerprint=chance.getrandbits(64))
    assert walker.alike_share() > 0.95
    assert walker.apart <= 2
    assert reader.alike_share() < 0.05
    assert new_track().alike_share() == 0.0


def test_company_is_bounded_and_newcomers_counted():
    """Each new network counts; beyond the bound the newest are forgotten first."""
    track = new_track()
    for n in range(COMPANY + 5):
        send(track, T + n, company=f"net{n}")
        send(track, T + n, company=f"net{n}")
    assert len(track.company) == COMPANY
    assert "net0" in track.company
    assert track.newcomers == COMPANY + 5


def test_known_after_a_day_of_answers():
    """A day and a dozen good answers."""
    track = new_track()
    for n in range(KNOWN_ANSWERS):
        send(track, T + n, model="a")
    assert not track.known(T + 60)
    assert track.known(T + 90_000)


def turn(track: SubjectState, windows: int = 1) -> float:
    """Go to another window; the time at which it begins."""
    track.turn_window(track.window + windows)
    return track.window * WINDOW_S


def test_news_of_a_key_fade_and_become_usual():
    """New networks, models and endpoints count for an hour; the first were none."""
    track = new_track()
    send(track, T, model="a")
    later = turn(track)
    assert (track.new_networks, track.new_models) == (0, 0)
    for n in range(4):
        send(track, later + n, company=f"net{n}", model=f"m{n}", endpoint="chat")
    assert track.new_networks > 3.9
    assert track.new_models > 4.9
    assert track.skip <= 1
    later = turn(track)
    assert track.most_new_networks == 0
    send(track, later + 4 * 3600, company="net0")
    turn(track)
    assert track.most_new_networks > 3.9
    assert track.new_networks < 0.2


def test_news_that_go_on_are_usual():
    """Who meets new networks all day roams."""
    track = new_track()
    turn(track)
    for hour in range(8):
        at = T + 3600 * hour
        for n in range(3):
            send(track, at + n, company=f"net{hour}.{n}")
        turn(track, 6)
    assert track.most_new_networks > 3


def test_networks_under_suspicion():
    """What is new while a key is abused is told from what was there before."""
    track = new_track()
    send(track, T, company="own")
    at = turn(track)
    send(track, at, company="own")
    at = turn(track)
    send(track, at, company="other")
    track.suspect(at + 1)
    assert track.suspects == {"other"}
    send(track, at + 2, company="new")
    track.suspect(at + 3)
    assert track.suspects == {"other", "new"}
    send(track, at + 4, company="own")
    send(track, at + 5, company="other")
    assert (track.suspicious, track.skip) == (1, 0)
    at = turn(track)
    assert (track.suspicious, track.suspicious_b) == (0, 1)
    send(track, at + 6 * 3600, company="other")
    assert (track.suspicious, track.suspects) == (0, None)


def walk(track: SubjectState, start: float, count: int, gap: float = 1.0) -> float:
    """So many equal prompts of equal size; the time after them."""
    for n in range(count):
        send(track, start + n * gap, fingerprint=5, prompt_tokens=100)
    return start + count * gap


def test_runs_end_by_other_prompts_and_by_pauses():
    """The longest one before stays known, a little less with every further one."""
    track, chance = new_track(), random.Random(2)
    at = walk(track, T, 40)
    assert (track.repetition_run, track.repetition_tokens) == (33, 3200)
    assert track.same_size > 0.8
    for n in range(30):
        send(track, at + n, fingerprint=chance.getrandbits(64))
    assert (track.repetition_run, track.most_repetition_run) == (0, 33 + 21)
    at = walk(track, at + 100, 40)
    first = track.repetition_run
    send(track, at + 3600, fingerprint=5)
    assert track.repetition_run == 1
    assert track.most_repetition_run == pytest.approx(0.95 * 54)
    assert first < 55


def test_rows_of_one_size_are_counted_and_learned_when_they_end():
    """What is judged abusive is no usual; the longest prompt is learned likewise."""
    track = new_track()
    at = walk(track, T, 40)
    assert (track.same_size_streak, track.longest) == (29, 100)
    for n in range(30):
        send(track, at + n, prompt_tokens=50 * (n % 8 + 1))
    assert (track.same_size_streak, track.longest) == (0, 400)
    assert track.most_same_size_streak >= 29
    most = track.most_same_size_streak
    track.repetition_judged = True
    at = walk(track, at + 40, 90)
    for n in range(30):
        send(track, at + n, prompt_tokens=50 * (n % 8 + 1))
    assert (track.same_size_streak, track.most_same_size_streak) == (0, most)


def test_runs_that_were_judged_teach_nothing_and_long_ones_are_usual():
    """Six hours of the same are a way of life."""
    track = new_track()
    walk(track, T, 40)
    track.repetition_judged = True
    send(track, T + 9000, fingerprint=5)
    assert track.most_repetition_run == 0
    at = walk(track, T + 9001, 60, 500.0)
    assert track.repetition_run > 20
    track.last = at
    turn(track)
    assert track.most_repetition_run == track.repetition_run


def test_answers_longer_than_ever():
    """The last ones against the longest row of them before, once there are a few."""
    track = new_track()
    assert (track.longer(), track.louder()) == (1.0, 1.0)
    for window in range(3):
        size = 50 * (1 + 3 * (window == 1))
        for n in range(40):
            send(track, T + 600 * window + n, completion_tokens=size)
        turn(track)
    for n in range(40):
        send(track, T + 1800 + n, completion_tokens=800)
    assert track.louder() == pytest.approx(4, rel=0.05)
    assert track.longer() > 6


def test_one_window_of_longer_answers_is_no_habit():
    """What nobody was sure of raises the longest ever a little; judged, not at all."""
    track = new_track()
    for window in range(10):
        size = 50 if window < 9 else 5000
        for n in range(20):
            send(track, T + 600 * window + n, completion_tokens=size)
        track.judged = window == 8
        turn(track)
    assert track.most_answer == pytest.approx(math.log(50) + 0.3)


def test_targets_of_a_key_are_not_where_it_comes_from():
    """A broken deployment behind rotating egress tries one thing."""
    user, address = new_track(), new_track()
    address.kind = "client_ip"
    for n in range(5):
        send(user, T + n, company=f"n{n}", status=401)
        send(address, T + n, company=f"n{n}", status=401)
    assert (len(user.targets), len(address.targets)) == (1, 5)


def test_regular_gaps():
    """Clockwork has no variation; a single request says nothing."""
    track = new_track()
    assert track.regular() == 1.0
    for n in range(1, 200):
        send(track, T + 5 * n)
    assert track.regular() < 0.2
    for n in range(12):
        send(track, T + 10_000 + 5 * n)
    assert track.regular() == 1.0
    for _ in range(20):
        send(track, T + 10_055)
    assert track.regular() > 1.0
    at_once = new_track()
    for _ in range(20):
        send(at_once, T)
    assert at_once.regular() == 1.0


def test_growth_needs_a_history():
    """Longer prompts and answers are told as multiples of the usual."""
    track = new_track()
    for n in range(20):
        send(track, T + n, prompt_tokens=100, completion_tokens=50)
    assert (track.growth(), track.longer()) == (1.0, 1.0)
    track.turn_window(track.window + 1)
    for n in range(10):
        send(track, T + 600 + n, prompt_tokens=400, completion_tokens=50)
    assert track.growth() == pytest.approx(4)
    assert track.longer() == pytest.approx(1)


def test_windows_that_turn():
    """The window before is kept when it was the last one; judged ones teach nothing."""
    track = new_track()
    send(track, T, status=401)
    track.turn_window(track.window + 1)
    assert (track.requests_w, sum(track.outcomes_b), track.windows) == (1, 1, 1)
    send(track, T + 600, completion_tokens=5)
    track.judged = True
    track.turn_window(track.window + 5)
    assert (track.requests_w, sum(track.outcomes_b), track.windows) == (0, 0, 1)
    assert track.targets is None
    assert not track.judged


def test_young_templates():
    """The share of prompts whose template nobody knew."""
    track = new_track()
    for _ in range(50):
        track.template(young=True)
    assert track.templated > 0.9
    track.template(young=False)
    assert track.templated < 0.95


def test_what_it_did_before_the_last_minutes():
    """Requests of this window and the last, without the last one to two minutes."""
    track = new_track()
    assert track.earlier(T) == (0.0, 0.0)
    for n in range(60):
        if send(track, T + n * 10):
            track.turn_window(int((T + n * 10) // WINDOW_S))
    made, minutes = track.earlier(T + 590)
    assert (made, minutes) == (48.0, 8.0)


def test_the_quiet_need_no_look():
    """Few requests, few tokens, few networks."""
    track = new_track()
    send(track, T)
    assert track.quiet()
    for name, value in (("requests_w", 9), ("tokens", 10**6), ("newcomers_b", 5)):
        loud = new_track()
        setattr(loud, name, value)
        assert not loud.quiet()


def test_comings_and_goings_of_a_key():
    """Back and forth between networks it knows; an address has no such thing."""
    user, address = new_track(), new_track()
    address.kind = "client_ip"
    for n in range(6):
        send(user, T + n, company=f"net{n % 2}")
        send(address, T + n, company=f"net{n % 2}")
    assert user.alternations > 3.9
    assert address.alternations == 0


def test_few_answers_wait_for_more():
    """A slow client is measured over two windows; one that stays away is not."""
    track = new_track()
    for window in range(2):
        for n in range(3):
            send(track, T + 600 * window + n, completion_tokens=50)
        turn(track)
    assert (track.usual_sized, track.sized) == (6, 0)
    send(track, T + 1200, completion_tokens=50)
    turn(track, 3)
    assert (track.usual_sized, track.sized) == (7, 0)


def test_short_runs_are_none():
    """A few alike prompts between others."""
    track = new_track()
    walk(track, T, 12)
    track.repetition_run = 3
    send(track, T + 9000, fingerprint=9)
    assert track.most_repetition_run == 0


def test_tokens_of_the_last_minute():
    """The minute before counts by its part; after two there are none."""
    track = new_track()
    at = T - T % 60
    send(track, at + 30, prompt_tokens=600, completion_tokens=0)
    send(track, at + 60, prompt_tokens=100, completion_tokens=0)
    assert track.tokens_1m(at + 75) == pytest.approx(100 + 600 * 0.75)
    assert track.tokens_1m(at + 135) == pytest.approx(100 * 0.75)
    assert track.tokens_1m(at + 300) == 0.0

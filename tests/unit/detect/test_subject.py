"""The state of a subject: counts, runs, novelty and history."""

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


def new_subject() -> SubjectState:
    """A user seen for the first time."""
    subject = SubjectState(kind="user", id="u", tenant="t", born=T, last=T)
    subject.window, subject.minute = int(T // WINDOW_S), int(T // 60)
    return subject


def send(
    subject: SubjectState, ts: float, *, company: str = "net", **fields: object
) -> bool:
    """Count one event."""
    event = Event(ts, "10.0.0.1", "u", **fields)
    return subject.count(event, outcome_of(event.status), company)


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
def test_outcome_of_a_status(status, kind):
    """Each status has its outcome."""
    assert outcome_of(status) == kind


def test_networks():
    """The network of an address is its /24, its /48, or the text itself."""
    assert network_of("203.0.113.9") == "203.0.113"
    assert network_of("2001:db8:1:2::/64") == "2001:db8:1"
    assert network_of("unknown") == "unknown"


def test_minutes_and_windows_turn():
    """The rate slides over the last minute, a new window is reported, and late events
    count in the current one.
    """
    subject = new_subject()
    assert not any(send(subject, T + n) for n in range(30))
    assert not send(subject, T + 60)
    assert subject.rate_m(T + 60) == 31
    assert subject.rate_m(T + 90) == 16
    assert subject.rate_m(T + 150) == 0.5
    assert not send(subject, T + 30)
    assert subject.requests == 32
    assert send(subject, T + 600)
    assert (subject.requests_b, subject.peak_m) == (0, 30)


def test_a_refusal_of_the_gateway_is_no_outcome():
    """A refusal by the gateway counts as a request without an outcome."""
    subject = new_subject()
    send(subject, T, status=REFUSED_STATUS)
    assert (subject.requests, subject.answered, sum(subject.outcomes)) == (1, 0, 0)


def test_targets_of_refused_requests_are_bounded():
    """The targets of refused requests are distinct models, up to a bound."""
    subject = new_subject()
    for n in range(40):
        send(subject, T + n, status=404, model=f"m{n}")
    assert len(subject.targets) == len(subject.models) == TARGETS


def test_alike_prompts():
    """The share of alike prompts is near 1 within a template, near 0 for unrelated
    prompts.
    """
    chance = random.Random(4)
    scraper, reader = new_subject(), new_subject()
    base = chance.getrandbits(64)
    for n in range(30):
        send(scraper, T + n, fingerprint=base ^ (1 << chance.randrange(64)))
        send(reader, T + n, fingerprint=chance.getrandbits(64))
    assert scraper.alike_share() > 0.95
    assert scraper.apart <= 2
    assert reader.alike_share() < 0.05
    assert new_subject().alike_share() == 0.0


def test_company_is_bounded_and_newcomers_counted():
    """Each new network counts; at most ``COMPANY`` are kept, the oldest of them."""
    subject = new_subject()
    for n in range(COMPANY + 5):
        send(subject, T + n, company=f"net{n}")
        send(subject, T + n, company=f"net{n}")
    assert len(subject.company) == COMPANY
    assert "net0" in subject.company
    assert subject.newcomers == COMPANY + 5


def test_known_after_a_day_of_answers():
    """A subject is known after a day and ``KNOWN_ANSWERS`` good answers."""
    subject = new_subject()
    for n in range(KNOWN_ANSWERS):
        send(subject, T + n, model="a")
    assert not subject.known(T + 60)
    assert subject.known(T + 90_000)


def turn(subject: SubjectState, windows: int = 1) -> float:
    """Turn some windows on; the start of the new one."""
    subject.turn_window(subject.window + windows)
    return subject.window * WINDOW_S


def test_novelty_of_a_key_decays_into_its_usual():
    """New networks and models count for an hour and then raise the key's usual novelty;
    the first ones do not count.
    """
    subject = new_subject()
    send(subject, T, model="a")
    later = turn(subject)
    assert (subject.new_networks, subject.new_models) == (0, 0)
    for n in range(4):
        send(subject, later + n, company=f"net{n}", model=f"m{n}", endpoint="chat")
    assert subject.new_networks > 3.9
    assert subject.new_models > 4.9
    assert subject.skip <= 1
    later = turn(subject)
    assert subject.most_new_networks == 0
    send(subject, later + 4 * 3600, company="net0")
    turn(subject)
    assert subject.most_new_networks > 3.9
    assert subject.new_networks < 0.2


def test_continuous_novelty_becomes_usual():
    """A key that appears in new networks all day has a usual novelty."""
    subject = new_subject()
    turn(subject)
    for hour in range(8):
        at = T + 3600 * hour
        for n in range(3):
            send(subject, at + n, company=f"net{hour}.{n}")
        turn(subject, 6)
    assert subject.most_new_networks > 3


def test_networks_under_suspicion():
    """Networks that are new while a key is abused are suspects for hours; those known
    before are not.
    """
    subject = new_subject()
    send(subject, T, company="own")
    at = turn(subject)
    send(subject, at, company="own")
    at = turn(subject)
    send(subject, at, company="other")
    subject.suspect(at + 1)
    assert subject.suspects == {"other"}
    send(subject, at + 2, company="new")
    subject.suspect(at + 3)
    assert subject.suspects == {"other", "new"}
    send(subject, at + 4, company="own")
    send(subject, at + 5, company="other")
    assert (subject.suspicious, subject.skip) == (1, 0)
    at = turn(subject)
    assert (subject.suspicious, subject.suspicious_b) == (0, 1)
    send(subject, at + 6 * 3600, company="other")
    assert (subject.suspicious, subject.suspects) == (0, None)


def send_alike(
    subject: SubjectState, start: float, count: int, gap: float = 1.0
) -> float:
    """Send equal prompts of equal size; the time after them."""
    for n in range(count):
        send(subject, start + n * gap, fingerprint=5, prompt_tokens=100)
    return start + count * gap


def test_runs_end_by_other_prompts_and_by_pauses():
    """Other prompts or a pause end a run; the longest run is kept and decays by 5 %
    with each further one.
    """
    subject, chance = new_subject(), random.Random(2)
    at = send_alike(subject, T, 40)
    assert (subject.repetition_run, subject.repetition_tokens) == (33, 3200)
    assert subject.same_size > 0.8
    for n in range(30):
        send(subject, at + n, fingerprint=chance.getrandbits(64))
    assert (subject.repetition_run, subject.most_repetition_run) == (0, 33 + 21)
    at = send_alike(subject, at + 100, 40)
    first = subject.repetition_run
    send(subject, at + 3600, fingerprint=5)
    assert subject.repetition_run == 1
    assert subject.most_repetition_run == pytest.approx(0.95 * 54)
    assert first < 55


def test_same_size_streaks_are_learned_when_they_end():
    """A same-size streak and the longest prompt are learned when the streak ends,
    unless it was judged abusive.
    """
    subject = new_subject()
    at = send_alike(subject, T, 40)
    assert (subject.same_size_streak, subject.longest) == (29, 100)
    for n in range(30):
        send(subject, at + n, prompt_tokens=50 * (n % 8 + 1))
    assert (subject.same_size_streak, subject.longest) == (0, 400)
    assert subject.most_same_size_streak >= 29
    most = subject.most_same_size_streak
    subject.repetition_judged = True
    at = send_alike(subject, at + 40, 90)
    for n in range(30):
        send(subject, at + n, prompt_tokens=50 * (n % 8 + 1))
    assert (subject.same_size_streak, subject.most_same_size_streak) == (0, most)


def test_judged_runs_are_not_learned_and_long_runs_are():
    """A run judged abusive is not learned; one that lasts for hours is learned while it
    goes on.
    """
    subject = new_subject()
    send_alike(subject, T, 40)
    subject.repetition_judged = True
    send(subject, T + 9000, fingerprint=5)
    assert subject.most_repetition_run == 0
    at = send_alike(subject, T + 9001, 60, 500.0)
    assert subject.repetition_run > 20
    subject.last = at
    turn(subject)
    assert subject.most_repetition_run == subject.repetition_run


def test_answers_longer_than_ever():
    """Recent answers are compared with the longest window of answers before."""
    subject = new_subject()
    assert (subject.longer(), subject.louder()) == (1.0, 1.0)
    for window in range(3):
        size = 50 * (1 + 3 * (window == 1))
        for n in range(40):
            send(subject, T + 600 * window + n, completion_tokens=size)
        turn(subject)
    for n in range(40):
        send(subject, T + 1800 + n, completion_tokens=800)
    assert subject.louder() == pytest.approx(4, rel=0.05)
    assert subject.longer() > 6


def test_one_window_of_longer_answers_is_no_habit():
    """One window of longer answers raises the longest only slightly, a judged window
    not at all.
    """
    subject = new_subject()
    for window in range(10):
        size = 50 if window < 9 else 5000
        for n in range(20):
            send(subject, T + 600 * window + n, completion_tokens=size)
        subject.judged = window == 8
        turn(subject)
    assert subject.most_answer == pytest.approx(math.log(50) + 0.3)


def test_targets_of_a_key_are_not_where_it_comes_from():
    """Refused requests of a key from several networks have one target, those of an
    address several.
    """
    user, address = new_subject(), new_subject()
    address.kind = "client_ip"
    for n in range(5):
        send(user, T + n, company=f"n{n}", status=401)
        send(address, T + n, company=f"n{n}", status=401)
    assert (len(user.targets), len(address.targets)) == (1, 5)


def test_regular_gaps():
    """Regular gaps have a low coefficient of variation; after a pause or without gaps
    it is 1.
    """
    subject = new_subject()
    assert subject.regular() == 1.0
    for n in range(1, 200):
        send(subject, T + 5 * n)
    assert subject.regular() < 0.2
    for n in range(12):
        send(subject, T + 10_000 + 5 * n)
    assert subject.regular() == 1.0
    for _ in range(20):
        send(subject, T + 10_055)
    assert subject.regular() > 1.0
    at_once = new_subject()
    for _ in range(20):
        send(at_once, T)
    assert at_once.regular() == 1.0


def test_growth_needs_a_history():
    """Growth of prompts and answers is a multiple of earlier windows."""
    subject = new_subject()
    for n in range(20):
        send(subject, T + n, prompt_tokens=100, completion_tokens=50)
    assert (subject.growth(), subject.longer()) == (1.0, 1.0)
    subject.turn_window(subject.window + 1)
    for n in range(10):
        send(subject, T + 600 + n, prompt_tokens=400, completion_tokens=50)
    assert subject.growth() == pytest.approx(4)
    assert subject.longer() == pytest.approx(1)


def test_windows_that_turn():
    """The previous window is kept only if it is adjacent, and judged windows are not
    learned.
    """
    subject = new_subject()
    send(subject, T, status=401)
    subject.turn_window(subject.window + 1)
    assert (subject.requests_w, sum(subject.outcomes_b), subject.windows) == (1, 1, 1)
    send(subject, T + 600, completion_tokens=5)
    subject.judged = True
    subject.turn_window(subject.window + 5)
    assert (subject.requests_w, sum(subject.outcomes_b), subject.windows) == (0, 0, 1)
    assert subject.targets is None
    assert not subject.judged


def test_young_templates():
    """``templated`` is the share of prompts with new templates."""
    subject = new_subject()
    for _ in range(50):
        subject.template(young=True)
    assert subject.templated > 0.9
    subject.template(young=False)
    assert subject.templated < 0.95


def test_earlier_requests_exclude_the_last_minutes():
    """``earlier`` counts this window and the last without the current and previous
    minute.
    """
    subject = new_subject()
    assert subject.earlier(T) == (0.0, 0.0)
    for n in range(60):
        if send(subject, T + n * 10):
            subject.turn_window(int((T + n * 10) // WINDOW_S))
    made, minutes = subject.earlier(T + 590)
    assert (made, minutes) == (48.0, 8.0)


def test_quiet_subjects_need_no_evaluation():
    """A subject with few requests, tokens and networks is quiet."""
    subject = new_subject()
    send(subject, T)
    assert subject.quiet()
    for name, value in (("requests_w", 9), ("tokens", 10**6), ("newcomers_b", 5)):
        loud = new_subject()
        setattr(loud, name, value)
        assert not loud.quiet()


def test_alternations_of_a_key():
    """Alternations between known networks count for keys, not for addresses."""
    user, address = new_subject(), new_subject()
    address.kind = "client_ip"
    for n in range(6):
        send(user, T + n, company=f"net{n % 2}")
        send(address, T + n, company=f"net{n % 2}")
    assert user.alternations > 3.9
    assert address.alternations == 0


def test_few_answers_wait_for_more():
    """Few answers are measured over two windows; after a pause they are learned at
    once.
    """
    subject = new_subject()
    for window in range(2):
        for n in range(3):
            send(subject, T + 600 * window + n, completion_tokens=50)
        turn(subject)
    assert (subject.usual_sized, subject.sized) == (6, 0)
    send(subject, T + 1200, completion_tokens=50)
    turn(subject, 3)
    assert (subject.usual_sized, subject.sized) == (7, 0)


def test_short_runs_are_none():
    """A short run is not learned."""
    subject = new_subject()
    send_alike(subject, T, 12)
    subject.repetition_run = 3
    send(subject, T + 9000, fingerprint=9)
    assert subject.most_repetition_run == 0


def test_tokens_of_the_last_minute():
    """The tokens of the last minute include the remaining part of the minute before."""
    subject = new_subject()
    at = T - T % 60
    send(subject, at + 30, prompt_tokens=600, completion_tokens=0)
    send(subject, at + 60, prompt_tokens=100, completion_tokens=0)
    assert subject.tokens_1m(at + 75) == pytest.approx(100 + 600 * 0.75)
    assert subject.tokens_1m(at + 135) == pytest.approx(100 * 0.75)
    assert subject.tokens_1m(at + 300) == 0.0

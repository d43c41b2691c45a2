"""What is remembered of a subject."""

from __future__ import annotations

import random

import pytest

from gateway.detect.features import (
    COMPANY,
    DENIED,
    FAILED,
    KNOWN_ANSWERS,
    MISSING,
    OK,
    REJECTED,
    TARGETS,
    WINDOW_S,
    Track,
    conduct_of,
    network_of,
)
from gateway.detect.model import REFUSED_STATUS, Event

T = 1_767_607_200.0


def new_track() -> Track:
    """A user seen for the first time."""
    track = Track(kind="user", id="u", tenant="t", born=T, last=T)
    track.window, track.minute = int(T // WINDOW_S), int(T // 60)
    return track


def send(track: Track, ts: float, *, company: str = "net", **fields: object) -> bool:
    """Count one event."""
    event = Event(ts, "10.0.0.1", "u", **fields)
    return track.count(event, conduct_of(event.status), company)


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
    assert conduct_of(status) == kind


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
    assert (track.requests, track.answered, sum(track.conduct)) == (1, 0, 0)


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
    """Each new network counts once; the oldest is forgotten first."""
    track = new_track()
    for n in range(COMPANY + 5):
        send(track, T + n, company=f"net{n}")
        send(track, T + n, company=f"net{n}")
    assert len(track.company) == COMPANY
    assert track.newcomers == COMPANY + 5


def test_a_strange_model_is_one_after_a_history():
    """The first models are simply its models."""
    track = new_track()
    for n in range(KNOWN_ANSWERS + 1):
        send(track, T + n, model="a")
    assert track.strange_models == 0
    send(track, T + 60, model="b")
    assert track.strange_models == 1
    assert not track.known(T + 60)
    assert track.known(T + 90_000)


def test_regular_gaps():
    """Clockwork has no variation; a single request says nothing."""
    track = new_track()
    assert track.regular() == 1.0
    for n in range(1, 200):
        send(track, T + 5 * n)
    assert track.regular() < 0.2


def test_growth_needs_a_history():
    """Longer prompts and answers are told as multiples of the usual."""
    track = new_track()
    for n in range(20):
        send(track, T + n, prompt_tokens=100, completion_tokens=50)
    assert track.growth() == (1.0, 1.0)
    track.turn_window(track.window + 1)
    for n in range(10):
        send(track, T + 600 + n, prompt_tokens=400, completion_tokens=50)
    asks, answers = track.growth()
    assert asks == pytest.approx(4)
    assert answers == pytest.approx(1)


def test_windows_that_turn():
    """The window before is kept when it was the last one; judged ones teach nothing."""
    track = new_track()
    send(track, T, status=401)
    track.turn_window(track.window + 1)
    assert (track.requests_w, sum(track.conduct_b), track.windows) == (1, 1, 1)
    assert track.usual_newcomers == 1
    send(track, T + 600, completion_tokens=5)
    track.judged = True
    track.turn_window(track.window + 5)
    assert (track.requests_w, sum(track.conduct_b), track.windows) == (0, 0, 1)
    assert track.targets == set()
    assert not track.judged


def test_young_templates():
    """The share of prompts whose template nobody knew."""
    track = new_track()
    for _ in range(50):
        track.template(young=True)
    assert track.templated > 0.9
    track.template(young=False)
    assert track.templated < 0.95

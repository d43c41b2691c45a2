"""Baselines from past requests, without enforcement states."""

from __future__ import annotations

import random

from gateway.detect.engine import Engine
from gateway.detect.model import Event
from gateway.replay.learning import learn_from
from gateway.replay.requests import request_from_record

T = 1_767_600_000.0
DAY = 86_400.0


def request(ts, user, ip, fingerprint=None):
    """A request of a few tokens."""
    record = {
        "ts": ts, "client_ip": ip, "user": user, "model": "m",
        "prompt_tokens": 100, "completion_tokens": 100, "duration_ms": 100.0,
    }  # fmt: skip
    if fingerprint is not None:
        record["fingerprint"] = f"{fingerprint:016x}"
    return request_from_record(record)


def two_days():
    """Ten users, some requests each hour, two days long."""
    chance = random.Random(3)
    times = [(chance.uniform(0, 2 * DAY), n % 10) for n in range(3000)]
    return [
        request(T + ts, f"u{who}", f"10.0.{who}.1", chance.getrandbits(64))
        for ts, who in sorted(times)
    ]


def flooded():
    """The two days, then a flood from one address with one template."""
    end = T + 2 * DAY
    flood = [
        request(end + n / 20, "anonymous", "198.51.100.7", 0xABCDEF << n % 4)
        for n in range(2400)
    ]
    return [*two_days(), *flood]


def test_what_is_learned_is_known_again():
    """Users, addresses and baselines are counted, and a new detector loads them."""
    state, learned = learn_from(two_days())
    assert (learned.requests, learned.users, learned.addresses) == (3000, 10, 10)
    assert learned.with_history == 20
    assert learned.until - learned.since > 1.9 * DAY
    engine = Engine(baselines=state)
    (tenant,) = engine.tenants.values()
    assert all(track.baseline is not None for track in tenant.subjects["user"].values())


def test_the_same_requests_give_the_same_baselines():
    """The same requests give byte-identical baselines."""
    assert learn_from(two_days())[0] == learn_from(two_days())[0]


def test_verdicts_of_the_past_are_not_carried_over():
    """The flood is an incident in the summary; the saved state has no block for it."""
    state, learned = learn_from(flooded())
    assert learned.incidents
    assert "incidents found" in " ".join(learned.sentences())
    engine = Engine(baselines=state)
    assert not engine.responses.states
    assert not engine.responses.incidents
    assert engine.action_for("client_ip", "198.51.100.7") == "allow"


def test_events_older_than_the_baselines_are_not_late():
    """Events of a learned week can be watched with its own baselines."""
    state, _ = learn_from(two_days())
    engine = Engine(baselines=state)
    for n in range(20):
        engine.observe(Event(ts=T + n, client_ip=f"10.0.{n % 10}.1", user=f"u{n % 10}"))
    engine.close()
    assert (engine.late, engine.clock.absurd) == (0, 0)


def test_a_lone_wrong_clock_is_not_learned():
    """A single request of the year 2999 is not learned."""
    stray = request(32_000_000_000.0, "u1", "10.0.1.1")
    state, learned = learn_from([*two_days(), stray])
    assert state == learn_from(two_days())[0]
    assert (learned.requests, learned.strays) == (3000, 1)
    assert (
        "not learned, because their time is far after all others: 1"
        in learned.sentences()
    )

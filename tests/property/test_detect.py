"""Properties of the detector that hold for any traffic."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.baseline import new_upper_baseline
from gateway.detect.engine import Engine
from gateway.detect.event_mapping import event_from_record
from gateway.detect.fingerprint import distance, prompt_fingerprint
from gateway.detect.model import Event, EventError, Output
from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from gateway.detect.score import MOST, new_tail

T = 1_767_600_000.0

events = st.lists(
    st.builds(
        Event,
        ts=st.floats(T, T + 3600),
        client_ip=st.sampled_from([f"10.0.{n}.1" for n in range(6)]),
        user=st.sampled_from(["anonymous", "a", "b"]),
        tenant=st.sampled_from(["t", "s"]),
        model=st.sampled_from(["m", "n"]),
        prompt_tokens=st.integers(0, 10**6),
        completion_tokens=st.integers(0, 10**6),
        status=st.sampled_from([0, 200, 200, 200, 401, 404, 429, 500]),
        fingerprint=st.none() | st.sampled_from([1, 3, 7, 2**63, 2**64 - 1]),
    ),
    max_size=120,
)
shares = st.floats(0, 1)
counts = st.integers(0, 10**7)
sigmas = st.floats(0, MOST)


def outputs_of(stream: list[Event]) -> list[Output]:
    """All outputs of a stream of events."""
    engine = Engine()
    out = [line for event in stream for line in engine.observe(event)]
    return out + engine.advance(T + 7200) + engine.close()


@given(events)
def test_same_events_same_verdicts(stream):
    """Two detectors give the same finite, serializable outputs for the same events."""
    stream.sort(key=lambda event: event.ts)
    out = outputs_of(stream)
    assert out == outputs_of(stream)
    for line in out:
        assert 0 <= line.score <= MOST
        assert msgspec.json.decode(msgspec.json.encode(line))["id"].startswith("inc_")


@given(events)
def test_names_do_not_matter(stream):
    """Outputs do not depend on the names of addresses and users."""
    stream.sort(key=lambda event: event.ts)
    renamed = [
        msgspec.structs.replace(
            event,
            client_ip=f"192.168{event.client_ip[4:]}",
            user=event.user if event.user == "anonymous" else f"x{event.user}",
        )
        for event in stream
    ]
    one = [(o.type, o.ts, o.cls, o.score, o.action) for o in outputs_of(stream)]
    assert one == [
        (o.type, o.ts, o.cls, o.score, o.action) for o in outputs_of(renamed)
    ]


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=400), st.floats(0, 1e12))
def test_scores_are_finite_and_monotone(history, count):
    """After any history the score is finite and does not decrease with the count."""
    envelope, tail = new_upper_baseline(600, 10.0), new_tail()
    for index, seen in enumerate(history):
        envelope.learn(index, seen)
    expected = envelope.expect(len(history))
    scores = [
        tail.score((envelope.value(n) - expected.level) / expected.spread)
        for n in (count, 2 * count + 1, 1e15)
    ]
    assert scores == sorted(scores)
    assert all(math.isfinite(score) for score in scores)


@given(
    st.builds(
        Facts,
        kind=st.sampled_from(["user", "client_ip"]),
        known=st.booleans(),
        cold=st.booleans(),
        requests_m=st.floats(0, 1e6),
        requests=counts,
        tokens=counts,
        request_score=sigmas,
        token_score=sigmas,
        peer_score=sigmas,
        alike=shares,
        templated=shares,
        apart=st.floats(0, 10),
        denied=st.integers(0, 1000),
        ok=st.integers(0, 1000),
        targets=st.integers(0, 16),
        newcomers=st.integers(0, 40),
        longer_asks=st.floats(0, 1e6),
        longer_answers=st.floats(0, 1e6),
    ),
    st.sampled_from(["request_score", "token_score", "peer_score"]),
)
def test_more_evidence_is_never_less_score(facts, field):
    """A higher signal never gives a lower score."""
    before = classify(facts)
    more = msgspec.structs.replace(facts, **{field: MOST})
    after = classify(more)
    if before is not None and not before.behaviour:
        assert after is not None
        assert after.score >= min(before.score, 3.6)


@given(st.text(max_size=400))
def test_any_text_has_a_fingerprint(prompt):
    """The fingerprint of any text has 64 bits and is deterministic."""
    print_ = prompt_fingerprint(prompt)
    assert 0 <= print_ < 2**64
    assert distance(print_, prompt_fingerprint(prompt)) == 0


@given(
    st.dictionaries(
        st.sampled_from(["ts", "timestamp", "client_ip", "user", "prompt", "status",
                         "fingerprint", "prompt_tokens", "usd", "endpoint", "action"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
        | st.lists(st.integers(), max_size=2),
    )
)  # fmt: skip
def test_no_record_breaks_the_reader(record):
    """Any JSON value gives an event or an EventError."""
    try:
        event = event_from_record(record)
    except EventError:
        return
    assert event.tokens >= 0

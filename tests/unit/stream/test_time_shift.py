"""Replay of events that are not newer than the baselines."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.model import Campaign
from gateway.detect.detectors import DetectionSettings, Detectors
from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Event, Output
from gateway.detect.order import EventClock
from gateway.detect.responses import ResponseManager
from gateway.stream.time_shift import DAY_S, WEEK_S, TimeShiftedReplay, known_span
from gateway.stream.watch import DEFAULTS, Watch, open_detectors

MONDAY = 1_767_571_200
HOURS = 8
FLOOD_AT = MONDAY + 5 * 3600
FLOODER = "203.0.113.9"


def event(at, address):
    """An ordinary request."""
    return Event(
        ts=float(at), client_ip=address, prompt_tokens=100, completion_tokens=50
    )


@pytest.fixture(name="events", scope="module")
def _events():
    """Twenty clients for some hours, one flood of three minutes."""
    steps = range(0, HOURS * 3600, 3)
    found = [event(MONDAY + at, f"10.0.0.{at // 3 % 20}") for at in steps]
    found += [event(FLOOD_AT + at / 5, FLOODER) for at in range(900)]
    return sorted(found, key=lambda one: one.ts)


@pytest.fixture(name="baselines", scope="module")
def _baselines(events):
    """The state after these events, without its clock (as ``learn`` saves it)."""
    engine = Engine(DetectSettings(observe=True))
    for one in events:
        engine.advance(one.ts)
        engine.observe(one)
    engine.close()
    engine.responses, engine.clock = ResponseManager(engine.settings), EventClock()
    return engine.state()


def watched(events, baselines):
    """Outputs for these events, and error messages."""
    written: list[Output] = []
    errors: list[str] = []
    detectors = open_detectors(DetectionSettings(DEFAULTS), baselines)
    room = Watch(
        detectors,
        write=lambda line: written.append(msgspec.json.decode(line, type=Output)),
        print_error=errors.append,
        as_json=True,
    )
    room.run(
        b'{"timestamp":%.3f,"client_ip":"%s","prompt_tokens":100,"completion_tokens":50}'
        % (one.ts, one.client_ip.encode())
        for one in events
    )
    return written, errors


def test_what_was_learned_can_be_watched_itself(events, baselines):
    """The flood is found at its original time; ordinary clients are not flagged."""
    written, errors = watched(events, baselines)
    named = {one.subject.id for one in written if one.subject.kind == "client_ip"}
    assert named == {FLOODER}
    first = min(one.at for one in written if one.subject.id == FLOODER)
    assert FLOOD_AT <= first <= FLOOD_AT + 120
    assert any("as if they came after" in sentence for sentence in errors)


def test_later_events_are_taken_as_they_are(events, baselines):
    """Events newer than the baselines are not shifted."""
    detectors = Detectors(DetectionSettings(DEFAULTS), baselines)
    since, until = known_span(detectors)
    assert (since, until) == (events[0].ts, events[-1].ts)
    assert TimeShiftedReplay.shift_if_needed(detectors, until + 1) is detectors


def test_campaigns_move_with_the_events(baselines):
    """Campaigns shift with the events; a learned week shifts by whole weeks."""
    launch = Campaign(MONDAY + 60.0, MONDAY + 3600.0, 6.0)
    settings = msgspec.structs.replace(DEFAULTS, campaigns=(launch,))
    detectors = Detectors(DetectionSettings(settings), baselines)
    assert isinstance(
        TimeShiftedReplay.shift_if_needed(detectors, float(MONDAY)), TimeShiftedReplay
    )
    (moved,) = detectors.settings.default.campaigns
    assert moved.since - launch.since == moved.to - launch.to == DAY_S < WEEK_S

"""The engine on small streams: who is found, who is not, what survives."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Event, Output

T = 1_767_600_000.0
DAY = 86_400.0


class Stream:
    """Seeded traffic, put into the order of time."""

    def __init__(self, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.events: list[Event] = []

    def crowd(self, start: float, seconds: float, clients: int, gap_s: float) -> Stream:
        """Ordinary clients with a key, an address and prompts of their own each."""
        for n in range(clients):
            at = start + self.chance.uniform(0, gap_s)
            while at < start + seconds:
                self.send(at, f"10.0.{n}.7", f"key_{n}", self.chance.getrandbits(64))
                at += self.chance.expovariate(1 / gap_s)
        return self

    def walk(
        self, start: float, seconds: float, per_s: float, flips: int = 4, *,
        ips: int = 1, user: str = "anonymous", ip: str = "203.0.113",
    ) -> Stream:  # fmt: skip
        """A template walked from some addresses."""
        base = self.chance.getrandbits(64)
        for n in range(int(seconds * per_s)):
            print_ = base
            for bit in self.chance.sample(range(64), flips):
                print_ ^= 1 << bit
            self.send(start + n / per_s, f"{ip}.{n % ips}", user, print_)
        return self

    def send(self, ts: float, ip: str, user: str, print_: int | None, **more) -> None:
        """One request."""
        known = {"model": "m", "prompt_tokens": 300, "completion_tokens": 200}
        self.events.append(
            Event(ts, ip, user, "acme", fingerprint=print_, **known | more)
        )

    def __iter__(self) -> Iterator[Event]:
        return iter(sorted(self.events, key=lambda event: event.ts))


def run(stream: Stream, engine: Engine | None = None) -> list[Output]:
    """All outputs of a stream, without the end."""
    engine = engine or Engine()
    return [out for event in stream for out in engine.observe(event)]


def acted(outputs: list[Output]) -> set[str]:
    """Who was tagged, throttled or blocked."""
    return {o.subject.id for o in outputs if o.type.startswith("client.")}


def test_a_fresh_gateway_blocks_a_walker_within_seconds():
    """Forty ordinary clients for ninety seconds, then one walks at forty a second."""
    stream = Stream().crowd(T, 150, 40, 15.0).walk(T + 90, 60, 40.0)
    engine = Engine()
    out = run(stream, engine)
    assert [o.type for o in out] == ["incident.opened", "client.blocked"]
    assert (out[0].cls, out[0].subject.id) == ("scraping", "203.0.113.0")
    assert out[1].at - (T + 90) < 30
    assert engine.action_for("client_ip", "203.0.113.0") == "block"
    assert engine.action_for("client_ip", "203.0.113.0", "acme") == "block"
    assert engine.action_for("user", "key_3") == "allow"
    assert [o.type for o in engine.close()] == ["incident.resolved"]


def test_ordinary_traffic_is_left_alone():
    """A day of forty clients: nothing is said about anybody."""
    assert run(Stream(3).crowd(T, DAY / 4, 25, 120.0)) == []


def test_a_botnet_joins_one_incident():
    """Many addresses with one template: one incident, each sender blocked."""
    stream = Stream(2).crowd(T, 7200, 20, 60.0)
    stream.walk(T + 5400, 60, 30.0, flips=2, ips=200)
    out = run(stream)
    opened = [o for o in out if o.type == "incident.opened" and o.cls != "surge"]
    assert len(opened) == 1
    assert opened[0].subject.kind == "tenant"
    assert len(acted(out)) > 150
    assert not {i for i in acted(out) if i.startswith(("10.", "key_"))}


def test_a_sweep_is_probing():
    """Keys tried one after the other from one address."""
    stream = Stream(4).crowd(T, 600, 20, 20.0)
    for n in range(60):
        stream.send(T + 300 + n, "198.51.100.7", f"try_{n}", None, status=401)
    out = run(stream)
    assert {o.cls for o in out} == {"probing"}
    assert "198.51.100.7" in acted(out)


def test_a_stolen_key_is_seen_after_two_days():
    """A known key from fifteen new networks on new models; the address stays free."""
    stream = Stream(5).crowd(T, 2 * DAY, 3, 600.0)
    for n in range(60):
        stream.send(T + 2 * DAY + n * 9, f"198.51.{n % 15}.7", "key_1", n * 7919,
                    model=f"other{n % 3}")  # fmt: skip
    out = run(stream)
    assert {o.cls for o in out if o.type == "incident.opened"} == {"credential_abuse"}
    assert acted(out) == {"key_1"}


def test_a_loop_of_a_known_client_is_a_cost_spike():
    """The same prompt again and again from somebody who never did that."""
    stream = Stream(6).crowd(T, 2 * DAY, 3, 600.0)
    stream.walk(T + 2 * DAY, 300, 3.0, flips=1, user="key_1", ip="10.0.1")
    out = run(stream)
    assert "cost_spike" in {o.cls for o in out}
    assert "key_1" in acted(out)
    assert "key_0" not in acted(out)


def test_an_outage_is_information_and_its_retries_harm_nobody():
    """Half the answers fail, everybody tries again: one line, nobody acted on."""
    stream = Stream(7).crowd(T, DAY / 12, 20, 60.0)
    for n in range(600):
        stream.send(T + 6000 + n, f"10.0.{n % 20}.7", f"key_{n % 20}", n, status=503)
    out = run(stream)
    assert [(o.cls, o.severity) for o in out if o.type == "incident.opened"] == [
        ("outage", "info")
    ]
    assert acted(out) == set()


def test_reordered_events_give_the_same_verdicts():
    """With a minute of hold any order within it is the same stream."""
    stream = Stream(8).crowd(T, 150, 20, 15.0).walk(T + 90, 60, 20.0)
    settings = DetectSettings(reorder_s=60.0)
    straight = Engine(settings)
    first = run(stream, straight) + straight.close()
    shaken = Stream(8)
    shaken.events = stream.events
    mixed = sorted(stream.events, key=lambda e: e.ts + shaken.chance.uniform(0, 25))
    engine = Engine(settings)
    second = [o for e in mixed for o in engine.observe(e)] + engine.close()
    assert first == second
    assert first
    assert engine.late == 0


def test_late_and_absurd_times_are_dropped():
    """What is later than a minute is counted; a time in the far future is ignored."""
    engine = Engine()
    engine.observe(Event(T, "10.0.0.1"))
    assert engine.observe(Event(T - 100, "10.0.0.1")) == []
    assert engine.observe(Event(T + 1e8, "10.0.0.1")) == []
    assert (engine.late, engine.events, engine.clock.now) == (1, 1, T)


def test_time_passes_without_events():
    """Blocks and incidents end when time goes on."""
    engine = Engine()
    run(Stream().crowd(T, 150, 40, 15.0).walk(T + 90, 60, 40.0), engine)
    assert engine.advance(T + 100) == []
    assert [o.type for o in engine.advance(T + 900)] == ["client.unblocked"]
    assert engine.advance(T + 901) == []
    assert [o.type for o in engine.advance(T + 9000)] == ["incident.resolved"]


def test_a_state_goes_on_where_it_was():
    """Saved and restored in mid-attack: still blocked, and the same from then on."""
    stream = list(Stream(9).crowd(T, DAY / 8, 20, 60.0).walk(T + 9000, 300, 20.0))
    half = next(n for n, event in enumerate(stream) if event.ts > T + 9100)
    engine = Engine()
    for event in stream[:half]:
        engine.observe(event)
    copy = Engine.restore(engine.state())
    assert copy.action_for("client_ip", "203.0.113.0") == "block"
    rest = [
        [o for e in stream[half:] for o in one.observe(e)] for one in (engine, copy)
    ]
    assert rest[0] == rest[1]


def test_memory_is_bounded_by_the_settings():
    """Strangers push each other out; weeks of those gone make room."""
    engine = Engine(DetectSettings(max_subjects=100, max_baselines=4))
    for n in range(1000):
        engine.observe(Event(T + n, f"10.{n // 250}.{n % 250}.1"))
    tracks = engine.tenants["default"].tracks["client_ip"]
    assert len(tracks) <= 100
    for n in range(60):
        for client in range(20):
            engine.observe(Event(T + 2000 + n * 600 + client, f"10.9.9.{client}"))
    with_week = [t for t in tracks.values() if t.envelope is not None]
    assert len(with_week) <= 20
    assert len(engine._envelopes) <= 4


def test_growth_of_tokens_is_a_cost_spike():
    """Answers thirty times as long, from a service known for days."""
    stream = Stream(10).crowd(T, 3 * DAY, 2, 300.0)
    for n in range(200):
        stream.send(T + 3 * DAY + n * 5, "10.0.1.7", "key_1", n * 104729,
                    completion_tokens=9_000)  # fmt: skip
    out = run(stream)
    assert {o.cls for o in out if o.type == "incident.opened"} == {"cost_spike"}
    assert out[0].expected["requests_10m"] > 0


@pytest.mark.parametrize("print_", [None, 0])
def test_events_without_prompts_are_counted(print_):
    """No fingerprint, or that of an empty prompt, is fine."""
    engine = Engine()
    engine.observe(Event(T, "10.0.0.1", "u", fingerprint=print_))
    assert engine.events == 1


def test_outputs_encode_as_json():
    """Whatever comes out can be written as a line."""
    out = run(Stream().crowd(T, 150, 40, 15.0).walk(T + 90, 60, 40.0))
    for line in out:
        assert msgspec.json.decode(msgspec.json.encode(line))["class"] == "scraping"

"""The engine on small streams: who is found, who is not, what survives."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from gateway.detect.engine import Engine
from gateway.detect.model import Campaign, DetectSettings, Event, Output

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
    told = [line for line in out if line.type == "incident.opened"]
    assert [(one.cls, one.subject.id) for one in told] == [("scraping", "203.0.113.0")]
    assert out[-1].type == "client.blocked"
    assert out[-1].at - (T + 90) < 30
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
    copy = Engine(baselines=engine.state())
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
    tracks = engine.tenants["default"].subjects["client_ip"]
    assert len(tracks) <= 100
    for n in range(60):
        for client in range(20):
            engine.observe(Event(T + 2000 + n * 600 + client, f"10.9.9.{client}"))
    with_week = [t for t in tracks.values() if t.baseline is not None]
    assert len(with_week) <= 20
    assert len(engine._baselines) <= 4


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


class Bare(Stream):
    """Events as other systems log them: no user, no prompt, no tenant, no status."""

    def send(self, ts: float, ip: str, user: str, print_: int | None, **more) -> None:
        tokens = {"prompt_tokens": 300, "completion_tokens": 200}
        self.events.append(Event(ts, ip, model="m", **tokens | more))


@pytest.mark.parametrize("clients", [20, 60])
@pytest.mark.parametrize("times", [10, 50])
def test_a_bare_flood_is_found_within_its_first_minute(clients, times):
    """Five minutes without any history, then one client at a multiple of its peers:
    tagged at once; what makes 150 requests meanwhile is told, for first jobs are short.
    """
    stream = Bare(7).crowd(T, 660, clients, 20.0).walk(T + 300, 360, times * 3 / 60)
    out = run(stream)
    assert (out[0].type, out[0].at < T + 360) == ("client.tagged", True)
    assert (out[0].cls, acted(out)) == ("volume", {"203.0.113.0"})
    told = [line.at for line in out if line.type == "incident.opened"]
    assert times == 10 or told[0] < T + 300 + 170 / (times * 3 / 60)
    assert "client.blocked" not in {o.type for o in out}


def test_bare_peers_are_left_alone():
    """Half an hour of sixty clients, and one that joins them."""
    stream = Bare(8).crowd(T, 1800, 60, 20.0).walk(T + 600, 900, 0.1)
    assert run(stream) == []


def test_tokens_at_an_ordinary_pace_are_found_without_history():
    """Sixty times the tokens of its peers, with no more requests than they make."""
    stream = Bare(9).crowd(T, 600, 40, 15.0)
    for n in range(40):
        stream.send(T + 300 + 7 * n, "203.0.113.9", "", None, prompt_tokens=30_000)
    out = run(stream)
    assert {o.cls for o in out} == {"cost_spike"}
    assert acted(out) == {"203.0.113.9"}


class Shared(Stream):
    """All ordinary clients use the same key, or none."""

    key = "anonymous"

    def send(self, ts: float, ip: str, user: str, print_: int | None, **more) -> None:
        super().send(ts, ip, self.key if ip.startswith("10.") else user, print_, **more)


@pytest.mark.parametrize("per_s", [3.0, 40.0])
@pytest.mark.parametrize("key", ["anonymous", "key_all"])
def test_a_walker_beside_those_without_keys_of_their_own(per_s, key):
    """With the key that all share, or none: its address is named, and nothing else."""
    stream = Shared(11)
    stream.key = key
    stream.crowd(T, 240, 40, 15.0).walk(T + 90, 120, per_s, user=key)
    out = run(stream)
    assert acted(out) == {"203.0.113.0"}
    assert {o.cls for o in out} == {"scraping"}
    assert out[0].at < T + 90 + (10 if per_s > 9 else 40)


class App(Stream):
    """An application: everybody's prompts follow one template."""

    def crowd(self, start: float, seconds: float, clients: int, gap_s: float) -> Stream:
        """Its clients; their prompts differ in a few bits."""
        super().crowd(start, seconds, clients, gap_s)
        self.events = [
            msgspec.structs.replace(
                event,
                fingerprint=0xABCD ^ (1 << self.chance.randrange(64)),
            )
            for event in self.events
        ]
        return self


def test_an_application_is_no_crowd_on_its_first_day():
    """Forty clients with one template from the first minute: nobody is accused."""
    assert run(App(12).crowd(T, 2400, 40, 15.0)) == []


def test_a_walker_beside_an_application_differs_by_its_rate():
    """Nobody else is touched though their prompts are as much alike."""
    stream = App(13).crowd(T, 240, 40, 15.0).walk(T + 90, 120, 40.0)
    assert acted(run(stream)) == {"203.0.113.0"}


def test_a_key_is_in_many_hands_on_the_first_day():
    """One of forty keys turns up in twenty networks within a minute or two."""
    stream = Stream(14).crowd(T, 400, 40, 15.0)
    for n in range(60):
        stream.send(T + 200 + 2 * n, f"198.{n % 20}.1.7", "key_3", n * 7919)
    out = run(stream)
    assert {o.cls for o in out} == {"credential_abuse"}
    assert acted(out) == {"key_3"}


def test_a_key_is_known_in_part_after_ten_hours():
    """One of forty keys, always at home so far, turns up in twenty-four networks."""
    stream = Stream(15).crowd(T, 36_000, 40, 240.0)
    for n in range(96):
        stream.send(T + 35_000 + 9 * n, f"198.{n % 24}.1.7", "key_3", n * 7919)
    out = run(stream)
    assert {o.cls for o in out} == {"credential_abuse"}
    assert acted(out) == {"key_3"}


def test_in_a_declared_campaign_a_crowd_is_not_acted_on():
    """Beyond what was declared it is told; its newcomers are tagged at most."""
    campaign = Campaign(since=T, to=T + 1e6, expect=3.0)
    for campaigns, worst in (((), "client.blocked"), ((campaign,), "client.tagged")):
        stream = Stream(16).crowd(T, 90_000, 4, 300.0)
        stream.walk(T + 88_000, 600, 2.0, ips=60)
        out = run(stream, Engine(DetectSettings(campaigns=campaigns)))
        types = {line.type for line in out}
        assert worst in types
        assert ("client.blocked" in types) == (not campaigns)


def test_a_key_that_all_share_is_nobodys():
    """Forty networks on one key from the start are how this tenant works."""
    stream = Shared(15)
    stream.key = "key_all"
    assert run(stream.crowd(T, 1200, 40, 15.0)) == []


def test_tenants_are_bounded():
    """The least recently seen make room, and are counted."""
    engine = Engine(DetectSettings(max_tenants=8))
    for n in range(20):
        engine.observe(Event(T + 60 * n, "10.0.0.1", tenant=f"t{n}"))
    assert len(engine.tenants) <= 8
    assert "t19" in engine.tenants
    assert engine.forgotten == 20 - len(engine.tenants)
    smaller = Engine(DetectSettings(max_tenants=2), engine.state())
    assert len(smaller.tenants) <= 2


def test_a_first_event_of_another_century_is_not_believed():
    """In a recorded stream it neither starts the clock nor counts."""
    engine = Engine(DetectSettings(reorder_s=60.0))
    for ts in (T + 1e9, T, T + 1, T + 2):
        engine.observe(Event(ts, "10.0.0.1"))
    engine.close()
    assert (engine.events, engine.clock.now) == (3, T + 2)


def test_the_end_of_a_request_that_nobody_began_is_nothing():
    """An answer of a forgotten tenant, address or user changes nothing."""
    engine = Engine()
    answer = Event(T, "10.0.0.1", "u", total_tokens=9)
    assert engine.observe_outcome(answer) == []
    engine.observe(Event(T, "10.0.0.2", "w"))
    assert engine.observe_outcome(answer) == []
    assert engine.tenants["default"].subjects["user"].get("u") is None


def test_of_a_state_only_the_wanted_tenants_are_taken():
    """Standings, incidents and baselines of the others stay behind."""
    engine = Engine()
    run(Stream().crowd(T, 150, 40, 15.0).walk(T + 90, 60, 40.0), engine)
    other = Engine()
    other.load(engine.state(), lambda tenant: tenant != "acme")
    assert (other.responses.states, other.responses.incidents, other.tenants) == (
        {},
        {},
        {},
    )


def test_only_newcomers_tell_how_long_newcomers_runs_are():
    """A service that runs for days says nothing about a first evaluation."""
    engine = Engine()
    for day in range(3):
        for n in range(60):
            at = T + day * 86_400.0 + 20.0 * n
            engine.observe(Event(at, "10.0.0.1", "svc", "t", "m", fingerprint=77))
    assert max(engine.service_maxima["run"].now.values()) < 60
    assert engine.service_maxima["run_tokens"].now == {}
    assert Engine(baselines=engine.state()).service_maxima == engine.service_maxima


def test_more_addresses_than_networks_are_remembered():
    """A key from everywhere is counted by its networks, whatever is remembered."""
    engine = Engine()
    for n in range(4100):
        engine.observe(Event(T + n, f"10.{n // 250}.{n % 250}.1", f"u{n % 7}"))
    engine.observe(Event(T + 4100, "10.0.0.9", "u0"))
    users = engine.tenants["default"].users
    assert "10.0.0" in users.get("u0").company
    assert len(engine._networks) < 4100

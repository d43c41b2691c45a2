"""The detector on small streams: what it reports, what it ignores, what it saves."""

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
    """Seeded traffic that iterates in order of time."""

    def __init__(self, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.events: list[Event] = []

    def crowd(self, start: float, seconds: float, clients: int, gap_s: float) -> Stream:
        """Add ordinary clients, each with its own key, address and prompts."""
        for n in range(clients):
            at = start + self.chance.uniform(0, gap_s)
            while at < start + seconds:
                self.send(at, f"10.0.{n}.7", f"key_{n}", self.chance.getrandbits(64))
                at += self.chance.expovariate(1 / gap_s)
        return self

    def enumerate_template(
        self, start: float, seconds: float, per_s: float, flips: int = 4, *,
        ips: int = 1, user: str = "anonymous", ip: str = "203.0.113",
    ) -> Stream:  # fmt: skip
        """Add variations of a template from some addresses."""
        base = self.chance.getrandbits(64)
        for n in range(int(seconds * per_s)):
            print_ = base
            for bit in self.chance.sample(range(64), flips):
                print_ ^= 1 << bit
            self.send(start + n / per_s, f"{ip}.{n % ips}", user, print_)
        return self

    def send(self, ts: float, ip: str, user: str, print_: int | None, **more) -> None:
        """Add one request."""
        known = {"model": "m", "prompt_tokens": 300, "completion_tokens": 200}
        self.events.append(
            Event(ts, ip, user, "acme", fingerprint=print_, **known | more)
        )

    def __iter__(self) -> Iterator[Event]:
        return iter(sorted(self.events, key=lambda event: event.ts))


def outputs_of(stream: Stream, engine: Engine | None = None) -> list[Output]:
    """All outputs of a stream, before ``close``."""
    engine = engine or Engine()
    return [out for event in stream for out in engine.observe(event)]


def acted(outputs: list[Output]) -> set[str]:
    """Subjects that were tagged, throttled or blocked."""
    return {o.subject.id for o in outputs if o.type.startswith("client.")}


def test_a_scraper_is_blocked_within_seconds_without_history():
    """After ninety seconds of forty ordinary clients a scraper at 40 requests/s is
    blocked within 30 s.
    """
    stream = Stream().crowd(T, 150, 40, 15.0).enumerate_template(T + 90, 60, 40.0)
    engine = Engine()
    out = outputs_of(stream, engine)
    opened = [line for line in out if line.type == "incident.opened"]
    assert [(one.cls, one.subject.id) for one in opened] == [
        ("scraping", "203.0.113.0")
    ]
    assert out[-1].type == "client.blocked"
    assert out[-1].at - (T + 90) < 30
    assert engine.action_for("client_ip", "203.0.113.0") == "block"
    assert engine.action_for("client_ip", "203.0.113.0", "acme") == "block"
    assert engine.action_for("user", "key_3") == "allow"
    assert [o.type for o in engine.close()] == ["incident.resolved"]


def test_ordinary_traffic_is_left_alone():
    """Ordinary traffic of 25 clients for six hours gives no output."""
    assert outputs_of(Stream(3).crowd(T, DAY / 4, 25, 120.0)) == []


def test_a_botnet_joins_one_incident():
    """Many addresses with one template are one incident, and each is blocked."""
    stream = Stream(2).crowd(T, 7200, 20, 60.0)
    stream.enumerate_template(T + 5400, 60, 30.0, flips=2, ips=200)
    out = outputs_of(stream)
    opened = [o for o in out if o.type == "incident.opened" and o.cls != "surge"]
    assert len(opened) == 1
    assert opened[0].subject.kind == "tenant"
    assert len(acted(out)) > 150
    assert not {i for i in acted(out) if i.startswith(("10.", "key_"))}


def test_a_sweep_is_probing():
    """Keys tried one after the other from one address are ``probing``."""
    stream = Stream(4).crowd(T, 600, 20, 20.0)
    for n in range(60):
        stream.send(T + 300 + n, "198.51.100.7", f"try_{n}", None, status=401)
    out = outputs_of(stream)
    assert {o.cls for o in out} == {"probing"}
    assert "198.51.100.7" in acted(out)


def test_a_stolen_key_is_seen_after_two_days():
    """A known key used from fifteen new networks on new models is ``credential_abuse``;
    only the key gets an action.
    """
    stream = Stream(5).crowd(T, 2 * DAY, 3, 600.0)
    for n in range(60):
        stream.send(T + 2 * DAY + n * 9, f"198.51.{n % 15}.7", "key_1", n * 7919,
                    model=f"other{n % 3}")  # fmt: skip
    out = outputs_of(stream)
    assert {o.cls for o in out if o.type == "incident.opened"} == {"credential_abuse"}
    assert acted(out) == {"key_1"}


def test_a_loop_of_a_known_client_is_a_cost_spike():
    """A known client that repeats one prompt for the first time is a ``cost_spike``."""
    stream = Stream(6).crowd(T, 2 * DAY, 3, 600.0)
    stream.enumerate_template(T + 2 * DAY, 300, 3.0, flips=1, user="key_1", ip="10.0.1")
    out = outputs_of(stream)
    assert "cost_spike" in {o.cls for o in out}
    assert "key_1" in acted(out)
    assert "key_0" not in acted(out)


def test_an_outage_is_informational_and_takes_no_action():
    """When half the answers fail and every client retries, one informational incident
    is reported and no action taken.
    """
    stream = Stream(7).crowd(T, DAY / 12, 20, 60.0)
    for n in range(600):
        stream.send(T + 6000 + n, f"10.0.{n % 20}.7", f"key_{n % 20}", n, status=503)
    out = outputs_of(stream)
    assert [(o.cls, o.severity) for o in out if o.type == "incident.opened"] == [
        ("outage", "info")
    ]
    assert acted(out) == set()


def test_reordered_events_give_the_same_verdicts():
    """With ``reorder_s`` of a minute any order within it gives the same outputs."""
    stream = Stream(8).crowd(T, 150, 20, 15.0).enumerate_template(T + 90, 60, 20.0)
    settings = DetectSettings(reorder_s=60.0)
    straight = Engine(settings)
    first = outputs_of(stream, straight) + straight.close()
    shaken = Stream(8)
    shaken.events = stream.events
    mixed = sorted(stream.events, key=lambda e: e.ts + shaken.chance.uniform(0, 25))
    engine = Engine(settings)
    second = [o for e in mixed for o in engine.observe(e)] + engine.close()
    assert first == second
    assert first
    assert engine.late == 0


def test_late_and_absurd_times_are_dropped():
    """An event over a minute late is counted and dropped, one far in the future is
    ignored.
    """
    engine = Engine()
    engine.observe(Event(T, "10.0.0.1"))
    assert engine.observe(Event(T - 100, "10.0.0.1")) == []
    assert engine.observe(Event(T + 1e8, "10.0.0.1")) == []
    assert (engine.late, engine.events, engine.clock.now) == (1, 1, T)


def test_time_passes_without_events():
    """Blocks and incidents end by ``advance`` without events."""
    engine = Engine()
    outputs_of(
        Stream().crowd(T, 150, 40, 15.0).enumerate_template(T + 90, 60, 40.0), engine
    )
    assert engine.advance(T + 100) == []
    assert [o.type for o in engine.advance(T + 900)] == ["client.unblocked"]
    assert engine.advance(T + 901) == []
    assert [o.type for o in engine.advance(T + 9000)] == ["incident.resolved"]


def test_a_restored_detector_continues_identically():
    """A detector restored during an attack has the same blocks and gives the same
    further outputs.
    """
    stream = list(
        Stream(9).crowd(T, DAY / 8, 20, 60.0).enumerate_template(T + 9000, 300, 20.0)
    )
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
    """Subjects and baselines are bounded by the settings."""
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
    """Answers 45 times as long as usual are a ``cost_spike``."""
    stream = Stream(10).crowd(T, 3 * DAY, 2, 300.0)
    for n in range(200):
        stream.send(T + 3 * DAY + n * 5, "10.0.1.7", "key_1", n * 104729,
                    completion_tokens=9_000)  # fmt: skip
    out = outputs_of(stream)
    assert {o.cls for o in out if o.type == "incident.opened"} == {"cost_spike"}
    assert out[0].expected["requests_10m"] > 0


@pytest.mark.parametrize("print_", [None, 0])
def test_events_without_prompts_are_counted(print_):
    """Events without a fingerprint, or with that of an empty prompt, are counted."""
    engine = Engine()
    engine.observe(Event(T, "10.0.0.1", "u", fingerprint=print_))
    assert engine.events == 1


def test_outputs_encode_as_json():
    """Every output can be encoded as JSON."""
    out = outputs_of(
        Stream().crowd(T, 150, 40, 15.0).enumerate_template(T + 90, 60, 40.0)
    )
    for line in out:
        assert msgspec.json.decode(msgspec.json.encode(line))["class"] == "scraping"


class Bare(Stream):
    """Events with address, model and tokens only."""

    def send(self, ts: float, ip: str, user: str, print_: int | None, **more) -> None:
        tokens = {"prompt_tokens": 300, "completion_tokens": 200}
        self.events.append(Event(ts, ip, model="m", **tokens | more))


@pytest.mark.parametrize("clients", [20, 60])
@pytest.mark.parametrize("times", [10, 50])
def test_a_bare_flood_is_found_within_its_first_minute(clients, times):
    """Without history a client at a multiple of its peers is tagged within a minute,
    and reported after 150 requests at 50 times their rate.
    """
    stream = (
        Bare(7)
        .crowd(T, 660, clients, 20.0)
        .enumerate_template(T + 300, 360, times * 3 / 60)
    )
    out = outputs_of(stream)
    assert (out[0].type, out[0].at < T + 360) == ("client.tagged", True)
    assert (out[0].cls, acted(out)) == ("volume", {"203.0.113.0"})
    opened_at = [line.at for line in out if line.type == "incident.opened"]
    assert times == 10 or opened_at[0] < T + 300 + 170 / (times * 3 / 60)
    assert "client.blocked" not in {o.type for o in out}


def test_bare_peers_are_left_alone():
    """Sixty clients with bare events, and one that joins them, give no output."""
    stream = Bare(8).crowd(T, 1800, 60, 20.0).enumerate_template(T + 600, 900, 0.1)
    assert outputs_of(stream) == []


def test_tokens_at_an_ordinary_pace_are_found_without_history():
    """Sixty times the tokens of its peers at an ordinary request rate is a
    ``cost_spike`` without history.
    """
    stream = Bare(9).crowd(T, 600, 40, 15.0)
    for n in range(40):
        stream.send(T + 300 + 7 * n, "203.0.113.9", "", None, prompt_tokens=30_000)
    out = outputs_of(stream)
    assert {o.cls for o in out} == {"cost_spike"}
    assert acted(out) == {"203.0.113.9"}


class Shared(Stream):
    """Ordinary clients that all use the same key, or none."""

    key = "anonymous"

    def send(self, ts: float, ip: str, user: str, print_: int | None, **more) -> None:
        super().send(ts, ip, self.key if ip.startswith("10.") else user, print_, **more)


@pytest.mark.parametrize("per_s", [3.0, 40.0])
@pytest.mark.parametrize("key", ["anonymous", "key_all"])
def test_a_scraper_behind_a_shared_key_is_named_by_its_address(per_s, key):
    """A scraper with the key that all clients share, or without one, is acted on by its
    address alone.
    """
    stream = Shared(11)
    stream.key = key
    stream.crowd(T, 240, 40, 15.0).enumerate_template(T + 90, 120, per_s, user=key)
    out = outputs_of(stream)
    assert acted(out) == {"203.0.113.0"}
    assert {o.cls for o in out} == {"scraping"}
    assert out[0].at < T + 90 + (10 if per_s > 9 else 40)


class App(Stream):
    """Clients of an application, whose prompts all follow one template."""

    def crowd(self, start: float, seconds: float, clients: int, gap_s: float) -> Stream:
        """Add its clients; their prompts differ in a few bits."""
        super().crowd(start, seconds, clients, gap_s)
        self.events = [
            msgspec.structs.replace(
                event,
                fingerprint=0xABCD ^ (1 << self.chance.randrange(64)),
            )
            for event in self.events
        ]
        return self


def test_an_application_is_no_flood_on_its_first_day():
    """Forty clients with one template from the first minute give no output."""
    assert outputs_of(App(12).crowd(T, 2400, 40, 15.0)) == []


def test_a_scraper_in_an_application_is_found_by_its_rate():
    """A scraper is found by its rate although all clients send alike prompts."""
    stream = App(13).crowd(T, 240, 40, 15.0).enumerate_template(T + 90, 120, 40.0)
    assert acted(outputs_of(stream)) == {"203.0.113.0"}


def test_a_key_is_in_many_hands_on_the_first_day():
    """On the first day a key that appears in twenty networks within two minutes is
    ``credential_abuse``.
    """
    stream = Stream(14).crowd(T, 400, 40, 15.0)
    for n in range(60):
        stream.send(T + 200 + 2 * n, f"198.{n % 20}.1.7", "key_3", n * 7919)
    out = outputs_of(stream)
    assert {o.cls for o in out} == {"credential_abuse"}
    assert acted(out) == {"key_3"}


def test_a_key_is_known_in_part_after_ten_hours():
    """After ten hours in one network a key that appears in 24 networks is
    ``credential_abuse``.
    """
    stream = Stream(15).crowd(T, 36_000, 40, 240.0)
    for n in range(96):
        stream.send(T + 35_000 + 9 * n, f"198.{n % 24}.1.7", "key_3", n * 7919)
    out = outputs_of(stream)
    assert {o.cls for o in out} == {"credential_abuse"}
    assert acted(out) == {"key_3"}


def test_in_a_declared_campaign_a_flood_is_tagged_at_most():
    """In a declared campaign the members of a flood beyond it are tagged at most."""
    campaign = Campaign(since=T, to=T + 1e6, expect=3.0)
    for campaigns, worst in (((), "client.blocked"), ((campaign,), "client.tagged")):
        stream = Stream(16).crowd(T, 90_000, 4, 300.0)
        stream.enumerate_template(T + 88_000, 600, 2.0, ips=60)
        out = outputs_of(stream, Engine(DetectSettings(campaigns=campaigns)))
        types = {line.type for line in out}
        assert worst in types
        assert ("client.blocked" in types) == (not campaigns)


def test_a_key_that_all_clients_share_is_ordinary():
    """A key that is used from forty networks from the start gives no output."""
    stream = Shared(15)
    stream.key = "key_all"
    assert outputs_of(stream.crowd(T, 1200, 40, 15.0)) == []


def test_tenants_are_bounded():
    """Beyond the bound the least recently seen tenants are dropped and counted."""
    engine = Engine(DetectSettings(max_tenants=8))
    for n in range(20):
        engine.observe(Event(T + 60 * n, "10.0.0.1", tenant=f"t{n}"))
    assert len(engine.tenants) <= 8
    assert "t19" in engine.tenants
    assert engine.forgotten == 20 - len(engine.tenants)
    smaller = Engine(DetectSettings(max_tenants=2), engine.state())
    assert len(smaller.tenants) <= 2


def test_a_first_event_with_a_wrong_time_is_dropped():
    """In a recorded stream a first event far in the future does not set the clock and
    is not counted.
    """
    engine = Engine(DetectSettings(reorder_s=60.0))
    for ts in (T + 1e9, T, T + 1, T + 2):
        engine.observe(Event(ts, "10.0.0.1"))
    engine.close()
    assert (engine.events, engine.clock.now) == (3, T + 2)


def test_outcomes_of_unknown_subjects_are_ignored():
    """An outcome for a tenant, address or user that is not kept changes nothing."""
    engine = Engine()
    answer = Event(T, "10.0.0.1", "u", total_tokens=9)
    assert engine.observe_outcome(answer) == []
    engine.observe(Event(T, "10.0.0.2", "w"))
    assert engine.observe_outcome(answer) == []
    assert engine.tenants["default"].subjects["user"].get("u") is None


def test_a_state_can_be_loaded_for_some_tenants():
    """``load`` takes states, incidents and baselines of the selected tenants only."""
    engine = Engine()
    outputs_of(
        Stream().crowd(T, 150, 40, 15.0).enumerate_template(T + 90, 60, 40.0), engine
    )
    other = Engine()
    other.load(engine.state(), lambda tenant: tenant != "acme")
    assert (other.responses.states, other.responses.incidents, other.tenants) == (
        {},
        {},
        {},
    )


def test_run_maxima_of_newcomers_ignore_old_clients():
    """Runs of a client that has been active for days do not raise the maximum for
    newcomers.
    """
    engine = Engine()
    for day in range(3):
        for n in range(60):
            at = T + day * 86_400.0 + 20.0 * n
            engine.observe(Event(at, "10.0.0.1", "svc", "t", "m", fingerprint=77))
    assert max(engine.service_maxima["run"].now.values()) < 60
    assert engine.service_maxima["run_tokens"].now == {}
    assert Engine(baselines=engine.state()).service_maxima == engine.service_maxima


def test_more_addresses_than_networks_are_remembered():
    """The network of an address is computed again when its cache entry was dropped."""
    engine = Engine()
    for n in range(4100):
        engine.observe(Event(T + n, f"10.{n // 250}.{n % 250}.1", f"u{n % 7}"))
    engine.observe(Event(T + 4100, "10.0.0.9", "u0"))
    users = engine.tenants["default"].users
    assert "10.0.0" in users.get("u0").company
    assert len(engine._networks) < 4100

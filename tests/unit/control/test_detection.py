"""The live room: records in, verdicts into the list, incidents into the book."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.resolve import Resolved
from gateway.control import detection as module
from gateway.control.blocks import BlockTable, MemoryBlocks
from gateway.control.detection import EXPECT_S, RENEW_S, Detection, group_records
from gateway.control.enforcer import Enforcer
from gateway.control.incidents import LocalIncidents
from gateway.core.model import (
    CLOSED,
    DETECTOR,
    OPENED,
    WHOLE,
    Anomaly,
    Block,
    Campaign,
    Ladder,
    Policy,
    Tenant,
)
from gateway.detect.engine import Engine
from gateway.detect.packed_baselines import BaselinesError
from tests.records import make_record

NOW = 1_767_600_000.0
ATTACKER = "203.0.113.66"
ON, OFF = Policy("on"), Policy("off", anomaly=Anomaly(enabled=False))
BLOCKED = ("client_ip", ATTACKER, "acme")


def resolved(policy=ON, **changes):
    """A configuration of one tenant."""
    return Resolved(
        (Tenant("acme", policy),), (), "anonymous", None, "UTC", 1, policy, **changes
    )


def template(n):
    """The fingerprint of a template with the n-th words put in."""
    return 7 << 20 ^ sum(1 << (n * step) % 61 for step in (1, 7, 11))


class Room:
    """Detection as control puts it together."""

    def __init__(self, path, config=None):
        self.now = NOW
        self.said = []
        self.messages = []
        self.table = BlockTable(lambda _message: None, lambda: self.now)
        enforcer = Enforcer(
            self.table, MemoryBlocks(self.table, path), lambda: self.now
        )
        self.incidents = LocalIncidents(self.said.append)
        self.detecting = Detection(
            enforcer, self.incidents, self.messages.append, lambda: self.now
        )
        self.detecting.configure(config or resolved())
        self.detecting.tick()

    def crowd(self, clients=14):
        """Ordinary clients ask for what nobody else asks for."""
        chance = random.Random(1)
        for _ in range(3):
            for n in range(clients):
                self.now += 1.0
                self.ask(f"10.0.{n}.1", f"key_{n}", chance.getrandbits(64))

    def attack(self, seconds=30, rate=40, **fields):
        """One address walks a template; seconds until it stood somewhere as blocked."""
        for n in range(seconds * rate):
            self.now += 1 / rate
            self.ask(ATTACKER, "key_x", template(n), **fields)
            if n % rate == 0:
                self.detecting.tick()
            if self.action == "block":
                return n / rate
        return None

    def ask(self, ip, user, print_, **fields):
        self.detecting.take(
            [
                make_record(
                    ts=self.now, client_ip=ip, user=user, duration_ms=0.0,
                    fingerprint=f"{print_:016x}", **fields,
                )
            ]
        )  # fmt: skip

    @property
    def action(self):
        """What is done to the attacker's address."""
        known = self.table.find(BLOCKED)
        return None if known is None else known.action

    @property
    def engine(self):
        (engine,) = self.detecting._detectors.engines
        return engine


@pytest.fixture(name="room")
def _room(tmp_path):
    return Room(str(tmp_path / "blocks"))


# -- verdicts ------------------------------------------------------------------------------


def test_a_scraper_is_named_and_blocked_within_seconds(room):
    """Its address and its key, in the tenant where it was; nobody else."""
    room.crowd()
    assert room.attack() < 30
    subjects = {(block.kind, block.id, block.tenant) for block in room.table.items()}
    assert subjects <= {BLOCKED, ("user", "key_x", "acme")}
    (incident,) = room.incidents.items()
    assert (incident["class"], incident["state"]) == ("scraping", "open")
    assert {line.type for line in room.said} >= {"incident.opened", "client.blocked"}


@pytest.mark.parametrize("status", [403, 429])
def test_it_stays_out_while_it_is_refused(room, status):
    """What the gateway refused still counts as asked, and as nothing answered."""
    room.crowd()
    room.attack()
    before = len(room.table.items())
    room.attack(seconds=30, status=status, outcome="refused", total_tokens=0)
    assert (room.action, len(room.table.items())) == ("block", before)
    track = room.engine.tenants["acme"].subjects["client_ip"].get(ATTACKER)
    assert track.outcomes[1:] == [0, 0, 0, 0], "no refusal of ours is held against it"


def test_a_crowds_prompts_are_refused_of_newcomers(room):
    """Workers hear which, and who was there before; also one that comes later."""
    room.crowd(clients=30)
    assert list(room.detecting.greeting()) == [room.messages[0]]
    for n in range(200):
        room.now += 0.05
        room.ask(f"198.18.0.{n}", "anonymous", 0x0F0F3C3C5A5A9669)
    (flood,) = room.table.of_kind("prompts")
    assert (flood.id, flood.tenant, flood.cls) == ("0f0f3c3c5a5a9669", "acme", "ddos")
    (told,) = (one for one in room.messages if one["type"] == "settled")
    assert len(told["tenants"]["acme"]) == 4 * 60, "an address and a key of each"
    assert told in list(room.detecting.greeting())
    room.now += 1200.0
    room.detecting.tick()
    *_, told = (one for one in room.messages if one["type"] == "settled")
    assert told["tenants"] == {}
    assert not [one for one in room.detecting.greeting() if one["type"] == "settled"]


def test_a_flood_that_another_gateway_found_is_refused_here_too(room):
    """Of whoever was not here before it; of a tenant that is not known here, of nobody."""
    room.crowd(clients=30)
    for tenant in ("acme", "beta"):
        room.table.add(
            Block(
                "prompts", "f" * 16, tenant, room.now + 99, "", room.now + 60, DETECTOR
            )
        )
    room.detecting.tick()
    (told,) = (one for one in room.messages if one["type"] == "settled")
    assert {name: len(held) for name, held in told["tenants"].items()} == {
        "acme": 4 * 60,
    }


def test_observed_tenants_are_judged_as_if_enforced(tmp_path):
    """What observe mode leaves undone, it leaves undone where requests are decided."""
    room = Room(str(tmp_path / "b"), resolved(Policy("watch", mode="observe")))
    room.crowd()
    assert room.attack() is not None


def test_allow_listed_are_never_acted_on(tmp_path):
    """An incident is opened all the same."""
    allow = (f"client_ip:{ATTACKER}", "user:key_x")
    room = Room(str(tmp_path / "b"), resolved(Policy("p", allow=allow)))
    room.crowd()
    assert room.attack() is None
    assert room.table.items() == []
    assert room.incidents.active == 1


def test_open_requests_count_as_soon_as_they_are_announced(room):
    """An upstream that takes minutes to answer hides nobody."""
    room.crowd()
    assert room.attack(phase=OPENED, status=0, total_tokens=0) < 30


def test_the_end_of_an_announced_request_is_no_second_request(room):
    """Its answer and its tokens are added to what was counted at its beginning."""
    room.detecting.take(
        [
            make_record(phase=OPENED, status=0, ts=NOW),
            make_record(phase=CLOSED, ts=NOW, total_tokens=70),
            make_record(phase=OPENED, status=0, ts=NOW),
            make_record(phase=CLOSED, ts=NOW, status=429, outcome="refused"),
        ]
    )
    track = room.engine.tenants["acme"].subjects["user"].get("key_1")
    assert (track.requests, track.tokens, track.outcomes[0]) == (2, 70, 1)


# -- records as events ----------------------------------------------------------------------


def test_a_refusal_before_the_body_is_held_against_the_address_alone(room):
    """A key of many is not blocked for what one of them does."""
    room.crowd()
    for n in range(1200):
        room.now += 1 / 40
        refused = {"status": 403, "outcome": "refused", "unnamed": True}
        room.ask(ATTACKER, "key_all", template(n), **refused)
    assert room.engine.tenants["acme"].users.get("key_all") is None
    assert not any(said.subject.kind == "user" for said in room.said)


def test_named_and_unnamed_requests_are_not_folded_into_one():
    """The same words in the record, and not the same user."""
    records = [make_record(unnamed=unnamed) for unnamed in (True, False, True)]
    events = [group.event() for group in group_records(records)]
    users = [(event.user, event.times) for event in events]
    assert users == [("anonymous", 2), (records[0].user, 1)]


ADDRESSES = ["203.0.113.1", "198.51.100.2"]
RECORDS = st.lists(
    st.builds(
        make_record,
        ts=st.just(NOW),
        duration_ms=st.just(0.0),
        client_ip=st.sampled_from(ADDRESSES),
        user=st.sampled_from(["key_1", "anonymous"]),
        status=st.sampled_from([200, 401, 404, 429, 502]),
        outcome=st.sampled_from(["ok", "refused"]),
        model=st.sampled_from(["a", "b"]),
        phase=st.sampled_from([WHOLE, OPENED, CLOSED]),
        prompt_tokens=st.integers(0, 9),
        completion_tokens=st.integers(0, 9),
        total_tokens=st.sampled_from([0, 20]),
        fingerprint=st.sampled_from([None, "00ff"]),
    ),
    max_size=60,
)


def counted(records, detail, path):
    """What a detector remembers of everybody who sent these."""
    room = Room(path)
    room.detecting.take(
        [make_record(ts=NOW, client_ip=ip, user="key_1") for ip in ADDRESSES]
    )
    module.FULL_DETAIL = detail
    room.detecting.take(records)
    tenant = room.engine.tenants["acme"]
    tracks = [track for kind in tenant.subjects.values() for track in kind.values()]
    found = {
        (t.kind, t.id): (
            t.requests, t.requests_m, t.tokens, t.outcomes, t.answered,
            sorted(t.models), sorted(t.company),
        )
        for t in tracks
    }  # fmt: skip
    return found, tenant.requests, tenant.answers_m, room.detecting.learned


@given(RECORDS)
def test_folded_records_count_like_single_ones(tmp_path_factory, records):
    """Requests, tokens, conduct, models and company are the same either way."""
    path = str(tmp_path_factory.getbasetemp() / "b")
    before = module.FULL_DETAIL
    try:
        assert counted(records, 0, path) == counted(records, 1000, path)
    finally:
        module.FULL_DETAIL = before


def test_busy_batches_are_folded(room, monkeypatch):
    """Alike requests of one client become one event, in the order of the first."""
    records = [make_record(ts=NOW + n, usd=0.25, status=200 + n % 2) for n in range(9)]
    one, two = group_records(records)
    assert (one.times, one.total, one.usd) == (5, 35, 1.25)
    assert (two.record.ts, two.times) == (NOW + 1, 4)
    event = one.event()
    assert (event.times, event.tokens, event.usd, event.ts) == (5, 35, 1.25, NOW + 0.0125)  # fmt: skip
    monkeypatch.setattr(module, "FULL_DETAIL", 8)
    room.detecting.take(records)
    assert room.detecting.learned == 9


def test_a_flood_is_found_though_it_is_folded(room, monkeypatch):
    """Large batches cost detail, not the attacker's name."""
    monkeypatch.setattr(module, "FULL_DETAIL", 10)
    room.crowd()
    for n in range(60):
        room.now += 0.1
        room.detecting.take(
            [
                make_record(
                    ts=room.now, client_ip=ATTACKER, user="key_x", duration_ms=0.0,
                    fingerprint=f"{template(n + m):016x}",
                )
                for m in range(40)
            ]
        )  # fmt: skip
    assert room.action == "block"


# -- time -----------------------------------------------------------------------------------


def test_blocks_end_without_events(room):
    """The clock alone lets a client go when its time is over, and resolves incidents."""
    room.crowd()
    room.attack()
    room.now += 700.0
    room.detecting.tick()
    assert room.action is None
    assert "client.unblocked" in {line.type for line in room.said}
    room.now += 1900.0
    room.detecting.tick()
    assert room.incidents.active == 0


def test_a_clock_that_is_set_back_stops_nothing(room):
    """Workers are told what to expect, and standings renewed, as before."""
    room.detecting.tick()
    room.messages.clear()
    room.now -= 3600.0
    room.detecting.tick()
    assert [message["type"] for message in room.messages] == ["baselines"]


def test_standings_that_go_on_are_renewed(tmp_path):
    """A tag lasts while its evidence does, not only as long as it was first said."""
    tags = Anomaly(ladder=Ladder(tag=0.5, throttle=50.0, block=60.0))
    room = Room(str(tmp_path / "b"), resolved(Policy("tags", anomaly=tags)))
    room.crowd()
    room.attack(seconds=20)
    assert room.action == "tag"
    first = room.table.find(BLOCKED).until
    room.attack(seconds=int(RENEW_S * 3))
    assert room.table.find(BLOCKED).until > first


def test_workers_learn_what_is_usual_each_minute(room):
    """And a worker that comes later hears it when it greets."""
    assert [message["type"] for message in room.messages] == ["baselines"]
    room.crowd()
    room.now += EXPECT_S
    room.detecting.tick()
    room.detecting.tick()
    assert len(room.messages) == 2
    assert room.messages[-1]["busy"]["acme"] > 0
    assert list(room.detecting.greeting()) == [room.messages[-1]]


def test_expected_rates_name_their_subject(room):
    """As the worker's scorer keys them: tenant, kind, id, and requests a minute."""
    for _ in range(60):
        room.now += 60.0
        room.detecting.take(
            [
                make_record(ts=room.now + n / 10, user="key_big", duration_ms=0.0)
                for n in range(30)
            ]
        )
    room.detecting.tick()
    subjects = {tuple(row[:3]): row[3] for row in room.messages[-1]["subjects"]}
    assert subjects["acme", "user", "key_big"] > 30


def test_a_worker_before_the_first_minute_hears_nothing(tmp_path):
    """There is nothing to say yet."""
    table = BlockTable(lambda _message: None)
    enforcer = Enforcer(table, MemoryBlocks(table, str(tmp_path / "b")))
    detecting = Detection(enforcer, LocalIncidents(print), print)
    assert list(detecting.greeting()) == []
    assert (detecting.learned, detecting.state()) == (0, None)


# -- configuration and memory -----------------------------------------------------------------


def test_kill_switch_lets_go_and_ends_incidents(room):
    """At once; what operators said stays, and nothing is found while it is off."""
    room.crowd()
    room.attack()
    room.table.add(Block("user", "key_9"))
    room.detecting.configure(resolved(OFF))
    assert [block.id for block in room.table.items()] == ["key_9"]
    assert (room.incidents.active, room.said[-1].type) == (0, "incident.resolved")
    assert room.attack(seconds=3) is None


def test_switched_off_and_on_again_it_knows_what_it_knew(room):
    """Nothing learned is lost meanwhile; who goes on attacking is found anew."""
    room.crowd()
    room.attack()
    learned = room.detecting.state()
    room.detecting.configure(resolved(OFF))
    assert room.detecting.state() == learned
    room.detecting.configure(resolved(OFF, campaigns=(Campaign(NOW, NOW, 2.0),)))
    room.detecting.configure(resolved(ON))
    assert room.action is None
    assert len(room.engine.tenants["acme"].subjects["user"].values()) == 15
    assert room.attack() is not None


def test_loaded_while_it_is_off_it_waits_for_its_day(room, tmp_path):
    """A restart with detection off neither uses nor forgets what the store has."""
    room.crowd()
    other = Room(str(tmp_path / "c"), resolved(OFF))
    other.detecting.load(room.detecting.state())
    assert other.detecting.state() == room.detecting.state()
    other.detecting.configure(resolved(ON))
    assert other.engine.tenants["acme"].company() == 14


def test_a_reload_of_sigmas_keeps_everything(room):
    """Other settings judge what is known; the same ones change nothing."""
    room.crowd()
    engine = room.engine
    room.detecting.configure(resolved())
    assert room.engine is engine
    room.detecting.configure(resolved(Policy("on", anomaly=Anomaly(warning=2.0))))
    assert room.engine is not engine
    assert room.engine.tenants["acme"].company() == 14


def test_campaigns_reach_the_detector(room):
    """What was declared is expected."""
    launch = Campaign(NOW, NOW + 60, 6.0, "acme")
    room.detecting.configure(resolved(campaigns=(launch,)))
    assert room.engine.settings.campaigns == (launch,)


def test_strangers_have_a_policy_of_their_own(tmp_path):
    """Clients that no tenant knows are judged by the one for them."""
    config = Resolved(
        (Tenant("acme", ON),), (), "anonymous", OFF, "UTC", 1, ON
    )  # fmt: skip
    room = Room(str(tmp_path / "b"), config)
    room.detecting.take([make_record(tenant="", ts=NOW), make_record(ts=NOW)])
    assert room.detecting.learned == 1


def test_a_restart_goes_on_where_it_was(room, tmp_path):
    """Standings and incidents too: the block ends when it was to end."""
    room.crowd()
    room.attack()
    other = Room(str(tmp_path / "c"))
    other.detecting.load(room.detecting.state())
    assert isinstance(other.engine, Engine)
    assert other.engine.action_for("client_ip", ATTACKER, "acme") == "block"
    (before,), (after,) = room.incidents.items(), other.incidents.items()
    same = ("id", "class", "score", "severity", "subject", "action", "state", "reasons")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (other.said, other.incidents.active) == ([], 1)


def test_what_is_no_state_is_refused(room):
    """And what was known before stays."""
    room.crowd()
    with pytest.raises(BaselinesError):
        room.detecting.load(b"junk")
    assert room.engine.tenants["acme"].company() == 14

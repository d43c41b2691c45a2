"""Live detection: records in, actions into the block list, incidents out."""

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
    """The fingerprint of the n-th variation of a template."""
    return 7 << 20 ^ sum(1 << (n * step) % 61 for step in (1, 7, 11))


class Scene:
    """Detection as control sets it up."""

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

    def ordinary_clients(self, clients=14):
        """Send requests of ordinary clients with different prompts."""
        chance = random.Random(1)
        for _ in range(3):
            for n in range(clients):
                self.now += 1.0
                self.ask(f"10.0.{n}.1", f"key_{n}", chance.getrandbits(64))

    def attack(self, seconds=30, rate=40, **fields):
        """Send variations of a template from one address; seconds until it was blocked,
        or None.
        """
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
        """The action on the attacker's address."""
        known = self.table.find(BLOCKED)
        return None if known is None else known.action

    @property
    def engine(self):
        (engine,) = self.detecting._detectors.engines
        return engine


@pytest.fixture(name="scene")
def _room(tmp_path):
    return Scene(str(tmp_path / "blocks"))


# -- actions -------------------------------------------------------------------------------


def test_a_scraper_is_named_and_blocked_within_seconds(scene):
    """A scraper's address and key are blocked within 30 s in its tenant, and no other
    client.
    """
    scene.ordinary_clients()
    assert scene.attack() < 30
    subjects = {(block.kind, block.id, block.tenant) for block in scene.table.items()}
    assert subjects <= {BLOCKED, ("user", "key_x", "acme")}
    (incident,) = scene.incidents.items()
    assert (incident["class"], incident["state"]) == ("scraping", "open")
    assert {line.type for line in scene.said} >= {"incident.opened", "client.blocked"}


@pytest.mark.parametrize("status", [403, 429])
def test_a_refused_attacker_stays_blocked(scene, status):
    """An attacker that continues while it is refused stays blocked, and the gateway's
    refusals are no outcomes.
    """
    scene.ordinary_clients()
    scene.attack()
    before = len(scene.table.items())
    scene.attack(seconds=30, status=status, outcome="refused", total_tokens=0)
    assert (scene.action, len(scene.table.items())) == ("block", before)
    track = scene.engine.tenants["acme"].subjects["client_ip"].get(ATTACKER)
    assert track.outcomes[1:] == [0, 0, 0, 0], "no refusal of ours is held against it"


def test_a_flooded_template_is_blocked_for_newcomers(scene):
    """Workers get the flooded template and the established clients, also a worker that
    connects later, until the flood has ended.
    """
    scene.ordinary_clients(clients=30)
    assert list(scene.detecting.greeting()) == [scene.messages[0]]
    for n in range(200):
        scene.now += 0.05
        scene.ask(f"198.18.0.{n}", "anonymous", 0x0F0F3C3C5A5A9669)
    (flood,) = scene.table.of_kind("prompts")
    assert (flood.id, flood.tenant, flood.cls) == ("0f0f3c3c5a5a9669", "acme", "ddos")
    (message,) = (one for one in scene.messages if one["type"] == "settled")
    assert len(message["tenants"]["acme"]) == 4 * 60, "an address and a key of each"
    assert message in list(scene.detecting.greeting())
    scene.now += 1200.0
    scene.detecting.tick()
    *_, message = (one for one in scene.messages if one["type"] == "settled")
    assert message["tenants"] == {}
    assert not [one for one in scene.detecting.greeting() if one["type"] == "settled"]


def test_a_template_block_of_another_gateway_is_applied(scene):
    """For a template block of another gateway workers get the established clients of a
    tenant that is known here.
    """
    scene.ordinary_clients(clients=30)
    for tenant in ("acme", "beta"):
        scene.table.add(
            Block(
                "prompts",
                "f" * 16,
                tenant,
                scene.now + 99,
                "",
                scene.now + 60,
                DETECTOR,
            )
        )
    scene.detecting.tick()
    (message,) = (one for one in scene.messages if one["type"] == "settled")
    assert {name: len(held) for name, held in message["tenants"].items()} == {
        "acme": 4 * 60,
    }


def test_observed_tenants_are_judged_as_if_enforced(tmp_path):
    """Tenants in observe mode get the same entries; workers apply observe mode."""
    scene = Scene(str(tmp_path / "b"), resolved(Policy("watch", mode="observe")))
    scene.ordinary_clients()
    assert scene.attack() is not None


def test_allow_listed_clients_get_no_action(tmp_path):
    """A client on the allow list gets no entry, although its incident is opened."""
    allow = (f"client_ip:{ATTACKER}", "user:key_x")
    scene = Scene(str(tmp_path / "b"), resolved(Policy("p", allow=allow)))
    scene.ordinary_clients()
    assert scene.attack() is None
    assert scene.table.items() == []
    assert scene.incidents.active == 1


def test_open_requests_count_as_soon_as_they_are_announced(scene):
    """An attacker is blocked by requests that the upstream has not answered."""
    scene.ordinary_clients()
    assert scene.attack(phase=OPENED, status=0, total_tokens=0) < 30


def test_the_end_of_an_announced_request_is_no_second_request(scene):
    """A closing record adds outcome and tokens to its request, not a second one."""
    scene.detecting.take(
        [
            make_record(phase=OPENED, status=0, ts=NOW),
            make_record(phase=CLOSED, ts=NOW, total_tokens=70),
            make_record(phase=OPENED, status=0, ts=NOW),
            make_record(phase=CLOSED, ts=NOW, status=429, outcome="refused"),
        ]
    )
    track = scene.engine.tenants["acme"].subjects["user"].get("key_1")
    assert (track.requests, track.tokens, track.outcomes[0]) == (2, 70, 1)


# -- records as events ----------------------------------------------------------------------


def test_a_refusal_before_the_body_counts_for_the_address_alone(scene):
    """A request refused before its body was read counts for its address and not for the
    key.
    """
    scene.ordinary_clients()
    for n in range(1200):
        scene.now += 1 / 40
        refused = {"status": 403, "outcome": "refused", "unnamed": True}
        scene.ask(ATTACKER, "key_all", template(n), **refused)
    assert scene.engine.tenants["acme"].users.get("key_all") is None
    assert not any(said.subject.kind == "user" for said in scene.said)


def test_named_and_unnamed_requests_are_grouped_apart():
    """Records with and without a read user are grouped apart, even if else equal."""
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
    """The detector's counts of all subjects after these records."""
    scene = Scene(path)
    scene.detecting.take(
        [make_record(ts=NOW, client_ip=ip, user="key_1") for ip in ADDRESSES]
    )
    module.FULL_DETAIL = detail
    scene.detecting.take(records)
    tenant = scene.engine.tenants["acme"]
    tracks = [track for kind in tenant.subjects.values() for track in kind.values()]
    found = {
        (t.kind, t.id): (
            t.requests, t.requests_m, t.tokens, t.outcomes, t.answered,
            sorted(t.models), sorted(t.company),
        )
        for t in tracks
    }  # fmt: skip
    return found, tenant.requests, tenant.answers_m, scene.detecting.learned


@given(RECORDS)
def test_grouped_records_count_like_single_ones(tmp_path_factory, records):
    """Grouped records give the same counts as single ones."""
    path = str(tmp_path_factory.getbasetemp() / "b")
    before = module.FULL_DETAIL
    try:
        assert counted(records, 0, path) == counted(records, 1000, path)
    finally:
        module.FULL_DETAIL = before


def test_large_batches_are_grouped(scene, monkeypatch):
    """In a large batch equal requests of one client become one event, in order of the
    first.
    """
    records = [make_record(ts=NOW + n, usd=0.25, status=200 + n % 2) for n in range(9)]
    one, two = group_records(records)
    assert (one.times, one.total, one.usd) == (5, 35, 1.25)
    assert (two.record.ts, two.times) == (NOW + 1, 4)
    event = one.event()
    assert (event.times, event.tokens, event.usd, event.ts) == (5, 35, 1.25, NOW + 0.0125)  # fmt: skip
    monkeypatch.setattr(module, "FULL_DETAIL", 8)
    scene.detecting.take(records)
    assert scene.detecting.learned == 9


def test_a_flood_is_found_in_grouped_batches(scene, monkeypatch):
    """An attacker in grouped batches is blocked."""
    monkeypatch.setattr(module, "FULL_DETAIL", 10)
    scene.ordinary_clients()
    for n in range(60):
        scene.now += 0.1
        scene.detecting.take(
            [
                make_record(
                    ts=scene.now, client_ip=ATTACKER, user="key_x", duration_ms=0.0,
                    fingerprint=f"{template(n + m):016x}",
                )
                for m in range(40)
            ]
        )  # fmt: skip
    assert scene.action == "block"


# -- time -----------------------------------------------------------------------------------


def test_blocks_end_without_events(scene):
    """Blocks and incidents end by the clock without events."""
    scene.ordinary_clients()
    scene.attack()
    scene.now += 700.0
    scene.detecting.tick()
    assert scene.action is None
    assert "client.unblocked" in {line.type for line in scene.said}
    scene.now += 1900.0
    scene.detecting.tick()
    assert scene.incidents.active == 0


def test_a_clock_that_is_set_back_stops_nothing(scene):
    """After the clock is set back, expectations are sent as before."""
    scene.detecting.tick()
    scene.messages.clear()
    scene.now -= 3600.0
    scene.detecting.tick()
    assert [message["type"] for message in scene.messages] == ["baselines"]


def test_actions_with_continuing_evidence_are_renewed(tmp_path):
    """A tag is prolonged while its evidence continues."""
    tags = Anomaly(ladder=Ladder(tag=0.5, throttle=50.0, block=60.0))
    scene = Scene(str(tmp_path / "b"), resolved(Policy("tags", anomaly=tags)))
    scene.ordinary_clients()
    scene.attack(seconds=20)
    assert scene.action == "tag"
    first = scene.table.find(BLOCKED).until
    scene.attack(seconds=int(RENEW_S * 3))
    assert scene.table.find(BLOCKED).until > first


def test_expectations_are_sent_each_minute(scene):
    """Expectations are sent to workers each minute, and to a worker that connects."""
    assert [message["type"] for message in scene.messages] == ["baselines"]
    scene.ordinary_clients()
    scene.now += EXPECT_S
    scene.detecting.tick()
    scene.detecting.tick()
    assert len(scene.messages) == 2
    assert scene.messages[-1]["busy"]["acme"] > 0
    assert list(scene.detecting.greeting()) == [scene.messages[-1]]


def test_expected_rates_name_their_subject(scene):
    """Expectations have tenant, kind, id and requests a minute."""
    for _ in range(60):
        scene.now += 60.0
        scene.detecting.take(
            [
                make_record(ts=scene.now + n / 10, user="key_big", duration_ms=0.0)
                for n in range(30)
            ]
        )
    scene.detecting.tick()
    subjects = {tuple(row[:3]): row[3] for row in scene.messages[-1]["subjects"]}
    assert subjects["acme", "user", "key_big"] > 30


def test_before_the_first_minute_there_is_no_greeting(tmp_path):
    """Before the first minute a worker that connects gets no expectations."""
    table = BlockTable(lambda _message: None)
    enforcer = Enforcer(table, MemoryBlocks(table, str(tmp_path / "b")))
    detecting = Detection(enforcer, LocalIncidents(print), print)
    assert list(detecting.greeting()) == []
    assert (detecting.learned, detecting.state()) == (0, None)


# -- configuration and state ------------------------------------------------------------------


def test_switching_detection_off_ends_blocks_and_incidents(scene):
    """Switching detection off ends its blocks and incidents at once and keeps
    operators' blocks.
    """
    scene.ordinary_clients()
    scene.attack()
    scene.table.add(Block("user", "key_9"))
    scene.detecting.configure(resolved(OFF))
    assert [block.id for block in scene.table.items()] == ["key_9"]
    assert (scene.incidents.active, scene.said[-1].type) == (0, "incident.resolved")
    assert scene.attack(seconds=3) is None


def test_switching_detection_on_again_keeps_what_was_learned(scene):
    """While detection is off its state is kept; an attacker that continues is blocked
    again afterwards.
    """
    scene.ordinary_clients()
    scene.attack()
    learned = scene.detecting.state()
    scene.detecting.configure(resolved(OFF))
    assert scene.detecting.state() == learned
    scene.detecting.configure(resolved(OFF, campaigns=(Campaign(NOW, NOW, 2.0),)))
    scene.detecting.configure(resolved(ON))
    assert scene.action is None
    assert len(scene.engine.tenants["acme"].subjects["user"].values()) == 15
    assert scene.attack() is not None


def test_a_state_loaded_while_off_is_kept(scene, tmp_path):
    """A state loaded while detection is off is kept and used once it is on."""
    scene.ordinary_clients()
    other = Scene(str(tmp_path / "c"), resolved(OFF))
    other.detecting.load(scene.detecting.state())
    assert other.detecting.state() == scene.detecting.state()
    other.detecting.configure(resolved(ON))
    assert other.engine.tenants["acme"].company() == 14


def test_a_reload_of_scores_keeps_the_state(scene):
    """New scores keep the learned state, and equal settings keep the detector."""
    scene.ordinary_clients()
    engine = scene.engine
    scene.detecting.configure(resolved())
    assert scene.engine is engine
    scene.detecting.configure(resolved(Policy("on", anomaly=Anomaly(warning=2.0))))
    assert scene.engine is not engine
    assert scene.engine.tenants["acme"].company() == 14


def test_campaigns_reach_the_detector(scene):
    """Configured campaigns are settings of the detector."""
    launch = Campaign(NOW, NOW + 60, 6.0, "acme")
    scene.detecting.configure(resolved(campaigns=(launch,)))
    assert scene.engine.settings.campaigns == (launch,)


def test_unknown_tenants_have_their_own_policy(tmp_path):
    """Requests without a tenant follow the anonymous policy."""
    config = Resolved(
        (Tenant("acme", ON),), (), "anonymous", OFF, "UTC", 1, ON
    )  # fmt: skip
    scene = Scene(str(tmp_path / "b"), config)
    scene.detecting.take([make_record(tenant="", ts=NOW), make_record(ts=NOW)])
    assert scene.detecting.learned == 1


def test_actions_and_incidents_survive_a_restart(scene, tmp_path):
    """A loaded state has the same actions and incidents and reports nothing again."""
    scene.ordinary_clients()
    scene.attack()
    other = Scene(str(tmp_path / "c"))
    other.detecting.load(scene.detecting.state())
    assert isinstance(other.engine, Engine)
    assert other.engine.action_for("client_ip", ATTACKER, "acme") == "block"
    (before,), (after,) = scene.incidents.items(), other.incidents.items()
    same = ("id", "class", "score", "severity", "subject", "action", "state", "reasons")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (other.said, other.incidents.active) == ([], 1)


def test_what_is_no_state_is_refused(scene):
    """Invalid bytes raise BaselinesError, and the current state is kept."""
    scene.ordinary_clients()
    with pytest.raises(BaselinesError):
        scene.detecting.load(b"junk")
    assert scene.engine.tenants["acme"].company() == 14


def test_workers_learn_whom_a_verdict_on_an_address_spares(scene):
    """With the first verdict on an address workers get the users that are served, also
    a worker that connects later; without such verdicts none.
    """
    scene.ordinary_clients()
    assert not [one for one in scene.messages if one["type"] == "spared"]
    scene.attack()
    (message,) = (one for one in scene.messages if one["type"] == "spared")
    assert len(message["tenants"]["acme"]) >= 4 * 10
    assert message in list(scene.detecting.greeting())
    scene.now += 7200.0
    scene.detecting.tick()
    *_, message = (one for one in scene.messages if one["type"] == "spared")
    assert message["tenants"] == {}
    assert not [one for one in scene.detecting.greeting() if one["type"] == "spared"]


def test_a_verdict_in_a_tenant_that_is_not_known_here_spares_nobody(scene):
    """For a verdict of another gateway in a tenant without traffic here, workers get
    an empty list.
    """
    until, now = scene.now + 99, scene.now
    scene.table.add(Block("client_ip", ATTACKER, "beta", until, "", now, DETECTOR))
    scene.detecting.tick()
    *_, message = (one for one in scene.messages if one["type"] == "spared")
    assert message["tenants"] == {"beta": b""}

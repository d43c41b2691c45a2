"""Verdicts in, incidents and lines out."""

from __future__ import annotations

import msgspec

from gateway.detect.act import Bench, Case
from gateway.detect.classify import Finding
from gateway.detect.features import Track
from gateway.detect.incidents import CALM_S
from gateway.detect.model import DetectSettings, LadderSettings, Output, Ref
from gateway.detect.population import Tenant
from gateway.detect.templates import Template

T = 1_767_607_200.0
WALK = Finding("scraping", 9.0, behaviour=True, reasons=("Walks.",))
MORE = Finding("volume", 9.0, behaviour=False, reasons=("More.",))


class Room:
    """One bench, one tenant, a clock."""

    def __init__(self, **settings: object) -> None:
        self.bench = Bench(DetectSettings(**settings))
        self.tenant = Tenant("t", 100, T)
        self.now = T

    def find(
        self,
        finding: Finding,
        id_: str = "203.0.113.9",
        *,
        times: int = 1,
        known: bool = False,
        partner: str = "nobody",
    ) -> list[Output]:
        """The same finding so many times, ten seconds apart."""
        out: list[Output] = []
        for _ in range(times):
            self.now += 10.0
            case = Case(
                self.tenant, Ref("client_ip", id_), known, finding, self.now, T, {}, {}
            )
            out += self.bench.verdict(case, Ref("user", partner))
        return out

    def rung(self, id_: str = "203.0.113.9") -> str:
        """Where a client_ip stands, in this tenant and anywhere."""
        here = self.bench.action_for("client_ip", id_, "t", self.now)
        assert here == self.bench.action_for("client_ip", id_, None, self.now)
        return here


def types(out: list[Output]) -> list[str]:
    """What kinds of lines came out."""
    return [line.type for line in out]


def test_behaviour_is_blocked_at_the_second_look():
    """One look is none; the next opens the incident and blocks."""
    room = Room()
    assert room.find(WALK) == []
    out = room.find(WALK)
    assert types(out) == ["incident.opened", "client.blocked"]
    assert out[1].until is not None
    assert (out[0].severity, out[0].action, room.rung()) == (
        "critical",
        "block",
        "block",
    )
    assert room.find(WALK) == []


def test_evidence_that_stops_is_void():
    """A calm look between two others starts the count again."""
    room = Room()
    track = Track("client_ip", "203.0.113.9", "t", T, T)
    room.bench.calm(track)
    room.find(WALK)
    room.bench.calm(track)
    room.bench.calm(track)
    assert room.find(WALK) == []


def test_mild_behaviour_has_to_last_two_seconds():
    """Under an overwhelming score two looks at once are not enough."""
    room = Room()
    mild = msgspec.structs.replace(WALK, score=3.5)
    room.find(mild)
    room.now -= 10.0
    assert room.find(mild) == []
    assert types(room.find(mild)) == ["incident.opened", "client.tagged"]


def test_volume_lasts_longer_and_never_blocks():
    """Known subjects are throttled at critical, newcomers only tagged."""
    room = Room()
    assert room.find(MORE, times=6, known=True) == []
    assert types(room.find(MORE, times=2, known=True)) == [
        "incident.opened",
        "client.throttled",
    ]
    fresh = Room()
    fresh.find(MORE, times=9)
    assert fresh.rung() == "tag"


def test_what_is_worse_is_told():
    """A rise of severity and action updates the incident and the client."""
    room = Room()
    room.find(msgspec.structs.replace(WALK, score=3.5), times=2)
    out = room.find(WALK)
    assert types(out) == ["incident.updated", "client.blocked"]


def test_observe_and_allow_lists_act_on_nobody():
    """Incidents are told, actions stay at allow."""
    for settings in (
        {"observe": True},
        {"allow": frozenset({"client_ip:203.0.113.9"})},
    ):
        room = Room(**settings)
        assert types(room.find(WALK, times=3)) == ["incident.opened"]
        assert room.rung() == "allow"


def test_ladders_of_a_class():
    """A class may have its own ladder."""
    room = Room(class_ladders={"scraping": LadderSettings(block=99, throttle=99)})
    room.find(WALK, times=2)
    assert room.rung() == "tag"


def test_only_so_many_known_subjects_are_blocked():
    """Beyond the share of a tenant a human is needed; strangers do not count."""
    room = Room(max_blocked_share=0.2)
    for n in range(10):
        id_ = f"10.0.0.{n}"
        track = Track("client_ip", id_, "t", T, T)
        room.tenant.tracks["client_ip"].put(id_, track)
    for n in range(4):
        room.find(WALK, f"10.0.0.{n}", times=2, known=True)
    rungs = [room.rung(f"10.0.0.{n}") for n in range(4)]
    assert rungs == ["block", "block", "throttle", "throttle"]
    room.find(WALK, "10.0.0.0", times=2, known=True)
    room.find(WALK, "198.51.100.1", times=2)
    assert room.rung("198.51.100.1") == "block"


def test_user_and_address_of_one_cause_share_an_incident():
    """The partner's incident is joined instead of opening another."""
    room = Room()
    first = room.find(WALK, times=2)
    case = Case(room.tenant, Ref("user", "u"), False, MORE, room.now, T, {}, {})
    out: list[Output] = []
    for n in range(9):
        later = msgspec.structs.replace(case, now=room.now + 20 * n)
        out += room.bench.verdict(later, Ref("client_ip", "203.0.113.9"))
    assert types(out) == ["client.tagged"]
    assert out[0].id == first[0].id


def test_many_sources_of_one_class_are_one_crowd():
    """The second source turns the incident into the tenant's."""
    room = Room()
    room.find(WALK, "10.0.0.1", times=2)
    out = room.find(WALK, "10.0.0.2", times=2)
    assert types(out) == ["client.blocked"]
    room.find(MORE, "10.0.0.3", times=9)
    assert sorted(i.subject.kind for i in room.bench.incidents.values()) == [
        "client_ip",
        "tenant",
    ]


def test_calm_resolves_and_lets_go():
    """The block ends first, the incident half an hour after the last evidence."""
    room = Room()
    room.find(WALK, times=2)
    assert types(room.bench.sweep(room.now + 601)) == ["client.unblocked"]
    assert types(room.bench.sweep(room.now + CALM_S + 1)) == ["incident.resolved"]
    assert room.bench.sweep(room.now + 200_000) == []
    assert room.bench.standings == {}
    assert room.rung() == "allow"


def test_a_block_may_outlive_its_incident():
    """Then nothing is said when it ends; a tag ends silently too."""
    room = Room()
    room.find(WALK, times=2)
    assert types(room.bench.close(room.now)) == ["incident.resolved"]
    assert room.bench.sweep(room.now + 601) == []
    room.find(msgspec.structs.replace(WALK, score=3.5), "10.9.9.9", times=2)
    assert room.rung("10.9.9.9") == "tag"
    room.now += 400
    assert room.rung("10.9.9.9") == "allow"
    assert room.bench.sweep(room.now) == []


def test_one_subject_in_two_tenants():
    """The strictest standing anywhere, unless a tenant is asked for."""
    room = Room()
    room.find(WALK, times=2)
    other = Case(
        Tenant("b", 9, T),
        Ref("client_ip", "203.0.113.9"),
        False,
        msgspec.structs.replace(WALK, score=3.2),
        room.now,
        T,
        {},
        {},
    )
    for n in (5, 10):
        room.bench.verdict(
            msgspec.structs.replace(other, now=room.now + n), Ref("", "")
        )
    ask = room.bench.action_for
    assert ask("client_ip", "203.0.113.9", "b", room.now) == "tag"
    assert ask("client_ip", "203.0.113.9", None, room.now) == "block"
    room.bench.sweep(room.now + 90_000)
    assert ask("client_ip", "203.0.113.9", "b", room.now) == "allow"


def crowd(room: Room, score: float = 6.0) -> tuple[list[Output], Template]:
    """A template is flooded."""
    template = Template(print=1, born=T, last=T)
    finding = Finding("ddos", score, behaviour=True, reasons=("Flood.",))
    return room.bench.crowd(room.tenant, template, finding, room.now), template


def test_senders_of_a_flooded_template_join_the_crowd():
    """Newcomers are blocked at once under the tenant's incident, known users never."""
    room = Room()
    out, template = crowd(room)
    assert types(out) == ["incident.opened"]
    assert out[0].subject == Ref("tenant", "t")
    ip = Track("client_ip", "10.0.0.1", "t", T, T)
    user = Track("user", "u", "t", T - 1e6, T, answered=99)
    joined = room.bench.join(room.tenant, template, ip, user, room.now)
    assert types(joined) == ["client.blocked"]
    assert joined[0].id == out[0].id
    assert room.bench.join(room.tenant, template, ip, None, room.now) == []
    assert (ip.judged, user.judged) == (True, False)
    assert types(crowd(room, 12.0)[0]) == []


def test_a_crowd_that_is_no_longer_open_is_not_joined():
    """Without an incident nobody is acted on; weak floods open none."""
    room = Room()
    assert crowd(room, 2.0)[0] == []
    ip = Track("client_ip", "10.0.0.1", "t", T, T)
    template = Template(print=1, born=T, last=T)
    assert room.bench.join(room.tenant, template, ip, None, room.now) == []


def test_crowds_of_one_tenant_are_one_incident():
    """Scraping beside a flood, worse than before: an update, not a second incident."""
    room = Room()
    crowd(room, 4.0)
    finding = Finding("scraping", 7.0, behaviour=True, reasons=("Worse.",))
    template = Template(print=2, born=T, last=T)
    out = room.bench.crowd(room.tenant, template, finding, room.now)
    assert types(out) == ["incident.updated"]
    assert out[0].reasons == ("Worse.",)


def test_surges_and_outages_are_information():
    """Opened once as info; a surge that a crowd explains is not told."""
    room = Room()
    surge = Finding("surge", 9.0, behaviour=False, reasons=("Tide.",))
    assert [o.severity for o in room.bench.whole(room.tenant, surge, T)] == ["info"]
    assert room.bench.whole(room.tenant, surge, T) == []
    outage = Finding("outage", 9.0, behaviour=False, reasons=("Down.",))
    assert types(room.bench.whole(room.tenant, outage, T)) == ["incident.opened"]
    other = Room()
    crowd(other)
    assert other.bench.whole(other.tenant, surge, T) == []
    other.tenant.name = "elsewhere"
    assert types(other.bench.whole(other.tenant, surge, T)) == ["incident.opened"]


def test_standings_survive_a_restart():
    """Saved and loaded: the same actions, the same incidents."""
    room = Room()
    room.find(WALK, times=2)
    fresh = Bench(DetectSettings())
    fresh.load(msgspec.msgpack.encode(room.bench.state()))
    assert fresh.action_for("client_ip", "203.0.113.9", None, room.now) == "block"
    assert fresh.incidents == room.bench.incidents

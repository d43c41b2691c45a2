"""Verdicts in, incidents and lines out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.core.model import Ladder
from gateway.detect.incidents import CALM_S
from gateway.detect.model import DetectSettings, Event, Output, Ref
from gateway.detect.responses import LEAST_PEERS, CandidateAlert, ResponseManager
from gateway.detect.rules.facts import Signal
from gateway.detect.subject import SubjectState
from gateway.detect.templates import SOURCES, Template
from gateway.detect.tenant import TenantState

T = 1_767_607_200.0
DAY = 86_400.0
WALK = Signal("scraping", 9.0, behaviour=True, reasons=("Walks.",))
MORE = Signal("volume", 9.0, behaviour=False, reasons=("More.",))


class Room:
    """One bench, one tenant, a clock."""

    def __init__(self, **settings: object) -> None:
        self.bench = ResponseManager(DetectSettings(**settings))
        self.tenant = TenantState("t", 100, T - 2 * DAY)  # its first day is over
        self.now = T

    def find(
        self,
        finding: Signal,
        id_: str = "203.0.113.9",
        *,
        times: int = 1,
        known: bool = False,
        partner: str = "nobody",
        prints: Sequence[int] = (),
    ) -> list[Output]:
        """The same finding so many times, ten seconds apart."""
        out: list[Output] = []
        for _ in range(times):
            self.now += 10.0
            subject = Ref("client_ip", id_)
            case = CandidateAlert(
                self.tenant, subject, known, finding, self.now, T, {}, {}
            )
            case.prints = list(prints)
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


def test_a_tag_for_behaviour_needs_one_look():
    """It stops nobody; what is told needs the second one."""
    room = Room()
    hint = msgspec.structs.replace(WALK, page_worthy=False)
    assert types(room.find(hint)) == ["client.tagged"]
    assert types(room.find(WALK)) == ["incident.opened", "client.blocked"]


def test_sources_of_a_sweep_are_one_cause_whatever_they_send():
    """Keys and paths are tried with any prompts."""
    room = Room()
    sweep = msgspec.structs.replace(WALK, cls="probing")
    room.find(sweep, times=2, prints=[1])
    out = room.find(sweep, "203.0.113.10", times=2, prints=[(1 << 64) - 1])
    assert types(out) == ["incident.updated", "client.blocked"]


def test_a_crowd_that_is_larger_than_readers_are_is_a_flood():
    """Named again once as many sources were counted, and never back."""
    room = Room()
    scrape = msgspec.structs.replace(WALK, cls="scraping")
    flood = msgspec.structs.replace(WALK, cls="ddos")
    template = Template(1, T, T)
    room.bench.crowd(room.tenant, template, scrape, T)
    assert types(room.bench.crowd(room.tenant, template, flood, T)) == []
    template.sources = {str(n) for n in range(SOURCES)}
    out = room.bench.crowd(room.tenant, template, flood, T)
    assert [(line.type, line.cls) for line in out] == [("incident.updated", "ddos")]
    assert room.bench.crowd(room.tenant, template, scrape, T) == []


def test_without_peers_nobody_is_compared_with_them():
    """On the first day of a tenant of few clients a busy newcomer is tagged at most."""
    room = Room()
    room.tenant.born = T
    assert types(room.find(WALK, times=3)) == ["incident.opened", "client.tagged"]
    for n in range(LEAST_PEERS):
        room.tenant.subjects["user"].put(
            f"u{n}", SubjectState("user", f"u{n}", "t", T, T)
        )
    assert types(room.find(WALK)) == ["incident.updated", "client.blocked"]


def test_evidence_that_stops_is_void():
    """A calm look between two others starts the count again."""
    room = Room()
    track = SubjectState("client_ip", "203.0.113.9", "t", T, T)
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


def light(score: float = 9.0) -> Signal:
    """A finding that does not weigh enough for an incident."""
    return msgspec.structs.replace(WALK, score=score, page_worthy=False)


def test_what_weighs_little_is_only_tagged():
    """However clear it is: no incident, neither then nor at its end."""
    room = Room()
    out = room.find(light(4.0), times=2)
    out += room.find(light(9.0), times=3)
    assert types(out) == ["client.tagged"]
    room.now += CALM_S + 1
    assert room.bench.sweep(room.now) == []
    room.find(light(), times=2)
    assert room.bench.close(room.now) == []


def test_a_tag_that_gains_weight_becomes_an_incident():
    """Under the id that its tag carried already."""
    room = Room()
    tag = room.find(light(), times=2)
    out = room.find(WALK)
    assert types(out) == ["incident.opened", "client.blocked"]
    assert {line.id for line in tag + out} == {tag[0].id}
    assert types(room.bench.close(room.now)) == ["incident.resolved"]


def test_a_tag_joins_the_incident_of_its_partner():
    """One cause, told once; a partner that was only tagged tells nothing."""
    room = Room()
    room.find(light(), "a", times=2)
    opened = room.find(WALK, "b", times=2)
    assert types(opened)[0] == "incident.opened"
    joined = room.find(WALK, "a", times=2)
    assert types(joined) == ["incident.updated", "client.blocked"]
    assert {line.id for line in joined} == {opened[0].id}
    stolen = msgspec.structs.replace(light(), cls="credential_abuse")
    other = Room()
    case = CandidateAlert(other.tenant, Ref("user", "p"), False, stolen, T, T, {}, {})
    for _ in range(2):
        case.now += 10.0
        other.bench.verdict(case, Ref("client_ip", "a"))
    spike = msgspec.structs.replace(WALK, cls="cost_spike")
    assert types(other.find(spike, "a", times=2, partner="p"))[0] == "incident.opened"


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


def test_allowed_networks_and_tenants():
    """Neither their addresses nor the keys that are used from there are acted on."""
    room = Room(allow=frozenset({"network:203.0.113.0/24", "network:2001:db8::/32"}))
    room.find(WALK, times=3)
    room.find(WALK, "2001:db8:0:1::/64", times=3)
    room.find(WALK, "203.0.114.9", times=3)
    rungs = [
        room.rung(ip) for ip in ("203.0.113.9", "2001:db8:0:1::/64", "203.0.114.9")
    ]
    assert rungs == ["allow", "allow", "block"]
    case = CandidateAlert(
        room.tenant, Ref("user", "u"), False, WALK, room.now, T, {}, {}
    )  # fmt: skip
    for _ in range(2):
        room.bench.verdict(case, Ref("client_ip", "203.0.113.9"))
    assert room.bench.action_for("user", "u", "t", room.now) == "allow"
    assert Room(allow=frozenset({"tenant:t"})).bench.allow_list.holds_subject(
        "t", "user", "u"
    )


def test_an_allowed_address_joins_no_crowd():
    """Its prompts follow the template that is flooded; a crowd in a tide is tagged."""
    room = Room(allow=frozenset({"network:10.0.0.0/8"}))
    _, template = crowd(room)
    inside = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    outside = SubjectState("client_ip", "198.51.100.1", "t", T, T)
    user = SubjectState("user", "u", "t", T, T)
    assert room.bench.join(room.tenant, template, inside, user, room.now) == []
    template.unsure = True
    joined = room.bench.join(room.tenant, template, outside, None, room.now)
    assert types(joined) == ["client.tagged"]


def test_ladders_of_a_class():
    """A class may have its own ladder."""
    room = Room(class_ladders={"scraping": Ladder(block=99, throttle=99)})
    room.find(WALK, times=2)
    assert room.rung() == "tag"


def test_only_so_many_known_subjects_are_blocked():
    """Beyond the share of a tenant a human is needed; strangers do not count."""
    room = Room(max_blocked_share=0.2)
    for n in range(10):
        id_ = f"10.0.0.{n}"
        track = SubjectState("client_ip", id_, "t", T, T)
        room.tenant.subjects["client_ip"].put(id_, track)
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
    case = CandidateAlert(
        room.tenant, Ref("user", "u"), False, MORE, room.now, T, {}, {}
    )
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
    assert types(out) == ["incident.updated", "client.blocked"]
    assert out[0].subject == Ref("tenant", "t")
    assert types(room.find(WALK, "10.0.0.4", times=2)) == ["client.blocked"]
    room.find(MORE, "10.0.0.3", times=9)
    assert sorted(i.subject.kind for i in room.bench.incidents.values()) == [
        "client_ip",
        "tenant",
    ]


def test_single_sources_of_different_classes_are_different_causes():
    """Unless they send the same; as soon as it is a crowd's, everybody joins it."""
    room = Room()
    room.find(WALK, "10.0.0.1", times=2, prints=[5])
    flood = msgspec.structs.replace(WALK, cls="ddos")
    apart = room.find(flood, "10.0.0.2", times=2, prints=[5 ^ (1 << 40) - 1])
    assert types(apart) == ["incident.opened", "client.blocked"]
    alike = room.find(flood, "10.0.0.3", times=2, prints=[4])
    assert types(alike) == ["incident.updated", "client.blocked"]
    probe = msgspec.structs.replace(WALK, cls="probing")
    assert types(room.find(probe, "10.0.0.4", times=2)) == ["client.blocked"]


def test_calm_resolves_and_lets_go():
    """The block ends first, the incident half an hour after the last evidence."""
    room = Room()
    room.find(WALK, times=2)
    assert types(room.bench.sweep(room.now + 601)) == ["client.unblocked"]
    assert types(room.bench.sweep(room.now + CALM_S + 1)) == ["incident.resolved"]
    assert room.bench.sweep(room.now + 200_000) == []
    assert room.bench.states == {}
    assert room.rung() == "allow"


def test_while_who_is_blocked_knocks_nothing_is_calm():
    """A thief at a slow pace is one incident; who is only tagged keeps none open."""
    room = Room()
    room.find(WALK, times=2)
    thief = Event(room.now + 1000, "203.0.113.9", "anonymous", "t")
    room.bench.observe_blocked_retry(thief)
    room.bench.observe_blocked_retry(msgspec.structs.replace(thief, ts=room.now))
    room.bench.observe_blocked_retry(
        msgspec.structs.replace(thief, client_ip="203.0.113.10")
    )
    standing = room.bench.states["t", "client_ip", "203.0.113.9"]
    standing.until = room.now + 9000
    assert room.bench.sweep(room.now + CALM_S + 1) == []
    standing.action = "tag"
    room.bench.observe_blocked_retry(msgspec.structs.replace(thief, ts=room.now + 2000))
    assert types(room.bench.sweep(thief.ts + CALM_S + 1)) == ["incident.resolved"]
    standing.action = "block"
    room.bench.observe_blocked_retry(thief)  # of what was resolved nobody hears again
    assert room.bench.incidents == {}


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
    other = CandidateAlert(
        TenantState("b", 9, T),
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
    finding = Signal("ddos", score, behaviour=True, reasons=("Flood.",))
    return room.bench.crowd(room.tenant, template, finding, room.now), template


def test_senders_of_a_flooded_template_join_the_crowd():
    """Newcomers are blocked at once under the tenant's incident, known users never."""
    room = Room()
    out, template = crowd(room)
    assert types(out) == ["incident.opened"]
    assert out[0].subject == Ref("tenant", "t")
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    user = SubjectState("user", "u", "t", T - 1e6, T, answered=99)
    joined = room.bench.join(room.tenant, template, ip, user, room.now)
    assert types(joined) == ["client.blocked"]
    assert joined[0].id == out[0].id
    assert room.bench.join(room.tenant, template, ip, None, room.now) == []
    assert (ip.judged, user.judged) == (True, False)
    assert types(crowd(room, 12.0)[0]) == []


def test_a_crowd_takes_over_the_incident_of_its_first_source():
    """Whoever was seen alone with its template belongs to it: one incident."""
    room = Room()
    first = room.find(WALK, times=2, prints=[3])
    out, _ = crowd(room)
    assert types(out) == ["incident.updated"]
    assert (out[0].id, out[0].subject) == (first[0].id, Ref("tenant", "t"))


def test_a_crowd_that_is_no_longer_open_is_not_joined():
    """Without an incident nobody is acted on; weak floods open none."""
    room = Room()
    assert crowd(room, 2.0)[0] == []
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    template = Template(print=1, born=T, last=T)
    assert room.bench.join(room.tenant, template, ip, None, room.now) == []


def test_crowds_of_one_tenant_are_one_incident():
    """Scraping beside a flood, worse than before: an update, not a second incident."""
    room = Room()
    crowd(room, 4.0)
    finding = Signal("scraping", 7.0, behaviour=True, reasons=("Worse.",))
    template = Template(print=2, born=T, last=T)
    out = room.bench.crowd(room.tenant, template, finding, room.now)
    assert types(out) == ["incident.updated"]
    assert out[0].reasons == ("Worse.",)


def test_surges_and_outages_are_information():
    """Opened once as info; a surge that a crowd explains is not told."""
    room = Room()
    surge = Signal("surge", 9.0, behaviour=False, reasons=("Tide.",))
    assert [o.severity for o in room.bench.whole(room.tenant, surge, T)] == ["info"]
    assert room.bench.whole(room.tenant, surge, T) == []
    outage = Signal("outage", 9.0, behaviour=False, reasons=("Down.",))
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
    fresh = ResponseManager(DetectSettings())
    fresh.load(msgspec.msgpack.encode(room.bench.state()))
    assert fresh.action_for("client_ip", "203.0.113.9", None, room.now) == "block"
    assert fresh.incidents == room.bench.incidents


def test_what_stands_out_suddenly_need_not_last():
    """Two looks are enough; a newcomer is slowed when it is critical, not blocked."""
    sudden = msgspec.structs.replace(MORE, sudden=True)
    room = Room()
    assert types(room.find(sudden, times=2)) == ["incident.opened", "client.throttled"]
    mild = msgspec.structs.replace(sudden, score=4.0)
    assert types(Room().find(mild, times=2)) == ["incident.opened", "client.tagged"]


def test_an_incident_of_volume_takes_the_name_of_what_is_done():
    """As soon as the behaviour is clear; that is told."""
    room = Room()
    room.find(msgspec.structs.replace(MORE, sudden=True), times=2)
    out = room.find(WALK)
    assert types(out) == ["incident.updated", "client.blocked"]
    assert {line.cls for line in out} == {"scraping"}


def elsewhere(room: Room, name: str = "s") -> TenantState:
    """Another tenant of the same service."""
    return TenantState(name, 100, T - 2 * DAY)


def test_an_outage_of_several_tenants_is_one():
    """The second tenant widens it to the service, the third adds nothing to tell."""
    room = Room()
    outage = Signal("outage", 9.0, behaviour=False, reasons=("Down.",))
    first = room.bench.whole(room.tenant, outage, T)
    second = room.bench.whole(elsewhere(room), outage, T)
    assert types(first + second) == ["incident.opened", "incident.updated"]
    assert first[0].id == second[0].id
    assert (second[0].tenant, second[0].subject) == ("*", Ref("tenant", "*"))
    assert room.bench.whole(elsewhere(room), outage, T) == []


def test_a_crowd_in_several_tenants_is_one():
    """The same template floods another tenant: the same incident; others are others."""
    room = Room()
    crowd(room)
    flood = Signal("ddos", 6.0, behaviour=True, reasons=("Flood.",))
    same, other = Template(print=3, born=T, last=T), Template(2**60 - 1, T, T)
    wider = room.bench.crowd(elsewhere(room), same, flood, T)
    assert [(line.type, line.tenant) for line in wider] == [("incident.updated", "*")]
    apart = room.bench.crowd(elsewhere(room, "r"), other, flood, T)
    assert [(line.type, line.tenant) for line in apart] == [("incident.opened", "r")]


def test_members_of_a_crowd_are_blocked_for_longer_and_remembered():
    """Forty minutes at first, double at the next, though they were never looked at."""
    room = Room()
    _, template = crowd(room)
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    key = ("t", "client_ip", "10.0.0.1")
    room.bench.join(room.tenant, template, ip, None, T)
    assert room.bench.states[key].until == T + 2400
    next(iter(room.bench.incidents.values())).last = T + 2400  # others keep it open
    room.bench.sweep(T + 2401)
    room.bench.join(room.tenant, template, ip, None, T + 2402)
    assert room.bench.states[key].until == T + 2402 + 4800


def test_who_was_there_before_the_template_is_no_member():
    """An ordinary newcomer whose prompt is flooded by others."""
    room = Room()
    _, template = crowd(room)
    ip = SubjectState("client_ip", "10.0.0.1", "t", T - 900, T)
    assert room.bench.join(room.tenant, template, ip, None, T) == []
    assert not ip.judged


def test_members_of_a_mild_crowd_are_slowed():
    """A crowd that is not critical: its members are throttled as anybody is."""
    room = Room()
    _, template = crowd(room, 4.5)
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    assert types(room.bench.join(room.tenant, template, ip, None, T)) == [
        "client.throttled"
    ]


def test_standings_are_bounded(monkeypatch):
    """A crowd beyond what is remembered is counted; the calm are forgotten sooner."""
    monkeypatch.setattr("gateway.detect.enforcement.MOST_STATES", 4)
    room = Room()
    _, template = crowd(room)
    for n in range(6):
        track = SubjectState("client_ip", f"10.0.0.{n}", "t", T, T)
        room.bench.join(room.tenant, template, track, None, T)
    assert (len(room.bench.states), room.bench.unlisted) == (4, 2)
    room.bench.sweep(T + 2401)
    assert room.bench.states == {}

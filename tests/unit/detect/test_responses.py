"""The response manager: signals in, incidents, actions and outputs out."""

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


class Scene:
    """A response manager, one tenant and a clock."""

    def __init__(self, **settings: object) -> None:
        self.manager = ResponseManager(DetectSettings(**settings))
        self.tenant = TenantState("t", 100, T - 2 * DAY)  # after the tenant's first day
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
        """Pass the same signal ``times`` times, ten seconds apart; the outputs."""
        out: list[Output] = []
        for _ in range(times):
            self.now += 10.0
            subject = Ref("client_ip", id_)
            case = CandidateAlert(
                self.tenant, subject, known, finding, self.now, T, {}, {}
            )
            case.prints = list(prints)
            out += self.manager.verdict(case, Ref("user", partner))
        return out

    def action(self, id_: str = "203.0.113.9") -> str:
        """The action on an address, which is the same in this tenant and in any."""
        here = self.manager.action_for("client_ip", id_, "t", self.now)
        assert here == self.manager.action_for("client_ip", id_, None, self.now)
        return here


def types(out: list[Output]) -> list[str]:
    """The types of outputs."""
    return [line.type for line in out]


def test_behaviour_is_blocked_at_the_second_look():
    """The second signal of a behaviour opens the incident and blocks."""
    scene = Scene()
    assert scene.find(WALK) == []
    out = scene.find(WALK)
    assert types(out) == ["incident.opened", "client.blocked"]
    assert out[1].until is not None
    assert (out[0].severity, out[0].action, scene.action()) == (
        "critical",
        "block",
        "block",
    )
    assert scene.find(WALK) == []


def test_a_tag_for_behaviour_needs_one_look():
    """A signal that is not page-worthy tags at once."""
    scene = Scene()
    hint = msgspec.structs.replace(WALK, page_worthy=False)
    assert types(scene.find(hint)) == ["client.tagged"]
    assert types(scene.find(WALK)) == ["incident.opened", "client.blocked"]


def test_sources_of_a_sweep_are_one_cause_whatever_they_send():
    """Sources of probing share an incident although their prompts differ."""
    scene = Scene()
    sweep = msgspec.structs.replace(WALK, cls="probing")
    scene.find(sweep, times=2, prints=[1])
    out = scene.find(sweep, "203.0.113.10", times=2, prints=[(1 << 64) - 1])
    assert types(out) == ["incident.updated", "client.blocked"]


def test_a_scrape_with_many_sources_is_renamed_to_ddos():
    """A scraping incident becomes ``ddos`` once ``SOURCES`` sources were counted, and
    stays so.
    """
    scene = Scene()
    scrape = msgspec.structs.replace(WALK, cls="scraping")
    flood = msgspec.structs.replace(WALK, cls="ddos")
    template = Template(1, T, T)
    scene.manager.crowd(scene.tenant, template, scrape, T)
    assert types(scene.manager.crowd(scene.tenant, template, flood, T)) == []
    template.sources = {str(n) for n in range(SOURCES)}
    out = scene.manager.crowd(scene.tenant, template, flood, T)
    assert [(line.type, line.cls) for line in out] == [("incident.updated", "ddos")]
    assert scene.manager.crowd(scene.tenant, template, scrape, T) == []


def test_without_peers_a_newcomer_is_tagged_at_most():
    """On the first day of a tenant with few clients a newcomer is tagged at most."""
    scene = Scene()
    scene.tenant.born = T
    assert types(scene.find(WALK, times=3)) == ["incident.opened", "client.tagged"]
    for n in range(LEAST_PEERS):
        scene.tenant.subjects["user"].put(
            f"u{n}", SubjectState("user", f"u{n}", "t", T, T)
        )
    assert types(scene.find(WALK)) == ["incident.updated", "client.blocked"]


def test_evidence_that_stops_is_void():
    """A calm evaluation between two signals resets the count."""
    scene = Scene()
    track = SubjectState("client_ip", "203.0.113.9", "t", T, T)
    scene.manager.calm(track)
    scene.find(WALK)
    scene.manager.calm(track)
    scene.manager.calm(track)
    assert scene.find(WALK) == []


def test_mild_behaviour_has_to_last_two_seconds():
    """A behaviour with a low score must last two seconds."""
    scene = Scene()
    mild = msgspec.structs.replace(WALK, score=3.5)
    scene.find(mild)
    scene.now -= 10.0
    assert scene.find(mild) == []
    assert types(scene.find(mild)) == ["incident.opened", "client.tagged"]


def test_volume_lasts_longer_and_never_blocks():
    """Volume must last longer; it throttles known subjects at a critical score and tags
    newcomers.
    """
    scene = Scene()
    assert scene.find(MORE, times=6, known=True) == []
    assert types(scene.find(MORE, times=2, known=True)) == [
        "incident.opened",
        "client.throttled",
    ]
    fresh = Scene()
    fresh.find(MORE, times=9)
    assert fresh.action() == "tag"


def light(score: float = 9.0) -> Signal:
    """A signal that does not open an incident."""
    return msgspec.structs.replace(WALK, score=score, page_worthy=False)


def test_signals_that_are_not_page_worthy_only_tag():
    """A signal that is not page-worthy tags without an incident, whatever its score."""
    scene = Scene()
    out = scene.find(light(4.0), times=2)
    out += scene.find(light(9.0), times=3)
    assert types(out) == ["client.tagged"]
    scene.now += CALM_S + 1
    assert scene.manager.sweep(scene.now) == []
    scene.find(light(), times=2)
    assert scene.manager.close(scene.now) == []


def test_a_tag_that_gains_weight_becomes_an_incident():
    """A tag that becomes an incident keeps its id."""
    scene = Scene()
    tag = scene.find(light(), times=2)
    out = scene.find(WALK)
    assert types(out) == ["incident.opened", "client.blocked"]
    assert {line.id for line in tag + out} == {tag[0].id}
    assert types(scene.manager.close(scene.now)) == ["incident.resolved"]


def test_a_tag_joins_the_incident_of_its_partner():
    """A tagged subject joins the open incident of its partner; a partner that was only
    tagged does not suppress the incident.
    """
    scene = Scene()
    scene.find(light(), "a", times=2)
    opened = scene.find(WALK, "b", times=2)
    assert types(opened)[0] == "incident.opened"
    joined = scene.find(WALK, "a", times=2)
    assert types(joined) == ["incident.updated", "client.blocked"]
    assert {line.id for line in joined} == {opened[0].id}
    stolen = msgspec.structs.replace(light(), cls="credential_abuse")
    other = Scene()
    case = CandidateAlert(other.tenant, Ref("user", "p"), False, stolen, T, T, {}, {})
    for _ in range(2):
        case.now += 10.0
        other.manager.verdict(case, Ref("client_ip", "a"))
    spike = msgspec.structs.replace(WALK, cls="cost_spike")
    assert types(other.find(spike, "a", times=2, partner="p"))[0] == "incident.opened"


def test_a_rise_updates_the_incident():
    """A rise of severity and action updates the incident and the client."""
    scene = Scene()
    scene.find(msgspec.structs.replace(WALK, score=3.5), times=2)
    out = scene.find(WALK)
    assert types(out) == ["incident.updated", "client.blocked"]


def test_observe_mode_and_allow_list_take_no_action():
    """In observe mode and for allowed subjects incidents are reported and the action
    stays ``allow``.
    """
    for settings in (
        {"observe": True},
        {"allow": frozenset({"client_ip:203.0.113.9"})},
    ):
        scene = Scene(**settings)
        assert types(scene.find(WALK, times=3)) == ["incident.opened"]
        assert scene.action() == "allow"


def test_allowed_networks_and_tenants():
    """Addresses of an allowed network, and keys used from them, get no action."""
    scene = Scene(allow=frozenset({"network:203.0.113.0/24", "network:2001:db8::/32"}))
    scene.find(WALK, times=3)
    scene.find(WALK, "2001:db8:0:1::/64", times=3)
    scene.find(WALK, "203.0.114.9", times=3)
    actions = [
        scene.action(ip) for ip in ("203.0.113.9", "2001:db8:0:1::/64", "203.0.114.9")
    ]
    assert actions == ["allow", "allow", "block"]
    case = CandidateAlert(
        scene.tenant, Ref("user", "u"), False, WALK, scene.now, T, {}, {}
    )  # fmt: skip
    for _ in range(2):
        scene.manager.verdict(case, Ref("client_ip", "203.0.113.9"))
    assert scene.manager.action_for("user", "u", "t", scene.now) == "allow"
    assert Scene(allow=frozenset({"tenant:t"})).manager.allow_list.holds_subject(
        "t", "user", "u"
    )


def test_an_allowed_address_is_no_member_of_a_flood():
    """An allowed address that sends a flooded template gets no action; members of an
    unsure flood are tagged.
    """
    scene = Scene(allow=frozenset({"network:10.0.0.0/8"}))
    _, template = report_flood(scene)
    inside = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    outside = SubjectState("client_ip", "198.51.100.1", "t", T, T)
    user = SubjectState("user", "u", "t", T, T)
    assert scene.manager.join(scene.tenant, template, inside, user, scene.now) == []
    template.unsure = True
    joined = scene.manager.join(scene.tenant, template, outside, None, scene.now)
    assert types(joined) == ["client.tagged"]


def test_ladders_of_a_class():
    """A class may have its own ladder."""
    scene = Scene(class_ladders={"scraping": Ladder(block=99, throttle=99)})
    scene.find(WALK, times=2)
    assert scene.action() == "tag"


def test_only_so_many_known_subjects_are_blocked():
    """At most ``max_blocked_share`` of a tenant's known subjects are blocked, the next
    ones throttled; newcomers do not count.
    """
    scene = Scene(max_blocked_share=0.2)
    for n in range(10):
        id_ = f"10.0.0.{n}"
        track = SubjectState("client_ip", id_, "t", T, T)
        scene.tenant.subjects["client_ip"].put(id_, track)
    for n in range(4):
        scene.find(WALK, f"10.0.0.{n}", times=2, known=True)
    actions = [scene.action(f"10.0.0.{n}") for n in range(4)]
    assert actions == ["block", "block", "throttle", "throttle"]
    scene.find(WALK, "10.0.0.0", times=2, known=True)
    scene.find(WALK, "198.51.100.1", times=2)
    assert scene.action("198.51.100.1") == "block"


def test_user_and_address_of_one_cause_share_an_incident():
    """A user joins the incident of its address instead of opening another."""
    scene = Scene()
    first = scene.find(WALK, times=2)
    case = CandidateAlert(
        scene.tenant, Ref("user", "u"), False, MORE, scene.now, T, {}, {}
    )
    out: list[Output] = []
    for n in range(9):
        later = msgspec.structs.replace(case, now=scene.now + 20 * n)
        out += scene.manager.verdict(later, Ref("client_ip", "203.0.113.9"))
    assert types(out) == ["client.tagged"]
    assert out[0].id == first[0].id


def test_a_second_source_widens_the_incident_to_the_tenant():
    """The second source of a class turns the incident into one of the tenant."""
    scene = Scene()
    scene.find(WALK, "10.0.0.1", times=2)
    out = scene.find(WALK, "10.0.0.2", times=2)
    assert types(out) == ["incident.updated", "client.blocked"]
    assert out[0].subject == Ref("tenant", "t")
    assert types(scene.find(WALK, "10.0.0.4", times=2)) == ["client.blocked"]
    scene.find(MORE, "10.0.0.3", times=9)
    assert sorted(i.subject.kind for i in scene.manager.incidents.values()) == [
        "client_ip",
        "tenant",
    ]


def test_single_sources_of_different_classes_are_different_causes():
    """Single sources of different classes share an incident only if their prompts are
    alike; an incident of several sources takes in every class.
    """
    scene = Scene()
    scene.find(WALK, "10.0.0.1", times=2, prints=[5])
    flood = msgspec.structs.replace(WALK, cls="ddos")
    apart = scene.find(flood, "10.0.0.2", times=2, prints=[5 ^ (1 << 40) - 1])
    assert types(apart) == ["incident.opened", "client.blocked"]
    alike = scene.find(flood, "10.0.0.3", times=2, prints=[4])
    assert types(alike) == ["incident.updated", "client.blocked"]
    probe = msgspec.structs.replace(WALK, cls="probing")
    assert types(scene.find(probe, "10.0.0.4", times=2)) == ["client.blocked"]


def test_blocks_end_before_their_incident():
    """The block ends first, and the incident half an hour after the last evidence."""
    scene = Scene()
    scene.find(WALK, times=2)
    assert types(scene.manager.sweep(scene.now + 601)) == ["client.unblocked"]
    assert types(scene.manager.sweep(scene.now + CALM_S + 1)) == ["incident.resolved"]
    assert scene.manager.sweep(scene.now + 200_000) == []
    assert scene.manager.states == {}
    assert scene.action() == "allow"


def test_retries_of_a_blocked_client_keep_the_incident_open():
    """Retries while blocked keep the incident open; those of a tagged client do not."""
    scene = Scene()
    scene.find(WALK, times=2)
    thief = Event(scene.now + 1000, "203.0.113.9", "anonymous", "t")
    scene.manager.observe_blocked_retry(thief)
    scene.manager.observe_blocked_retry(msgspec.structs.replace(thief, ts=scene.now))
    scene.manager.observe_blocked_retry(
        msgspec.structs.replace(thief, client_ip="203.0.113.10")
    )
    state = scene.manager.states["t", "client_ip", "203.0.113.9"]
    state.until = scene.now + 9000
    assert scene.manager.sweep(scene.now + CALM_S + 1) == []
    state.action = "tag"
    scene.manager.observe_blocked_retry(
        msgspec.structs.replace(thief, ts=scene.now + 2000)
    )
    assert types(scene.manager.sweep(thief.ts + CALM_S + 1)) == ["incident.resolved"]
    state.action = "block"
    scene.manager.observe_blocked_retry(thief)  # the incident is resolved already
    assert scene.manager.incidents == {}


def test_a_block_may_outlive_its_incident():
    """A block whose incident was resolved ends without an output, and so does a tag."""
    scene = Scene()
    scene.find(WALK, times=2)
    assert types(scene.manager.close(scene.now)) == ["incident.resolved"]
    assert scene.manager.sweep(scene.now + 601) == []
    scene.find(msgspec.structs.replace(WALK, score=3.5), "10.9.9.9", times=2)
    assert scene.action("10.9.9.9") == "tag"
    scene.now += 400
    assert scene.action("10.9.9.9") == "allow"
    assert scene.manager.sweep(scene.now) == []


def test_one_subject_in_two_tenants():
    """Without a tenant the strictest action in any tenant counts."""
    scene = Scene()
    scene.find(WALK, times=2)
    other = CandidateAlert(
        TenantState("b", 9, T),
        Ref("client_ip", "203.0.113.9"),
        False,
        msgspec.structs.replace(WALK, score=3.2),
        scene.now,
        T,
        {},
        {},
    )
    for n in (5, 10):
        scene.manager.verdict(
            msgspec.structs.replace(other, now=scene.now + n), Ref("", "")
        )
    ask = scene.manager.action_for
    assert ask("client_ip", "203.0.113.9", "b", scene.now) == "tag"
    assert ask("client_ip", "203.0.113.9", None, scene.now) == "block"
    scene.manager.sweep(scene.now + 90_000)
    assert ask("client_ip", "203.0.113.9", "b", scene.now) == "allow"


def report_flood(scene: Scene, score: float = 6.0) -> tuple[list[Output], Template]:
    """Report a flooded template; the outputs and the template."""
    template = Template(print=1, born=T, last=T)
    finding = Signal("ddos", score, behaviour=True, reasons=("Flood.",))
    return scene.manager.crowd(scene.tenant, template, finding, scene.now), template


def test_newcomers_that_send_a_flooded_template_are_blocked():
    """A newcomer that sends a flooded template is blocked at once under the tenant's
    incident, a known user never.
    """
    scene = Scene()
    out, template = report_flood(scene)
    assert types(out) == ["incident.opened"]
    assert out[0].subject == Ref("tenant", "t")
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    user = SubjectState("user", "u", "t", T - 1e6, T, answered=99)
    joined = scene.manager.join(scene.tenant, template, ip, user, scene.now)
    assert types(joined) == ["client.blocked"]
    assert joined[0].id == out[0].id
    assert scene.manager.join(scene.tenant, template, ip, None, scene.now) == []
    assert (ip.judged, user.judged) == (True, False)
    assert types(report_flood(scene, 12.0)[0]) == []


def test_a_flood_takes_over_the_incident_of_its_first_source():
    """A flood takes over the incident of a single source with the same template."""
    scene = Scene()
    first = scene.find(WALK, times=2, prints=[3])
    out, _ = report_flood(scene)
    assert types(out) == ["incident.updated"]
    assert (out[0].id, out[0].subject) == (first[0].id, Ref("tenant", "t"))


def test_a_flood_without_an_incident_has_no_members():
    """A flood that is too weak for an incident gets no action."""
    scene = Scene()
    assert report_flood(scene, 2.0)[0] == []
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    template = Template(print=1, born=T, last=T)
    assert scene.manager.join(scene.tenant, template, ip, None, scene.now) == []


def test_floods_of_one_tenant_are_one_incident():
    """A worse flood of another class updates the tenant's incident."""
    scene = Scene()
    report_flood(scene, 4.0)
    finding = Signal("scraping", 7.0, behaviour=True, reasons=("Worse.",))
    template = Template(print=2, born=T, last=T)
    out = scene.manager.crowd(scene.tenant, template, finding, scene.now)
    assert types(out) == ["incident.updated"]
    assert out[0].reasons == ("Worse.",)


def test_surges_and_outages_are_information():
    """Surges and outages open one informational incident; a surge is not reported
    beside a flood.
    """
    scene = Scene()
    surge = Signal("surge", 9.0, behaviour=False, reasons=("Tide.",))
    assert [o.severity for o in scene.manager.whole(scene.tenant, surge, T)] == ["info"]
    assert scene.manager.whole(scene.tenant, surge, T) == []
    outage = Signal("outage", 9.0, behaviour=False, reasons=("Down.",))
    assert types(scene.manager.whole(scene.tenant, outage, T)) == ["incident.opened"]
    other = Scene()
    report_flood(other)
    assert other.manager.whole(other.tenant, surge, T) == []
    other.tenant.name = "elsewhere"
    assert types(other.manager.whole(other.tenant, surge, T)) == ["incident.opened"]


def test_actions_survive_a_restart():
    """A saved and loaded state has the same actions and incidents."""
    scene = Scene()
    scene.find(WALK, times=2)
    fresh = ResponseManager(DetectSettings())
    fresh.load(msgspec.msgpack.encode(scene.manager.state()))
    assert fresh.action_for("client_ip", "203.0.113.9", None, scene.now) == "block"
    assert fresh.incidents == scene.manager.incidents


def test_a_sudden_signal_needs_two_evaluations():
    """A sudden signal acts at the second evaluation: it throttles at a critical score,
    else tags.
    """
    sudden = msgspec.structs.replace(MORE, sudden=True)
    scene = Scene()
    assert types(scene.find(sudden, times=2)) == ["incident.opened", "client.throttled"]
    mild = msgspec.structs.replace(sudden, score=4.0)
    assert types(Scene().find(mild, times=2)) == ["incident.opened", "client.tagged"]


def test_a_volume_incident_takes_the_class_of_the_behaviour():
    """A volume incident takes the class of the behaviour once that is found."""
    scene = Scene()
    scene.find(msgspec.structs.replace(MORE, sudden=True), times=2)
    out = scene.find(WALK)
    assert types(out) == ["incident.updated", "client.blocked"]
    assert {line.cls for line in out} == {"scraping"}


def elsewhere(scene: Scene, name: str = "s") -> TenantState:
    """Another tenant of the same service."""
    return TenantState(name, 100, T - 2 * DAY)


def test_an_outage_of_several_tenants_is_one():
    """An outage of a second tenant widens the incident to the service; further tenants
    add no output.
    """
    scene = Scene()
    outage = Signal("outage", 9.0, behaviour=False, reasons=("Down.",))
    first = scene.manager.whole(scene.tenant, outage, T)
    second = scene.manager.whole(elsewhere(scene), outage, T)
    assert types(first + second) == ["incident.opened", "incident.updated"]
    assert first[0].id == second[0].id
    assert (second[0].tenant, second[0].subject) == ("*", Ref("tenant", "*"))
    assert scene.manager.whole(elsewhere(scene), outage, T) == []


def test_a_flood_in_several_tenants_is_one_incident():
    """A flood with the same template in another tenant is the same incident, with
    another template a new one.
    """
    scene = Scene()
    report_flood(scene)
    flood = Signal("ddos", 6.0, behaviour=True, reasons=("Flood.",))
    same, other = Template(print=3, born=T, last=T), Template(2**60 - 1, T, T)
    wider = scene.manager.crowd(elsewhere(scene), same, flood, T)
    assert [(line.type, line.tenant) for line in wider] == [("incident.updated", "*")]
    apart = scene.manager.crowd(elsewhere(scene, "r"), other, flood, T)
    assert [(line.type, line.tenant) for line in apart] == [("incident.opened", "r")]


def test_blocks_of_a_flood_start_at_forty_minutes():
    """Members of a flood are blocked for 40 minutes, and for 80 the next time."""
    scene = Scene()
    _, template = report_flood(scene)
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    key = ("t", "client_ip", "10.0.0.1")
    scene.manager.join(scene.tenant, template, ip, None, T)
    assert scene.manager.states[key].until == T + 2400
    next(iter(scene.manager.incidents.values())).last = T + 2400  # others keep it open
    scene.manager.sweep(T + 2401)
    scene.manager.join(scene.tenant, template, ip, None, T + 2402)
    assert scene.manager.states[key].until == T + 2402 + 4800


def test_clients_older_than_the_template_are_no_members():
    """A newcomer that was seen 15 minutes before the template is no member."""
    scene = Scene()
    _, template = report_flood(scene)
    ip = SubjectState("client_ip", "10.0.0.1", "t", T - 900, T)
    assert scene.manager.join(scene.tenant, template, ip, None, T) == []
    assert not ip.judged


def test_members_of_a_weak_flood_are_throttled():
    """Members of a flood that is not critical are throttled."""
    scene = Scene()
    _, template = report_flood(scene, 4.5)
    ip = SubjectState("client_ip", "10.0.0.1", "t", T, T)
    assert types(scene.manager.join(scene.tenant, template, ip, None, T)) == [
        "client.throttled"
    ]


def test_enforcement_states_are_bounded(monkeypatch):
    """Actions beyond the bound are counted but not kept, and near the bound calm states
    are dropped sooner.
    """
    monkeypatch.setattr("gateway.detect.enforcement.MOST_STATES", 4)
    scene = Scene()
    _, template = report_flood(scene)
    for n in range(6):
        track = SubjectState("client_ip", f"10.0.0.{n}", "t", T, T)
        scene.manager.join(scene.tenant, template, track, None, T)
    assert (len(scene.manager.states), scene.manager.unlisted) == (4, 2)
    scene.manager.sweep(T + 2401)
    assert scene.manager.states == {}

"""What clients that upstreams refuse can do to those which they serve: nothing."""

from __future__ import annotations

from gateway.detect.blocked_templates import (
    blocked_templates,
    established_clients,
    refuses,
    spared_users,
)
from gateway.detect.engine import Engine
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.detect.model import DetectSettings, Event
from gateway.detect.prompts import learn_prompt
from gateway.detect.responses import ResponseManager
from gateway.detect.subject import DENIED, SubjectState
from gateway.detect.templates import Template
from gateway.detect.tenant import Subjects, TenantState
from gateway.limits.gate import SERVED, SETTLED, pack_client_hashes

T = 1_780_000_000.0
DAY = 86_400.0
PRINT = prompt_fingerprint(
    "Translate the following customer message into German and keep the tone friendly"
)


def event(ts: float, ip: str, user: str, status: int = 200, print_: int | None = None):
    ok = status == 200
    tokens = (300, 200) if ok else (0, 0)
    return Event(
        ts, ip, user, "acme", "m", "chat.completions", *tokens, status=status,
        fingerprint=print_,
    )  # fmt: skip


def with_history(days: float = 2.0, users: int = 30) -> tuple[Engine, float]:
    """An engine that has served some users for days, with prompts of their own."""
    engine = Engine(DetectSettings())
    events = [
        event(
            T + n * 1200.0 + u * 7.0,
            f"203.0.113.{u}",
            f"key_{u}",
            print_=hash((u, n)) & ((1 << 64) - 1),
        )
        for u in range(users)
        for n in range(int(days * 72))
    ]
    for one in sorted(events, key=lambda one: one.ts):
        engine.observe(one)
    return engine, T + days * DAY + 600.0


def flood(engine: Engine, start: float, address: str, status: int, n: int = 240):
    """Prompts of one template from twelve addresses (``address`` with a place)."""
    out = []
    for i in range(n):
        ip = address.format(i % 12)
        out += engine.observe(event(start + i / 2, ip, f"bad_{i}", status, PRINT))
    return out


def blocked(out) -> set[tuple[str, str]]:
    return {
        (one.subject.kind, one.subject.id)
        for one in out
        if one.type == "client.blocked"
    }


def test_prompts_of_refused_clients_block_no_content():
    """A flood of prompts that upstreams answer 401 blocks its addresses, not the
    template; a new client that is served may use it.
    """
    engine, now = with_history()
    out = flood(engine, now, "198.18.{}.1", 401)
    assert ("client_ip", "198.18.3.1") in blocked(out)
    assert not list(blocked_templates(engine, engine.clock.now))
    served = engine.observe(event(now + 121, "192.0.2.7", "key_new", 200, PRINT))
    served += engine.observe(event(now + 122, "192.0.2.8", "key_3", 200, PRINT))
    assert blocked(served) == set()


def test_retries_of_blocked_clients_are_no_accepted_prompts():
    """When the gateway refuses the members, the template counts as refused as before."""
    engine, now = with_history()
    flood(engine, now, "198.18.{}.1", 401)
    flood(engine, now + 120, "198.18.{}.1", 0, n=600)
    assert not list(blocked_templates(engine, engine.clock.now))


def test_accepted_floods_block_their_template():
    """A flood that upstreams answer blocks its template for those that are new."""
    engine, now = with_history()
    flood(engine, now, "198.18.{}.1", 200)
    assert list(blocked_templates(engine, engine.clock.now))
    new = {"client_ip": "192.0.2.7", "user": "key_new"}
    assert refuses(engine, "acme", new, PRINT)


def test_a_flood_of_one_site_blocks_no_content():
    """Twelve /64 of one /48 are one sender: its own addresses are blocked, not the
    template, and no newcomer elsewhere.
    """
    engine, now = with_history()
    out = flood(engine, now, "2001:db8:7:{}::/64", 200)
    assert ("client_ip", "2001:db8:7:3::/64") in blocked(out)
    assert not list(blocked_templates(engine, engine.clock.now))
    served = engine.observe(event(now + 121, "2001:db8:8::/64", "key_new", 200, PRINT))
    assert blocked(served) == set()


def test_requests_without_answer_count_as_accepted_unless_refused_before():
    """A request in progress counts as accepted; a refusal by the gateway of an address
    that upstreams have refused, or that is blocked, does not.
    """
    manager, tenant = ResponseManager(DetectSettings()), TenantState("acme", 100, T)
    ip = SubjectState("client_ip", "198.18.0.1", "acme", T, T)
    opened = event(T, ip.id, "u", 0, PRINT)

    def learn() -> Template:
        learn_prompt(manager, tenant, opened, ip, None, refused=False)
        found, _ = tenant.templates.find(PRINT)
        assert found is not None
        return found

    assert learn().accepted == 1
    state = manager.states.obtain(("acme", "client_ip", ip.id))
    state.action, state.until = "block", T + 60
    assert learn().accepted == 1
    state.action = "allow"
    ip.outcomes[DENIED] = 1
    assert learn().accepted == 1


def test_refused_clients_do_not_evict_those_that_are_served():
    """Thousands of ids without a good answer leave all served subjects in memory."""
    subjects = Subjects(80)
    for n in range(40):
        subjects.put(f"u{n}", SubjectState("user", f"u{n}", "t", T, T, answered=12))
    for n in range(10):
        subjects.put(f"n{n}", SubjectState("user", f"n{n}", "t", T, T, answered=1))
    for n in range(5000):
        subjects.put(f"s{n}", SubjectState("user", f"s{n}", "t", T, T))
    assert len(subjects) == 80
    assert all(subjects.get(f"u{n}") for n in range(40))
    assert all(subjects.get(f"n{n}") for n in range(10))
    assert subjects.get("s4999") is not None
    assert subjects.get("s0") is None


def test_subjects_with_few_answers_do_not_evict_known_ones():
    """Ids that were answered once make room for each other, then known ones do."""
    subjects = Subjects(80)
    for n in range(40):
        subjects.put(f"u{n}", SubjectState("user", f"u{n}", "t", T, T, answered=12))
    for n in range(5000):
        subjects.put(f"n{n}", SubjectState("user", f"n{n}", "t", T, T, answered=1))
    assert all(subjects.get(f"u{n}") for n in range(40))
    for n in range(40, 200):
        subjects.put(f"u{n}", SubjectState("user", f"u{n}", "t", T, T, answered=12))
    assert len(subjects) == 80
    assert subjects.get("u199") is not None
    assert subjects.get("u0") is None


def test_a_subject_rises_with_its_answers():
    """A subject is kept with those that are served once it is."""
    subjects = Subjects(16)
    track = SubjectState("user", "u", "t", T, T)
    subjects.put("u", track)
    track.answered = 12
    assert subjects.get("u") is track
    for n in range(100):
        subjects.put(f"s{n}", SubjectState("user", f"s{n}", "t", T, T))
    assert subjects.get("u") is track
    assert len(subjects.values()) == 16


def test_known_clients_outlive_a_flood_of_one_off_clients():
    """Known users are known after a flood of ids beyond ``max_subjects``."""
    engine = Engine(DetectSettings(max_subjects=400))
    for n in range(20):
        engine.observe(event(T + n, "203.0.113.1", "key_1"))
    for n in range(3000):
        engine.observe(event(T + 100 + n / 10, f"2001:db8:{n:x}::/64", f"b{n}", 401))
    tenant = engine.tenants["acme"]
    assert tenant.users.get("key_1").answered == 20
    assert tenant.population() <= 800
    assert established_clients(tenant, T + 90.0, engine.clock.now)


def test_users_that_upstreams_serve_are_spared():
    """A user with a good answer is served, one with known habits settled, unless its
    key is in many new networks; a refused one is neither.
    """
    tenant = TenantState("acme", 100, T)
    users = [
        SubjectState("user", "new", "acme", T, T, answered=1),
        SubjectState("user", "old", "acme", T - 2 * DAY, T, answered=50),
        SubjectState(
            "user", "hot", "acme", T - 2 * DAY, T, answered=50, new_networks=9.0,
            novelty_at=T,
        ),
        SubjectState("user", "bad", "acme", T - 2 * DAY, T),
    ]  # fmt: skip
    for user in users:
        tenant.users.put(user.id, user)
    marks = spared_users(tenant, T)
    wanted = [(SERVED, "new"), (SERVED, "old"), (SETTLED, "old"), (SERVED, "hot")]
    assert sorted(marks[n : n + 4] for n in range(0, len(marks), 4)) == sorted(
        pack_client_hashes([one]) for one in wanted
    )


def test_known_users_pass_a_template_block_at_a_new_address():
    """A user that was served for two days may send a flooded template from anywhere."""
    engine, now = with_history()
    flood(engine, now, "198.18.{}.1", 200)
    at_new = {"client_ip": "192.0.2.7", "user": "key_3"}
    assert not refuses(engine, "acme", at_new, PRINT)
    assert refuses(engine, "acme", {"client_ip": "192.0.2.7"}, PRINT)

"""The block list and the over-limit cache."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import pytest

from gateway.core.model import DETECTOR, Block, Limit, Policy, Tenant
from gateway.identity.cidr import parse_address
from gateway.identity.identify import Identifier, with_body_user
from gateway.limits import gate as module
from gateway.limits.gate import SERVED, SETTLED, Gate, pack_client_hashes
from gateway.limits.plans import PlanBook
from gateway.limits.ports import Reserved

MINUTE = 60_000_000
NOW = 1_795_000_000.0


class Head(NamedTuple):
    method: str = "POST"
    query: str = ""
    fields: Mapping[bytes, bytes] = MappingProxyType({})
    credentials: tuple[tuple[bytes, bytes], ...] = ()


def client(ip="203.0.113.9", tenant="acme", user="alice", allow=(), limits=()):
    policy = Policy("p", allow=allow, limits=limits)
    policy = msgspec.structs.replace(policy, user_from=("body",))
    key_hash = "sha256:" + hashlib.sha256(b"sk-a").hexdigest()
    identifier = Identifier([Tenant(tenant, policy, (key_hash,))], b"pepper")
    head = Head(credentials=((b"authorization", b"Bearer sk-a"),))
    return with_body_user(identifier.identify(ip, head, NOW), user)


def gate_with(*blocks: Block) -> Gate:
    gate = Gate()
    gate.replace_blocks(blocks)
    return gate


def blocked(gate: Gate, identity=None, now=NOW) -> bool:
    return gate.find_block(identity or client(), now) is not None


# -- blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "subject", "tenant", "hit"),
    [
        ("client_ip", "203.0.113.9", None, True),
        ("client_ip", "::ffff:203.0.113.9", None, True),
        ("client_ip", "203.0.113.8", None, False),
        ("client_ip", "203.0.113.9", "acme", True),
        ("client_ip", "203.0.113.9", "beta", False),
        ("user", "alice", "acme", True),
        ("user", "bob", None, False),
        ("tenant", "acme", None, True),
        ("tenant", "beta", None, False),
        ("network", "203.0.113.0/24", None, True),
        ("network", "203.0.113.0/24", "acme", True),
        ("network", "203.0.113.0/24", "beta", False),
        ("network", "198.51.100.0/24", None, False),
        ("colour", "blue", None, False),
    ],
)
def test_blocks_apply_to_their_subject_only(kind, subject, tenant, hit):
    """A block applies to its kind, id and tenant; tenant null applies everywhere."""
    assert blocked(gate_with(Block(kind, subject, tenant))) is hit


@pytest.mark.parametrize(
    ("block", "hit"),
    [
        (Block("client_ip", "203.0.113.9"), True),
        (Block("tenant", "acme"), True),
        (Block("network", "203.0.113.0/24"), True),
        (Block("user", "anonymous"), False),
    ],
)
def test_blocks_of_the_heads_user_wait_for_the_body(block, hit):
    """Where the body may name the user, only blocks of the head's user wait for it."""
    gate, identity = gate_with(block), client(user=None)
    assert identity.takes_body_user
    assert (gate.find_head_block(identity, NOW) is not None) is hit
    assert blocked(gate, identity)
    assert gate.find_head_block(client(user=None, allow=("tenant:acme",)), NOW) is None
    assert gate_with().find_head_block(identity, NOW) is None


def test_the_heads_user_is_refused_where_no_body_names_another():
    """Where the body cannot name the user, the head's user is refused at once."""
    policy = Policy("p", user_from=("credential",))
    identity = Identifier([Tenant("acme", policy)], b"pepper").identify(
        "203.0.113.9", Head(), NOW
    )
    gate = gate_with(Block("user", "anonymous"))
    assert (
        gate.find_head_block(identity, NOW)
        is gate.find_block(identity, NOW)
        is not None
    )


def test_ipv6_is_blocked_by_its_64():
    """A block of an IPv6 client applies to its whole /64."""
    gate = gate_with(Block("client_ip", "2001:db8::1"))
    assert blocked(gate, client(ip="2001:db8::2"))
    assert not blocked(gate, client(ip="2001:db8:0:1::2"))


def test_blocks_expire():
    """A block ends at ``until``, before and after ``drop_expired``."""
    gate = gate_with(
        Block("client_ip", "203.0.113.9", until=NOW + 10),
        Block("user", "bob", until=NOW + 99),
        Block("user", "carl"),
    )
    assert blocked(gate, now=NOW + 9.9)
    assert not blocked(gate, now=NOW + 10)
    assert gate.drop_expired(NOW + 10) == 1
    assert len(gate) == 2


def test_a_tenants_block_outlives_the_service_wide_one():
    """Two blocks of one subject do not hide each other."""
    gate = gate_with(
        Block("client_ip", "203.0.113.9", None, until=NOW - 1),
        Block("client_ip", "203.0.113.9", "acme"),
    )
    gate.remove_block("client_ip", "203.0.113.9", None)
    assert blocked(gate)


def test_a_new_block_replaces_the_old_one():
    """A new block of the same subject replaces the old one."""
    gate = gate_with(Block("user", "alice", until=NOW - 1))
    assert gate.add_block(Block("user", "alice"))
    assert (len(gate), blocked(gate)) == (1, True)


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("client_ip", "203.0.113.9"), ("network", "203.0.113.0/24")],
)
def test_removed_blocks_are_gone(kind, subject):
    """Removing a block removes only that one; removing it twice does no harm."""
    gate = gate_with(Block(kind, subject), Block(kind, subject, "beta"))
    gate.remove_block(kind, subject, None)
    gate.remove_block(kind, subject, None)
    assert not blocked(gate)
    assert blocked(gate, client(tenant="beta"))
    gate.remove_block(kind, subject, "beta")
    assert not blocked(gate, client(tenant="beta"))


def test_a_full_list_replaces_the_old_one():
    """Replacing the list removes every block that is not on the new one."""
    gate = gate_with(Block("user", "alice"), Block("network", "203.0.113.0/24"))
    gate.replace_blocks([Block("user", "bob")])
    assert not blocked(gate)


def test_the_list_is_bounded():
    """Blocks beyond the bound are counted and dropped; known subjects can still change."""
    gate = Gate(max_blocks=1)
    assert gate.add_block(Block("user", "alice", until=NOW - 1))
    assert not gate.add_block(Block("user", "bob"))
    assert gate.add_block(Block("user", "alice"))
    assert (len(gate), gate.dropped_blocks) == (1, 1)


def test_an_unreadable_network_is_dropped():
    """A block with an unreadable network is counted and dropped."""
    gate = gate_with(Block("network", "nonsense"))
    assert (len(gate), gate.dropped_blocks) == (0, 1)


# -- template blocks -------------------------------------------------------------------

FINGERPRINT = 0x0123456789ABCDEF
TEMPLATE_BLOCK = Block("prompts", f"{FINGERPRINT:016x}", "acme", until=NOW + 60)
ESTABLISHED = [("client_ip", "203.0.113.9"), ("user", "alice")]


def with_template_block(*blocks: Block, established=()) -> Gate:
    gate = gate_with(*(blocks or (TEMPLATE_BLOCK,)))
    gate.set_established({"acme": pack_client_hashes(established)})
    return gate


def refused(gate: Gate, identity=None, fingerprint=FINGERPRINT, now=NOW) -> bool:
    return gate.find_template_block(identity or client(), fingerprint, now) is not None


@pytest.mark.parametrize(
    ("flips", "hit"), [(0, True), (0xFFF, True), (0x1FFF, False), (~FINGERPRINT, False)]
)
def test_a_blocked_template_is_refused_for_new_clients(flips, hit):
    """A template block refuses prompts up to 12 bits away, and no other prompts."""
    assert (
        refused(with_template_block(), fingerprint=(FINGERPRINT ^ flips) % 2**64) is hit
    )
    assert not blocked(with_template_block())


def test_established_clients_pass_a_template_block():
    """A client passes if both its address and its user are established."""
    assert not refused(with_template_block(established=ESTABLISHED))
    assert not refused(
        with_template_block(established=ESTABLISHED[:1]), client(user=None)
    )
    for one in ESTABLISHED:
        assert refused(with_template_block(established=[one]))


def test_a_template_block_has_a_tenant_and_an_end():
    """A template block does not apply to other tenants, after its end, after its
    removal, or to clients on the allow list.
    """
    assert not refused(with_template_block(), client(tenant="beta"))
    assert not refused(with_template_block(), client(allow=("client_ip:203.0.113.9",)))
    gate = with_template_block()
    assert not refused(gate, now=NOW + 60)
    gate.remove_block("prompts", TEMPLATE_BLOCK.id, "acme")
    assert not refused(gate)
    assert not gate.template_blocks
    gate.add_block(TEMPLATE_BLOCK)
    gate.replace_blocks([])
    assert not gate.template_blocks


def test_template_blocks_need_the_established_clients():
    """Template blocks refuse nothing before the established clients are known."""
    assert not refused(gate_with(TEMPLATE_BLOCK))


def test_template_blocks_are_bounded_and_readable(monkeypatch):
    """Template blocks beyond the bound or without a fingerprint are counted and
    dropped; known ones can be extended.
    """
    monkeypatch.setattr(module, "MAX_TEMPLATE_BLOCKS", 1)
    gate = with_template_block(
        TEMPLATE_BLOCK, Block("prompts", "1", "acme"), TEMPLATE_BLOCK
    )
    assert (len(gate.template_blocks), gate.dropped_blocks) == (1, 1)
    assert not gate_with(Block("prompts", "nonsense", "acme")).template_blocks


def test_allow_listed_clients_are_never_blocked():
    """Blocks do not apply to clients on the allow list."""
    gate = gate_with(Block("network", "203.0.113.0/24"))
    assert not blocked(gate, client(allow=("client_ip:203.0.113.9",)))


def test_anonymous_clients_are_refused_by_service_wide_blocks():
    """Clients without a tenant are refused by service-wide blocks of addresses."""
    address = parse_address("203.0.113.9")
    holds = [
        gate_with(*blocks).find_anonymous_block("203.0.113.9", address, NOW) is not None
        for blocks in (
            [],
            [Block("client_ip", "203.0.113.9")],
            [Block("network", "203.0.113.0/24")],
            [Block("client_ip", "203.0.113.9", "acme")],
            [Block("user", "alice")],
        )
    ]
    assert holds == [False, True, True, False, False]


# -- over-limit cache ------------------------------------------------------------------

LIMITS = (
    Limit("user", "requests", 10, MINUTE),
    Limit("user", "tokens", 10, MINUTE),
    Limit("user", "completion_tokens", 10, MINUTE),
)


def full(place: int, frees_at: float = 30.0, mono: float = 10.0):
    plan = PlanBook().plan(client(limits=LIMITS), "", NOW)
    reserved = Reserved(plan, (1, 5, 5))
    reserved.violated, reserved.frees_at = place, frees_at
    gate = Gate()
    gate.remember(reserved, mono)
    return gate, plan


def test_cached_cell_refuses_until_it_has_room():
    """A cached cell refuses from the head alone, with the remaining time."""
    gate, plan = full(0)
    no = gate.check_head(plan, 12.0, billable=False)
    assert (no.limit, no.retry_after) == ("user.requests.1m", 18.0)
    assert gate.check_head(plan, 30.0, billable=False) is None
    assert gate.over_limit_cells == 1


@pytest.mark.parametrize(
    ("place", "billable", "hit"),
    [(1, True, True), (1, False, False), (2, True, False)],
)
def test_head_refuses_only_what_must_cost(place, billable, hit):
    """From the head, a cached cell refuses only requests that must add to it."""
    gate, plan = full(place)
    assert (gate.check_head(plan, 12.0, billable=billable) is not None) is hit


@pytest.mark.parametrize(
    ("costs", "hit"), [((1, 5, 5), True), ((1, 5, 0), False), ((0, 0, 1), True)]
)
def test_known_costs_are_checked_in_every_cell(costs, hit):
    """With known costs, a cached cell refuses requests that add to it."""
    gate, plan = full(2)
    assert (gate.check_costs(plan, costs, 12.0) is not None) is hit
    assert gate.check_costs(plan, costs, 31.0) is None


def test_a_cell_that_may_free_at_any_time_is_not_cached():
    """A cell that a refund may free is not cached."""
    for place, frees_at in ((0, 0.0), (0, 10.0), (-1, 99.0)):
        gate, plan = full(place, frees_at)
        assert gate.over_limit_cells == 0
        assert gate.check_head(plan, 5.0, billable=True) is None
        assert gate.check_costs(plan, (1, 5, 5), 5.0) is None


def test_reset_counters_leave_the_cache():
    """A reset removes cells from the cache one by one, a reload all of them."""
    gate, plan = full(0)
    gate.forget([cell.key for cell in plan.cells])
    assert gate.check_head(plan, 12.0, billable=True) is None
    gate, plan = full(0)
    gate.forget_all()
    assert gate.check_head(plan, 12.0, billable=True) is None


# -- tags and throttles ------------------------------------------------------------------


def verdict(action, kind="client_ip", id_="203.0.113.9", tenant="acme", **fields):
    """A tag, a throttle or a block, by the detector."""
    return Block(kind, id_, tenant, by="detector", action=action, **fields)


def test_tagged_and_throttled_clients_pass_the_gate():
    """Only a block refuses; tag and throttle are looked up separately."""
    gate = gate_with(verdict("tag"), verdict("throttle", "user", "alice", rate=9))
    assert not blocked(gate)
    assert gate.find_enforcement(client(), NOW).rate == 9
    assert gate.find_enforcement(client(user="bob"), NOW).action == "tag"
    assert gate.find_enforcement(client(tenant="beta"), NOW) is None


def test_the_lowest_of_several_rates_counts():
    """A throttle goes before a tag, a lower rate before a higher one."""
    slow = verdict("throttle", "user", "alice", rate=3)
    gate = gate_with(verdict("throttle", rate=9), slow)
    assert gate.find_enforcement(client(), NOW) == slow
    gate.remove_block("user", "alice", "acme")
    gate.add_block(verdict("throttle", "user", "alice", rate=12))
    assert gate.find_enforcement(client(), NOW).rate == 9


def test_enforcement_states_end_and_change():
    """Enforcement states end by time, removal, replacement, and for clients on the
    allow list.
    """
    gate = gate_with(verdict("tag", until=NOW + 9))
    assert gate.find_enforcement(client(allow=("client_ip:203.0.113.9",)), NOW) is None
    assert gate.find_enforcement(client(), NOW + 9) is None
    gate.add_block(verdict("block", until=NOW + 9))
    assert (gate.enforcement_states, blocked(gate)) == (0, True)
    assert gate.find_enforcement(client(), NOW) is None
    gate.add_block(verdict("throttle"))
    assert gate.enforcement_states == 1
    gate.remove_block("client_ip", "203.0.113.9", "acme")
    assert gate.enforcement_states == 0
    assert gate.fast_path


def test_a_block_for_the_anonymous_tenant_exempts_known_clients():
    """A block for the anonymous tenant refuses only clients without a tenant."""
    gate = gate_with(verdict("block", tenant="anonymous"))
    assert gate.find_anonymous_block("203.0.113.9", None, NOW) is not None
    assert not blocked(gate)


# -- users that an address block spares ------------------------------------------------


def keyed_client(ip="203.0.113.9", user_from=("credential",)):
    policy = Policy("p", user_from=user_from)
    key_hash = "sha256:" + hashlib.sha256(b"sk-a").hexdigest()
    identifier = Identifier([Tenant("acme", policy, (key_hash,))], b"pepper")
    head = Head(credentials=((b"authorization", b"Bearer sk-a"),))
    return identifier.identify(ip, head, NOW)


def address_verdict(action="block", cls="probing", by=DETECTOR) -> Block:
    return Block(
        "client_ip", "203.0.113.9", "acme", NOW + 60, "", NOW, by, action, cls, rate=1
    )


@pytest.mark.parametrize(
    ("kind", "cls", "passes"),
    [
        (SERVED, "probing", True),
        (SERVED, "scraping", False),
        (SETTLED, "scraping", True),
        ("user", "probing", False),
    ],
)
def test_a_verdict_on_an_address_spares_users_that_upstreams_serve(kind, cls, passes):
    """Detection's block or throttle of an address does not apply to users that were
    served; where it is not for refusals, to settled ones.
    """
    who = keyed_client()
    other = keyed_client(user_from=("body",))
    for action in ("block", "throttle"):
        gate = gate_with(address_verdict(action, cls))
        gate.set_spared({"acme": pack_client_hashes([(kind, who.user)])})
        found = gate.find_block if action == "block" else gate.find_enforcement
        assert (found(who, NOW) is None) is passes
        assert found(other, NOW) is not None, "anonymous"


def test_other_blocks_spare_nobody():
    """An operator's block of an address, and a verdict in a tenant whose users are not
    known, apply to all.
    """
    who = keyed_client()
    spared = pack_client_hashes([(SERVED, who.user), (SETTLED, who.user)])
    gate = gate_with(address_verdict(by="operator"))
    gate.set_spared({"acme": spared})
    assert blocked(gate, who)
    gate = gate_with(address_verdict())
    gate.set_spared({"beta": spared})
    assert blocked(gate, who)


def test_a_verdict_on_an_address_waits_for_the_bodys_user():
    """Where the body names the user, a verdict on the address is applied after it is
    read, as it may spare that user.
    """
    gate = gate_with(address_verdict())
    unnamed = client(user=None)
    assert gate.find_head_block(unnamed, NOW) is not None
    gate.set_spared({"acme": pack_client_hashes([(SERVED, "alice")])})
    assert gate.find_head_block(unnamed, NOW) is None
    assert blocked(gate, unnamed)
    assert blocked(gate, client(user="bob"))
    assert not blocked(gate, client(user="alice"))


def test_settled_users_pass_a_template_block_at_any_address():
    """A settled user passes a template block at an address that nobody knows; a name
    that the body states does not.
    """
    block = Block("prompts", f"{FINGERPRINT:016x}", "acme", NOW + 60)
    gate = with_template_block(block)
    who = keyed_client("198.51.100.77")
    settled = [(SETTLED, who.user), (SETTLED, "alice")]
    assert gate.find_template_block(who, FINGERPRINT, NOW) is block
    gate.set_spared({"acme": pack_client_hashes(settled)})
    assert gate.find_template_block(who, FINGERPRINT, NOW) is None
    assert gate.find_template_block(client(), FINGERPRINT, NOW) is block

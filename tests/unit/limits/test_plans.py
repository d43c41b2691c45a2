"""Limits x subjects to cells: keys, periods, models, caching."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from gateway.core.model import Block, CellKind, Limit, Policy, Tenant
from gateway.identity.identify import Identifier, with_body_user
from gateway.limits.plans import (
    LEASE_US,
    Calendar,
    PlanBook,
    cells_of_subject,
    store_key,
    tenant_tag,
    throttled_plan,
)

MINUTE = 60_000_000
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


class Head:
    def __init__(self, key: str = "") -> None:
        self.method = "POST"
        self.query = ""
        self.fields: dict[bytes, bytes] = {}
        self.credentials = ((b"x-api-key", key.encode()),) if key else ()


def identity(*limits: Limit, name="acme", ip="203.0.113.9", key="", **fields):
    tenant = Tenant(name, Policy("p", limits=limits, **fields))
    return Identifier([tenant], b"pepper").identify(ip, Head(key), NOW)


def names(plan) -> list[str]:
    return [cell.limit.name for cell in plan.cells]


# -- keys -----------------------------------------------------------------------------


def test_key_has_prefix_schema_tag_and_hash():
    """A key contains the tenant as hash tag, and the client only in a hash."""
    key = store_key(b"tidegate:", "acme", Limit("user", "tokens", 5, MINUTE), ["alice"])
    head, _, digest = key.rpartition(b":")
    assert head == b"tidegate:1:{acme}:w"
    assert len(digest) == 32
    assert b"alice" not in key


def test_keys_differ_by_whatever_is_counted_apart():
    """Keys differ by subject, meter, window, models, ids and the borders of ids."""
    limits_and_ids = [
        (Limit("user", "tokens", 5, MINUTE), ["a"]),
        (Limit("user", "requests", 5, MINUTE), ["a"]),
        (Limit("user", "tokens", 5, 2 * MINUTE), ["a"]),
        (Limit("user", "tokens", 5, calendar="day"), ["a"]),
        (Limit("client_ip", "tokens", 5, MINUTE), ["a"]),
        (Limit("user", "tokens", 5, MINUTE, models=("gpt-*",)), ["a"]),
        (Limit("user", "tokens", 5, MINUTE), ["b"]),
        (Limit("user+model", "tokens", 5, MINUTE), ["ab", "c"]),
        (Limit("user+model", "tokens", 5, MINUTE), ["a", "bc"]),
    ]
    keys = {store_key(b"p:", "t", limit, ids) for limit, ids in limits_and_ids}
    assert len(keys) == len(limits_and_ids)


def test_limits_that_differ_in_amount_share_a_key():
    """Changing the amount of a limit keeps what was counted."""
    one, other = (Limit("user", "tokens", n, MINUTE) for n in (5, 6))
    assert store_key(b"p:", "t", one, ["a"]) == store_key(b"p:", "t", other, ["a"])


@pytest.mark.parametrize(
    ("tenant", "tag"),
    [("acme", b"acme"), ("a}b{c%", b"a%7Db%7Bc%25"), ("é", "é".encode())],
)
def test_braces_in_a_name_do_not_break_the_hash_tag(tenant, tag):
    """Braces in a tenant's name are escaped, because a cluster reads the tag up to the
    first closing brace.
    """
    assert tenant_tag(tenant) == tag


# -- calendar -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "label", "start", "end"),
    [
        ("day", "2026-11-23", (2026, 11, 23), (2026, 11, 24)),
        ("week", "2026-W48", (2026, 11, 23), (2026, 11, 30)),
        ("month", "2026-11", (2026, 11, 1), (2026, 12, 1)),
    ],
)
def test_periods(kind, label, start, end):
    """Periods are days, ISO weeks from Monday on, and months, in local time."""
    zone = ZoneInfo("Europe/Berlin")
    period = Calendar(zone).period(kind, NOW)
    assert period.label == label
    assert period.starts_at == datetime(*start, tzinfo=zone).timestamp()
    assert period.ends_at == datetime(*end, tzinfo=zone).timestamp()


@pytest.mark.parametrize(("day", "hours"), [(29, 23), (30, 24)])
def test_days_on_which_clocks_change(day, hours):
    """The last Sunday of March has 23 hours in Berlin."""
    zone = ZoneInfo("Europe/Berlin")
    noon = datetime(2026, 3, day, 12, tzinfo=zone).timestamp()
    period = Calendar(zone).period("day", noon)
    assert period.ends_at - period.starts_at == hours * 3600


def test_a_period_is_found_anew_when_the_clock_leaves_it():
    """A period is looked up again when the store's clock steps out of it, either way."""
    calendar = Calendar(UTC)
    labels = [calendar.period("day", NOW + 86_400 * step).label for step in (0, 1, -1)]
    assert labels == ["2026-11-23", "2026-11-24", "2026-11-22"]
    assert calendar.period("day", NOW) is calendar.period("day", NOW + 1)


# -- plans ----------------------------------------------------------------------------


def test_each_limit_becomes_a_cell():
    """Kind, window and amount of a cell follow from the limit."""
    who = identity(
        Limit("client_ip", "requests", 600, MINUTE),
        Limit("user", "concurrent", 32),
        Limit("tenant", "usd", 500, calendar="month"),
    )
    plan = PlanBook(b"tidegate:").plan(who, "gpt-4o", NOW)
    assert [(cell.kind, cell.window_us, cell.amount) for cell in plan.cells] == [
        (CellKind.SLIDING, MINUTE, 600),
        (CellKind.CONCURRENT, LEASE_US, 32),
        (CellKind.CALENDAR, 0, 500),
    ]
    assert plan.tag == b"acme"
    assert plan.cells[2].key.endswith(b":2026-11")
    assert plan.cells[0].key.startswith(b"tidegate:1:{acme}:w:")


def test_equal_clients_share_a_plan():
    """Requests of one client share a plan, and so its packed form."""
    who = identity(Limit("user", "requests", 5, MINUTE))
    book = PlanBook()
    assert book.plan(who, "gpt-4o", NOW) is book.plan(who, "other", NOW + 99)


def test_addresses_users_and_tenants_have_cells_of_their_own():
    """Different subjects share only the cells that are common to them."""
    limits = [Limit(per, "requests", 5, MINUTE) for per in ("client_ip", "user")]
    book = PlanBook()
    clients = [
        identity(*limits, key="a"),
        identity(*limits, key="b"),
        identity(*limits, key="a", ip="203.0.113.8"),
        identity(*limits, key="a", name="beta"),
    ]
    plans = [book.plan(who, "", NOW) for who in clients]
    by_ip = [plan.cells[0].key for plan in plans]
    by_user = [plan.cells[1].key for plan in plans]
    assert [by_ip.index(key) for key in by_ip] == [0, 0, 2, 3]
    assert [by_user.index(key) for key in by_user] == [0, 1, 0, 3]


def test_a_site_has_a_multiple_of_each_limit_of_an_address():
    """IPv6 clients of one /48 share a second cell; IPv4 clients and users have none."""
    limits = [Limit(per, "requests", 3, MINUTE) for per in ("client_ip", "user")]
    book = PlanBook()
    first, other, far, v4, known = (
        book.plan(identity(*limits, ip=ip, key=key), "", NOW)
        for ip, key in (
            ("2001:db8:7:1::1", ""),
            ("2001:db8:7:2::1", ""),
            ("2001:db8:8::1", ""),
            ("203.0.113.9", ""),
            ("2001:db8:7:1::1", "sk-a"),
        )
    )
    ip, site, user = "client_ip.requests.1m", "network.requests.1m", "user.requests.1m"
    assert names(first) == [ip, user, site]
    assert [cell.amount for cell in first.cells] == [3, 3, 24]
    assert first.cells[2].key == other.cells[2].key != far.cells[2].key
    assert first.cells[0].key != other.cells[0].key
    assert names(v4) == [ip, user]
    assert names(known) == [ip, user, site]
    off = identity(*limits, ip="2001:db8:7:1::1", network_factor=0)
    assert names(PlanBook().plan(off, "", NOW)) == [ip, user]


def test_a_site_with_anonymous_users_is_limited_also_per_user():
    """Without a credential a user is an address, so a site has a multiple of it too."""
    limits = [Limit(per, "requests", 3, MINUTE) for per in ("user", "tenant")]
    plan = PlanBook().plan(identity(*limits, ip="2001:db8:7:1::1"), "", NOW)
    assert [cell.limit.per for cell in plan.cells] == ["user", "tenant", "network"]
    known = identity(*limits, ip="2001:db8:7:1::1", key="sk-a")
    plan = PlanBook().plan(known, "", NOW)
    assert [cell.limit.per for cell in plan.cells] == ["user", "tenant"]


def test_limits_of_a_key_count_by_its_name():
    """``key`` is the key's name in the tenant."""
    limit = Limit("key", "requests", 3, MINUTE)
    book, one = PlanBook(), identity(limit)
    named = [msgspec.structs.replace(one, key_name=n, key=(n, "", "")) for n in "ab"]
    (first,), (other,) = (book.plan(i, "", NOW).cells for i in named)
    assert first.key != other.key


def test_model_globs_choose_the_limits():
    """A limit for some models is not part of other models' plans."""
    who = identity(
        Limit("user", "requests", 5, MINUTE),
        Limit("user", "tokens", 5, MINUTE, models=("gpt-4*", "o?")),
    )
    book = PlanBook()
    counts = [
        len(book.plan(who, model, NOW).cells)
        for model in ("gpt-4o", "o3", "gpt-3.5", "GPT-4o", "o30", "")
    ]
    assert counts == [2, 2, 1, 2, 1, 1]


def test_models_under_one_glob_share_its_counter():
    """Models under one glob share its counter; per model, each has its own."""
    glob = Limit("user", "tokens", 5, MINUTE, models=("gpt-*",))
    pair = Limit("user+model", "tokens", 5, MINUTE)
    book = PlanBook()
    who = identity(glob, pair)
    one, other = (book.plan(who, model, NOW) for model in ("gpt-4o", "gpt-5"))
    assert one.cells[0].key == other.cells[0].key
    assert one.cells[1].key != other.cells[1].key


def test_long_model_names_are_shortened():
    """A model name of megabytes is shortened before it is cached or matched."""
    who = identity(Limit("model", "tokens", 5, MINUTE))
    book = PlanBook()
    first, second = (book.plan(who, "m" * 100_000 + end, NOW) for end in "12")
    assert first.cells[0].key != second.cells[0].key


def test_equal_limits_count_a_request_once():
    """Of limits that share a counter, only the smallest is used."""
    limits = [Limit("user", "requests", n, MINUTE) for n in (9, 5, 7)]
    plan = PlanBook().plan(identity(*limits), "", NOW)
    assert plan.amounts == (5,)


def test_calendar_plans_end_with_their_period():
    """The first request of a new day is counted under a new key."""
    who = identity(Limit("user", "requests", 5, calendar="day"))
    book = PlanBook(timezone=ZoneInfo("UTC"))
    today = book.plan(who, "", NOW)
    assert today.until == NOW + 12 * 3600
    assert book.plan(who, "", today.until - 1) is today
    tomorrow = book.plan(who, "", today.until)
    assert tomorrow.cells[0].key.endswith(b":2026-11-24")
    assert tomorrow.headers[0] is not today.headers[0]


def test_header_templates_are_shared():
    """All plans of a limit share its header template."""
    tenant = Tenant("t", Policy("p", limits=(Limit("client_ip", "requests", 5, 1),)))
    identifier = Identifier([tenant], b"pepper")
    book = PlanBook()
    one, other = (
        book.plan(identifier.identify(ip, Head(), NOW), "", NOW)
        for ip in ("203.0.113.1", "203.0.113.2")
    )
    assert one.headers[0] is other.headers[0]


def test_combinations_of_limits_are_bounded():
    """The number of plan prototypes is bounded."""
    globs = [f"*{number}*" for number in range(8)]
    limits = [Limit("user", "tokens", 5, MINUTE, models=(glob,)) for glob in globs]
    who = identity(*limits)
    book = PlanBook()
    for number in range(256):
        model = "".join(str(bit) for bit in range(8) if number >> bit & 1)
        plan = book.plan(who, model, NOW)
        assert len(plan.cells) == len(plan.amounts) == number.bit_count()


def test_allow_listed_clients_have_no_cells():
    """Clients on the allow list have plans without cells."""
    who = identity(Limit("user", "requests", 5, MINUTE), allow=("user:anonymous",))
    book = PlanBook()
    assert book.plan(who, "gpt-4o", NOW).cells == ()
    assert book.head_plan(who, NOW) is book.plan(who, "", NOW)


def test_head_plan_is_the_plan_where_nothing_depends_on_the_body():
    """If no limit depends on the body, head plan and plan are one object."""
    who = identity(Limit("user", "requests", 5, MINUTE), key="a")
    book = PlanBook()
    assert book.head_plan(who, NOW) is book.plan(who, "", NOW)


def test_head_plan_leaves_out_models():
    """The head plan has no limits that need the model."""
    who = identity(
        Limit("user", "requests", 5, MINUTE),
        Limit("user", "tokens", 5, MINUTE, models=("*",)),
        Limit("model", "tokens", 5, MINUTE),
        key="a",
    )
    book = PlanBook()
    assert names(book.head_plan(who, NOW)) == ["user.requests.1m"]
    assert book.head_plan(who, NOW) is book.head_plan(who, NOW)


def test_head_plan_leaves_out_users_that_the_body_names():
    """The head plan has no user limits where the body may name the user."""
    who = identity(
        Limit("client_ip", "requests", 5, MINUTE),
        Limit("user", "requests", 5, MINUTE),
    )
    book = PlanBook()
    assert names(book.head_plan(who, NOW)) == ["client_ip.requests.1m"]
    assert len(book.plan(with_body_user(who, "alice"), "", NOW).cells) == 2


def test_memory_is_bounded_and_evictions_counted():
    """The number of cached plans is bounded, and evictions are counted."""
    book = PlanBook(capacity=10)
    for number in range(100):
        who = identity(Limit("user", "requests", 5, MINUTE), key=str(number))
        book.plan(who, "", NOW)
    assert book.evictions >= 90


def test_unknown_subjects_are_an_error():
    """A limit per unknown subject raises an error."""
    with pytest.raises(ValueError, match="subjects are"):
        PlanBook().plan(identity(Limit("planet", "requests", 5, MINUTE)), "", NOW)


# -- one subject's cells --------------------------------------------------------------


def test_cells_of_a_subject_are_those_of_its_plans():
    """The cells of a subject have the keys of its plans."""
    limits = (
        Limit("client_ip", "requests", 5, MINUTE),
        Limit("client_ip", "tokens", 5, calendar="day"),
        Limit("user", "requests", 5, MINUTE),
        Limit("user+model", "requests", 5, MINUTE),
    )
    who = identity(*limits, ip="2001:db8::7")
    plan = PlanBook().plan(who, "gpt-4o", NOW)
    by_ip = cells_of_subject(who.policy, "acme", "client_ip", "2001:db8::9", NOW)
    assert by_ip == list(plan.cells[:2])
    pair = ("anonymous@2001:db8::/64", "gpt-4o")
    by_pair = cells_of_subject(who.policy, "acme", "user+model", pair, NOW)
    assert by_pair == [plan.cells[3]]
    assert cells_of_subject(who.policy, "acme", "tenant", "acme", NOW) == []


def test_a_pair_needs_two_ids():
    """A pair of subjects with one id raises an error."""
    policy = Policy("p", limits=(Limit("user+model", "requests", 5, MINUTE),))
    with pytest.raises(ValueError, match="needs 2 ids, not 1"):
        cells_of_subject(policy, "acme", "user+model", "alice", NOW)


@pytest.mark.parametrize(
    ("kind", "joined", "ids"),
    [
        ("user+model", "a+b@x.org+gpt-4o", ("a+b@x.org", "gpt-4o")),
        ("client_ip+user", "203.0.113.9+a+b@x.org", ("203.0.113.9", "a+b@x.org")),
    ],
)
def test_the_ids_of_a_pair_may_be_joined(kind, joined, ids):
    """The ids of a pair may be joined by a plus, also if a user id contains one."""
    policy = Policy("p", limits=(Limit(kind, "requests", 5, MINUTE),))
    cells = [cells_of_subject(policy, "t", kind, both, NOW) for both in (joined, ids)]
    assert cells[0] == cells[1]


# -- throttles ------------------------------------------------------------------------


def test_a_throttled_client_has_one_limit_more():
    """A throttled client has one more cell: requests per minute of the subject, at
    least 1.
    """
    plan = PlanBook().plan(identity(Limit("user", "tokens", 5, MINUTE)), "m", NOW)
    standing = Block("client_ip", "203.0.113.9", "acme", action="throttle", rate=6)
    throttled = throttled_plan(plan, b"tidegate:", "acme", standing)
    assert throttled.cells[0] == plan.cells[0]
    cell = throttled.cells[1]
    assert names(throttled)[1] == "throttled_client_ip.requests.1m"
    assert (cell.amount, cell.window_us, cell.kind) == (6, MINUTE, CellKind.SLIDING)
    none = Block("user", "u", "acme", action="throttle")
    assert throttled_plan(plan, b"tidegate:", "acme", none).cells[1].amount == 1


def test_a_plan_knows_where_the_requests_of_a_minute_are_counted():
    """A plan lists the cells that count requests per minute of address and user."""
    limits = (
        Limit("user", "requests", 5, MINUTE),
        Limit("client_ip", "requests", 5, 2 * MINUTE),
    )
    book = PlanBook()
    assert book.plan(identity(*limits), "m", NOW).minute_places == (0,)
    again = book.plan(identity(*limits, ip="203.0.113.8"), "m", NOW)
    assert again.minute_places == (0,)

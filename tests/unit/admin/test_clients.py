"""The table of clients of the last hour."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.clients import SLOT_S, SPAN_S, ClientTable
from tests.records import make_record

NOW = 1_763_916_387.0


def rows(table, **options):
    options = {"sort": "tokens", "kind": None, "start": 0, "limit": 10} | options
    sort, kind = options.pop("sort"), options.pop("kind")
    return table.top(sort, kind, options.pop("now", NOW), **options)


def test_record_counts_for_address_user_and_tenant():
    """One record counts in the rows of its address, user and tenant."""
    table = ClientTable()
    table.observe(make_record(ts=NOW))
    found = {(row["kind"], row["id"]): row["tokens"] for row in rows(table)}
    assert found == {
        ("client_ip", "203.0.113.9"): 7,
        ("user", "key_1"): 7,
        ("tenant", "acme"): 7,
    }


def test_rows_are_sorted_and_paged():
    """Pages continue in the requested descending order."""
    table = ClientTable()
    for number in range(5):
        record = make_record(ts=NOW, user=f"u{number}", total_tokens=number)
        table.observe(record)
    first = rows(table, kind="user", limit=2)
    rest = rows(table, kind="user", start=2)
    assert [row["id"] for row in first + rest] == ["u4", "u3", "u2", "u1", "u0"]


def test_rows_expire_after_an_hour():
    """Requests older than an hour no longer count."""
    table = ClientTable()
    table.observe(make_record(ts=NOW))
    table.observe(make_record(ts=NOW + SPAN_S / 2))
    assert rows(table, now=NOW + SPAN_S)[0]["requests"] == 1
    assert rows(table, now=NOW + 2 * SPAN_S) == []


def test_least_recently_seen_row_is_evicted():
    """New clients evict idle rows, not frequently seen ones."""
    table = ClientTable(capacity=6)
    for number in range(20):
        table.observe(make_record(ts=NOW, user="regular", client_ip=f"10.0.0.{number}"))
    assert len(table) == 6
    assert table.evicted == 16
    assert rows(table, kind="user")[0]["requests"] == 20


def test_find_in_one_tenant_or_all():
    """The same id in two tenants has two rows."""
    table = ClientTable()
    for tenant in ("a", "b"):
        table.observe(make_record(ts=NOW, tenant=tenant))
    assert len(list(table.find("user", "key_1", None, NOW))) == 2
    (row,) = table.find("user", "key_1", "b", NOW)
    assert row["tenant"] == "b"


def test_refusals_are_counted():
    """Rows count limited and blocked requests and keep the last action."""
    table = ClientTable()
    for action in ("allow", "limit", "block"):
        table.observe(make_record(ts=NOW, action=action))
    row = rows(table)[0]
    assert (row["limited"], row["action"], row["requests"]) == (2, "block", 3)


@given(st.lists(st.tuples(st.integers(0, 2 * SPAN_S), st.integers(0, 99)), max_size=40))
def test_sums_equal_those_of_the_slots_within_the_hour(events):
    """Sums equal a recomputation from a list of events."""
    table = ClientTable()
    for at, tokens in sorted(events):
        table.observe(make_record(ts=float(at), total_tokens=tokens))
    now = 2 * SPAN_S
    oldest = now // SLOT_S - SPAN_S // SLOT_S
    alive = [tokens for at, tokens in events if at // SLOT_S > oldest]
    found = list(table.find("user", "key_1", None, now))
    if events:
        assert (found[0]["requests"], found[0]["tokens"]) == (len(alive), sum(alive))


def test_the_busiest_are_found_among_many():
    """Sorting by current rate, text search and tenant filter work on many rows."""
    table = ClientTable()
    for number in range(500):
        table.observe(make_record(ts=NOW, user=f"u{number}", client_ip=f"ip{number}"))
    for _ in range(9):
        table.observe(make_record(ts=NOW, user="u7", client_ip="ip7"))
    table.observe(make_record(ts=NOW - 600, user="old", client_ip="ipold"))

    def ids(**wanted):
        found = table.top("now", "user", NOW, start=0, limit=3, **wanted)
        return [row["id"] for row in found]

    assert ids()[0] == "u7"
    assert len(ids()) == 3
    assert set(ids(text="U49")) <= {f"u{n}" for n in (49, *range(490, 500))}
    assert ids(tenant="nobody") == []
    rates = table.top("now", "user", NOW, start=0, limit=600)
    assert len(rates) == 501
    assert rates[-1]["requests_1m"] == 0


def test_the_name_of_a_key_is_shown_with_its_user():
    """The user's row has the name of the key; rows of addresses have none."""
    table = ClientTable()
    table.observe(make_record(ts=NOW, key="ci"))
    named = {row["kind"]: row["key"] for row in rows(table)}
    assert named == {"client_ip": "", "user": "ci", "tenant": ""}

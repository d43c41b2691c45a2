"""Incidents on the admin API: who is held, what was done, and taking it back."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from gateway.admin.api import build_app
from gateway.admin.incident_log import MOST_LINES, Stories
from gateway.core.model import DETECTOR, Block
from gateway.detect.model import Output, Ref, Window, format_time
from tests.records import make_record
from tests.unit.admin.desk import NOW, Client, Desk, make_incident

IP = "203.0.113.9"


@pytest.fixture(name="desk")
def _desk():
    desk = Desk()
    desk.known = [make_incident(), make_incident(id="inc_b", **{"class": "ddos"})]
    return desk


@pytest.fixture(name="call")
async def _call(desk):
    runner = web.AppRunner(build_app(desk, "127.0.0.1", lambda: NOW))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


def said(type_, id_=IP, at=NOW, incident="inc_a", action="block"):
    """One line of the detector."""
    return Output(
        type=type_, id=incident, ts=format_time(at), severity="critical",
        cls="scraping", score=7.0, subject=Ref("client_ip", id_), tenant="acme",
        action=action, until=format_time(at + 600), window=Window("a", "b"),
        observed={}, expected={}, reasons=("It walks a template.",),
    )  # fmt: skip


def held(id_, action="block", **changes):
    """What detection does to an address."""
    block = Block(
        "client_ip", id_, "acme", NOW + 600, by=DETECTOR, action=action, rate=12,
        cls="scraping", created_at=NOW,
    )  # fmt: skip
    return type(block)(
        **{n: getattr(block, n) for n in block.__struct_fields__} | changes
    )


def test_a_flood_is_one_step_with_a_count():
    """Of one kind and minute; how it began stays, however many are blocked."""
    stories = Stories()
    stories.take(said("incident.opened"))
    for n in range(3 * MOST_LINES):
        kind = "client.throttled" if n % 2 else "client.blocked"
        stories.take(said(kind, f"198.51.100.{n}", NOW + n / 100))
    story = stories.of("inc_a")
    assert [(step.type, step.count) for step in story.steps] == [
        ("incident.opened", 1),
        ("client.blocked", 150),
        ("client.throttled", 150),
    ]
    assert (len(story.lines), story.lines[0].type) == (MOST_LINES, "incident.opened")


async def test_what_holds_whom_is_counted_by_incident(call, desk):
    """By the incident that said so; what is older than memory by class and time."""
    desk.list = [held(IP), held("198.51.100.1")]
    desk.mild = [held("198.51.100.2", "throttle"), held("x", "tag", by="operator")]
    desk.list.append(held("198.51.100.3", created_at=NOW - 86_400))
    desk.lookout.take(said("client.throttled", IP, NOW - 30, action="throttle"))
    desk.lookout.take(said("client.blocked", IP, NOW - 20))
    desk.lookout.take(said("client.blocked", "198.51.100.1", incident="inc_b"))
    _, page = await call("GET", "/api/v1/incidents")
    first, second = page["items"]
    assert first["held"] == {"block": 1, "throttle": 1, "tag": 0}
    assert second["held"] == {"block": 1, "throttle": 0, "tag": 0}
    assert (first["standing"]["action"], first["standing_since"]) == ("block", NOW - 20)


async def test_undo_lets_in_everybody_and_restore_puts_them_back(call, desk):
    """More than are shown; a throttle comes back as the throttle that it was."""
    desk.list = [held(f"198.51.100.{n}") for n in range(80)]
    desk.mild = [held(IP, "throttle")]
    status, done = await call("POST", "/api/v1/incidents/inc_a/undo")
    assert (status, done["undone"], done["throttle"]) == (200, 81, 1)
    assert (desk.list, desk.mild) == ([], [])
    status, done = await call("POST", "/api/v1/incidents/inc_a/restore")
    assert (status, done["restored"], len(desk.list)) == (200, 81, 80)
    (mild,) = desk.mild
    assert (mild.action, mild.rate, mild.by) == ("throttle", 12, DETECTOR)
    status, _ = await call("POST", "/api/v1/incidents/inc_a/restore")
    assert status == 404
    what = [change.what for change in desk.lookout.changes]
    assert what == ["undo", "restore", "restore"]


async def test_the_template_of_a_flood_is_undone_with_its_incident(call, desk):
    """Though it was there for a while before it was a flood."""
    desk.list = [held("f" * 16, kind="prompts", created_at=NOW - 9000)]
    _, one = await call("GET", "/api/v1/incidents/inc_a")
    assert [row["kind"] for row in one["clients"]].count("prompts") == 1
    _, done = await call("POST", "/api/v1/incidents/inc_a/undo")
    assert (done["undone"], desk.list) == (1, [])


async def test_a_lifted_throttle_is_put_back_as_it_was(call, desk):
    """Not as a block."""
    desk.mild = [held(IP, "throttle")]
    assert (await call("DELETE", f"/api/v1/blocks/client_ip/{IP}?tenant=acme"))[
        0
    ] == 204
    status, body = await call("POST", f"/api/v1/blocks/client_ip/{IP}/restore")
    assert (status, body["items"][0]["action"], desk.list) == (200, "throttle", [])
    assert (await call("POST", "/api/v1/blocks/user/nobody/restore"))[0] == 404


async def test_shares_of_the_excess_and_before_and_after(call, desk):
    """Who makes up what part, by kind; what was refused is priced by what passed."""
    ips = (("203.0.113.9", 6), ("198.51.100.1", 2))
    desk.known = [
        make_incident(
            subject={"kind": "tenant", "id": "acme"},
            subjects=[{"kind": "client_ip", "id": ip} for ip, _ in ips],
        )
    ]
    for at, usd_nanos, outcome, ip, count in (
        (NOW - 300, 5_000_000, "ok", "192.0.2.1", 1),  # before
        (NOW - 50, 2_000_000_000, "ok", *ips[0]),
        (NOW - 40, 0, "refused", *ips[1]),
    ):
        for _ in range(count):
            desk.lookout.observe(
                make_record(
                    ts=at, client_ip=ip, usd_nanos=usd_nanos, outcome=outcome,
                    total_tokens=10,
                )
            )  # fmt: skip
            desk.clients.observe(make_record(ts=at, client_ip=ip))
    opened = said("incident.opened")
    desk.lookout.watched.watch("tenant", "acme", "acme")
    desk.lookout.take(opened)
    _, body = await call("GET", "/api/v1/incidents/inc_a")
    shares = {one["id"]: one["share"] for one in body["clients"]}
    assert shares == {"203.0.113.9": 0.75, "198.51.100.1": 0.25}
    impact = body["impact"]
    assert (impact["before"]["requests"], impact["before"]["usd"]) == (1, 0.005)
    assert (impact["after"]["requests"], impact["after"]["refused"]) == (8, 2)
    assert impact["saved"]["usd"] == pytest.approx(4.0)


async def test_a_block_by_mistake_leaves_what_was_before(call, desk):
    """Undone: the throttle that it replaced holds again; without: nothing does."""
    body = {"kind": "client_ip", "id": IP, "tenant": "acme", "ttl": "1h"}
    path = f"/api/v1/blocks/client_ip/{IP}?tenant=acme"
    for query, left in (("&undo=true", ["throttle"]), ("", [])):
        desk.list, desk.mild = [], [held(IP, "throttle")]
        assert (await call("POST", "/api/v1/blocks", json=body))[0] == 201
        desk.mild = []  # a block stands where the throttle stood
        assert (await call("DELETE", path + query))[0] == 204
        assert [block.action for block in (*desk.list, *desk.mild)] == left
    assert (await call("DELETE", f"{path}&undo=yes"))[0] == 400

"""Incidents on the admin API: restricted clients, impact, undo and restore."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from gateway.admin.api import build_app
from gateway.admin.incident_log import MAX_OUTPUTS, IncidentLog
from gateway.core.model import DETECTOR, Block
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time
from tests.records import make_record
from tests.unit.admin.fake_backend import NOW, ApiClient, FakeBackend, make_incident

IP = "203.0.113.9"


@pytest.fixture(name="backend")
def _backend():
    backend = FakeBackend()
    backend.known = [make_incident(), make_incident(id="inc_b", **{"class": "ddos"})]
    return backend


@pytest.fixture(name="call")
async def _call(backend):
    runner = web.AppRunner(build_app(backend, "127.0.0.1", lambda: NOW))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield ApiClient(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


def said(type_, id_=IP, at=NOW, incident="inc_a", action="block"):
    """A detector output."""
    return Output(
        type=type_, id=incident, ts=format_time(at), severity="critical",
        cls="scraping", score=7.0, subject=Ref("client_ip", id_), tenant="acme",
        action=action, until=format_time(at + 600), window=EvidenceWindow("a", "b"),
        observed={}, expected={}, reasons=("Requests enumerate a prompt template.",),
    )  # fmt: skip


def held(id_, action="block", **audit_log):
    """A block of an address by detection."""
    block = Block(
        "client_ip", id_, "acme", NOW + 600, by=DETECTOR, action=action, rate=12,
        cls="scraping", created_at=NOW,
    )  # fmt: skip
    return type(block)(
        **{n: getattr(block, n) for n in block.__struct_fields__} | audit_log
    )


def test_client_events_are_merged_into_steps():
    """Client events of one type and minute are one step; the opening is never evicted."""
    incident_log = IncidentLog()
    incident_log.on_output(said("incident.opened"))
    for n in range(3 * MAX_OUTPUTS):
        kind = "client.throttled" if n % 2 else "client.blocked"
        incident_log.on_output(said(kind, f"198.51.100.{n}", NOW + n / 100))
    history = incident_log.history_of("inc_a")
    assert [(step.type, step.count) for step in history.steps] == [
        ("incident.opened", 1),
        ("client.blocked", 150),
        ("client.throttled", 150),
    ]
    assert (len(history.outputs), history.outputs[0].type) == (
        MAX_OUTPUTS,
        "incident.opened",
    )


async def test_restrictions_are_counted_by_incident(call, backend):
    """Blocks count for the incident that caused them, older ones by class and time."""
    backend.list = [held(IP), held("198.51.100.1")]
    backend.lesser = [held("198.51.100.2", "throttle"), held("x", "tag", by="operator")]
    backend.list.append(held("198.51.100.3", created_at=NOW - 86_400))
    backend.activity.on_output(
        said("client.throttled", IP, NOW - 30, action="throttle")
    )
    backend.activity.on_output(said("client.blocked", IP, NOW - 20))
    backend.activity.on_output(said("client.blocked", "198.51.100.1", incident="inc_b"))
    _, page = await call("GET", "/api/v1/incidents")
    first, second = page["items"]
    assert first["held"] == {"block": 1, "throttle": 1, "tag": 0}
    assert second["held"] == {"block": 1, "throttle": 0, "tag": 0}
    assert (first["standing"]["action"], first["standing_since"]) == ("block", NOW - 20)


async def test_undo_removes_all_restrictions_and_restore_adds_them_again(call, backend):
    """Undo covers clients beyond the listed ones; restore keeps each action."""
    backend.list = [held(f"198.51.100.{n}") for n in range(80)]
    backend.lesser = [held(IP, "throttle")]
    status, done = await call("POST", "/api/v1/incidents/inc_a/undo")
    assert (status, done["undone"], done["throttle"]) == (200, 81, 1)
    assert (backend.list, backend.lesser) == ([], [])
    status, done = await call("POST", "/api/v1/incidents/inc_a/restore")
    assert (status, done["restored"], len(backend.list)) == (200, 81, 80)
    (lesser,) = backend.lesser
    assert (lesser.action, lesser.rate, lesser.by) == ("throttle", 12, DETECTOR)
    status, _ = await call("POST", "/api/v1/incidents/inc_a/restore")
    assert status == 404
    what = [change.what for change in backend.activity.audit_log]
    assert what == ["undo", "restore", "restore"]


async def test_a_template_block_is_undone_with_its_incident(call, backend):
    """A template block that is older than the incident is removed with it."""
    backend.list = [held("f" * 16, kind="prompts", created_at=NOW - 9000)]
    _, one = await call("GET", "/api/v1/incidents/inc_a")
    assert [row["kind"] for row in one["clients"]].count("prompts") == 1
    _, done = await call("POST", "/api/v1/incidents/inc_a/undo")
    assert (done["undone"], backend.list) == (1, [])


async def test_a_removed_throttle_is_restored_as_a_throttle(call, backend):
    """Restoring a removed throttle does not make it a block."""
    backend.lesser = [held(IP, "throttle")]
    assert (await call("DELETE", f"/api/v1/blocks/client_ip/{IP}?tenant=acme"))[
        0
    ] == 204
    status, body = await call("POST", f"/api/v1/blocks/client_ip/{IP}/restore")
    assert (status, body["items"][0]["action"], backend.list) == (200, "throttle", [])
    assert (await call("POST", "/api/v1/blocks/user/nobody/restore"))[0] == 404


async def test_shares_of_the_excess_and_before_and_after(call, backend):
    """Shares are per kind; savings use the average price of served requests."""
    ips = (("203.0.113.9", 6), ("198.51.100.1", 2))
    backend.known = [
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
            backend.activity.observe(
                make_record(
                    ts=at, client_ip=ip, usd_nanos=usd_nanos, outcome=outcome,
                    total_tokens=10,
                )
            )  # fmt: skip
            backend.clients.observe(make_record(ts=at, client_ip=ip))
    opened = said("incident.opened")
    backend.activity.pinned.pin("tenant", "acme", "acme")
    backend.activity.on_output(opened)
    _, body = await call("GET", "/api/v1/incidents/inc_a")
    shares = {one["id"]: one["share"] for one in body["clients"]}
    assert shares == {"203.0.113.9": 0.75, "198.51.100.1": 0.25}
    impact = body["impact"]
    assert (impact["before"]["requests"], impact["before"]["usd"]) == (1, 0.005)
    assert (impact["after"]["requests"], impact["after"]["refused"]) == (8, 2)
    assert impact["saved"]["usd"] == pytest.approx(4.0)


async def test_undo_of_a_block_restores_what_it_replaced(call, backend):
    """``undo=true`` restores the replaced throttle; a plain removal does not."""
    body = {"kind": "client_ip", "id": IP, "tenant": "acme", "ttl": "1h"}
    path = f"/api/v1/blocks/client_ip/{IP}?tenant=acme"
    for query, left in (("&undo=true", ["throttle"]), ("", [])):
        backend.list, backend.lesser = [], [held(IP, "throttle")]
        assert (await call("POST", "/api/v1/blocks", json=body))[0] == 201
        backend.lesser = []  # the block replaced the throttle
        assert (await call("DELETE", path + query))[0] == 204
        assert [block.action for block in (*backend.list, *backend.lesser)] == left
    assert (await call("DELETE", f"{path}&undo=yes"))[0] == 400

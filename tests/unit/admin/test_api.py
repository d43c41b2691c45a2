"""The admin API over real sockets with a fake backend."""

from __future__ import annotations

from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from aiohttp import web

from gateway.admin.api import build_app
from gateway.admin.sessions import AdminTokens
from gateway.core.model import DETECTOR, Block
from gateway.detect.export import SubjectActivity
from tests.records import make_record
from tests.unit.admin.fake_backend import NOW, ApiClient, FakeBackend, make_incident


@pytest.fixture(name="backend")
def _backend():
    return FakeBackend()


@pytest.fixture(name="call")
async def _call(backend):
    runner = web.AppRunner(build_app(backend, "127.0.0.1", lambda: NOW))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield ApiClient(session, f"http://127.0.0.1:{port}")
    await runner.cleanup()


async def test_probes(call, backend):
    """``/healthz`` is always 200; ``/readyz`` is 503 while there are reasons."""
    assert await call("GET", "/healthz") == (200, {"status": "ok"})
    assert (await call("GET", "/readyz"))[0] == 200
    backend.reasons = ["worker 0 is not ready"]
    status, body = await call("GET", "/readyz")
    assert (status, body["reasons"]) == (503, ["worker 0 is not ready"])
    assert (await call("GET", "/healthz"))[0] == 200


async def test_metrics_are_prometheus_text(call, backend):
    """``/metrics`` answers in the Prometheus text format."""
    backend.metrics.observe(make_record())
    status, text = await call("GET", "/metrics")
    assert status == 200
    assert "tidegate_requests_total{" in text


async def test_the_port_opens_the_console(call):
    """``/`` serves the console page."""
    status, body = await call("GET", "/")
    assert status == 200
    assert "<title>Tidegate" in body


async def test_block_list_and_unblock(call, backend):
    """A block is created, listed and removed in the documented form."""
    body = {
        "kind": "client_ip",
        "id": "203.0.113.9",
        "tenant": None,
        "ttl": "10m",
        "reason": "x",
    }
    status, made = await call("POST", "/api/v1/blocks", json=body)
    assert (status, made["until"]) == (201, "2025-11-23T16:56:27Z")
    assert backend.list[0].until == NOW + 600
    _, page = await call("GET", "/api/v1/blocks")
    assert page == {"items": [made], "next": None}
    assert (await call("DELETE", "/api/v1/blocks/client_ip/203.0.113.9"))[0] == 204
    assert (await call("DELETE", "/api/v1/blocks/client_ip/203.0.113.9"))[0] == 404


async def test_a_template_block_is_listed_and_removed(call, backend):
    """Operators can list and remove template blocks made by detection."""
    print_ = "0123456789abcdef"
    backend.list.append(Block("prompts", print_, "acme", NOW + 60, by=DETECTOR))
    _, page = await call("GET", "/api/v1/blocks?kind=prompts")
    assert [(row["kind"], row["id"]) for row in page["items"]] == [("prompts", print_)]
    path = f"/api/v1/blocks/prompts/{print_}?tenant=acme"
    assert (await call("DELETE", path))[0] == 204
    assert backend.list == []


@pytest.mark.parametrize(
    ("kind", "given", "stored"),
    [
        ("client_ip", "2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
        ("client_ip", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("client_ip", "::ffff:192.0.2.1", "192.0.2.1"),
        ("network", "10.0.0.0/8", "10.0.0.0/8"),
        ("user", "a/b c%2Fü?", "a/b c%2Fü?"),
        ("tenant", "acme", "acme"),
    ],
)
async def test_ids_are_normalized_and_survive_the_path(
    call, backend, kind, given, stored
):
    """Ids are stored in the form used by limits, and any spelling can be deleted."""
    await call("POST", "/api/v1/blocks", json={"kind": kind, "id": given})
    assert backend.list[0].id == stored
    status, _ = await call("DELETE", f"/api/v1/blocks/{kind}/{quote(given, safe='')}")
    assert (status, backend.list) == (204, [])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad_body"),
        (b'{"kind":"user"}', "bad_body"),
        (b'{"kind":"user","id":"x","tlt":1}', "bad_body"),
        (b'{"kind":"ip","id":"x"}', "bad_kind"),
        (b'{"kind":"prompts","id":"0123456789abcdef"}', "bad_kind"),
        (b'{"kind":"client_ip","id":"nobody"}', "bad_id"),
        (b'{"kind":"client_ip","id":"10.0.0.0/8"}', "bad_id"),
        (b'{"kind":"network","id":"10.0.0.0/99"}', "bad_id"),
        (b'{"kind":"user","id":""}', "bad_id"),
        (b'{"kind":"user","id":"x","ttl":"soon"}', "bad_ttl"),
        (b'{"kind":"user","id":"x","ttl":0}', "bad_ttl"),
        (b'{"kind":"user","id":"x","ttl":-5}', "bad_ttl"),
        (b'{"kind":"user","id":"x","ttl":1e12}', "bad_ttl"),
        (b'{"kind":"user","id":"\xff"}', "bad_body"),
        (b"[" * 60_000, "bad_body"),
    ],
)
async def test_bad_block_is_a_clear_400(call, backend, body, code):
    """An invalid block gets a 400 with a code and a message, and blocks nothing."""
    status, answer = await call("POST", "/api/v1/blocks", data=body)
    assert (status, answer["error"]["code"]) == (400, code)
    assert answer["error"]["message"]
    assert backend.list == []


async def test_block_for_good_and_by_seconds(call, backend):
    """Without ttl a block has no end; a number is in seconds."""
    await call("POST", "/api/v1/blocks", json={"kind": "user", "id": "a"})
    await call("POST", "/api/v1/blocks", json={"kind": "user", "id": "b", "ttl": 90})
    assert [block.until for block in backend.list] == [None, NOW + 90]


async def test_large_body_is_413_and_full_list_507(call, backend):
    """Too large a body is refused with 413, a full block list with 507."""
    status, answer = await call("POST", "/api/v1/blocks", data=b"x" * 70_000)
    assert (status, answer["error"]["code"]) == (413, "request_entity_too_large")
    backend.full = True
    status, answer = await call(
        "POST", "/api/v1/blocks", json={"kind": "user", "id": "a"}
    )
    assert (status, answer["error"]["code"]) == (507, "too_many_blocks")


async def test_lists_come_in_pages(call, backend):
    """``next`` is the cursor of the next page, null at the end; bad cursors get 400."""
    backend.list = [Block("user", str(number)) for number in range(5)]
    ids, cursor = [], "0"
    while cursor is not None:
        _, page = await call("GET", f"/api/v1/blocks?limit=2&cursor={cursor}")
        ids += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert ids == ["0", "1", "2", "3", "4"]
    for query in ("limit=0", "limit=1001", "limit=x", "cursor=-1"):
        assert (await call("GET", f"/api/v1/blocks?{query}"))[0] == 400


async def test_clients_are_sorted_and_paged(call, backend):
    """Clients are sorted and paged; an unknown sort or kind gets 400."""
    for number in range(3):
        backend.clients.observe(
            make_record(ts=NOW, user=f"u{number}", total_tokens=number)
        )
    _, page = await call("GET", "/api/v1/clients?kind=user&sort=tokens&limit=2")
    assert [item["id"] for item in page["items"]] == ["u2", "u1"]
    _, page = await call(
        "GET", f"/api/v1/clients?kind=user&limit=2&cursor={page['next']}"
    )
    assert ([item["id"] for item in page["items"]], page["next"]) == (["u0"], None)
    assert (await call("GET", "/api/v1/clients?sort=size"))[0] == 400
    assert (await call("GET", "/api/v1/clients?kind=model"))[0] == 400


async def test_incidents_by_state_and_class(call, backend):
    """Incidents are listed newest first, filtered by state and class, and paged."""
    rows = [("inc_c", "open", "ddos"), ("inc_b", "open", "scraping")]
    rows.append(("inc_a", "resolved", "scraping"))
    backend.known = [
        make_incident(**dict(zip(("id", "state", "class"), row, strict=True)))
        for row in rows
    ]

    async def ids(query=""):
        status, page = await call("GET", f"/api/v1/incidents{query}")
        assert status == 200
        return [row["id"] for row in page["items"]]

    assert await ids() == ["inc_c", "inc_b", "inc_a"]
    assert await ids("?state=open") == ["inc_c", "inc_b"]
    assert await ids("?class=scraping&state=resolved") == ["inc_a"]
    _, page = await call("GET", "/api/v1/incidents?limit=2")
    assert await ids(f"?limit=2&cursor={page['next']}") == ["inc_a"]


async def test_one_client_with_usage_limits_and_blocks(call, backend):
    """A client's page has its usage, limits and blocks."""
    backend.clients.observe(make_record(ts=NOW))
    backend.list = [Block("user", "key_1")]
    status, body = await call("GET", "/api/v1/clients/user/key_1")
    assert status == 200
    assert body["usage"][0]["tokens"] == 7
    assert body["limits"][0]["tenants"] == ["acme"]
    assert body["blocks"][0]["id"] == "key_1"


def test_json_keys_of_a_clients_activity():
    """The activity of a client keeps the documented JSON keys."""
    one = SubjectActivity(0.0, True, 1.0, 2, 3, None, None, None, None, 0.5, 7.0, 9.0)
    assert set(msgspec.to_builtins(one)) == {
        "since", "known", "requests_1m", "requests_10m", "tokens_10m", "expected_1m",
        "expected_10m", "expected_tokens_10m", "sigma", "alike", "peers_1m", "until",
        "requests", "tokens",
    }  # fmt: skip


async def test_reset_of_one_subject(call, backend):
    """A reset normalizes the id and passes the tenant."""
    path = (
        f"/api/v1/clients/client_ip/{quote('2001:db8::1', safe='')}/reset?tenant=acme"
    )
    status, body = await call("POST", path)
    assert (status, body["counters"]) == (200, 2)
    assert backend.resets == [("client_ip", "2001:db8::/64", "acme")]


async def test_refused_reload_says_why(call):
    """An invalid configuration gets 422 with file, line and key."""
    status, answer = await call("POST", "/api/v1/reload")
    assert (status, answer["error"]["code"]) == (422, "bad_config")
    assert "tidegate.toml:3" in answer["error"]["message"]


async def test_unknown_routes_and_methods_are_json(call):
    """Unknown routes and methods get the API's JSON error."""
    assert (await call("GET", "/api/v1/nothing"))[1]["error"]["code"] == "not_found"
    status, answer = await call("PUT", "/api/v1/blocks")
    assert (status, answer["error"]["code"]) == (405, "method_not_allowed")


async def test_internal_error_is_json_and_logged(call, backend):
    """An unexpected exception gets a JSON 500 and is logged under its request id."""
    backend.status = lambda: 1 / 0
    status, answer = await call("GET", "/api/v1/status")
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    ((id_, method, path, trace),) = backend.failures
    assert (id_, method, path) == (
        answer["error"]["request_id"], "GET", "/api/v1/status",
    )  # fmt: skip
    assert "ZeroDivisionError" in trace


async def test_token_guards_every_api_route_only(call, backend):
    """``/api`` without a valid token gets 401; probes and metrics need none."""
    backend.tokens = AdminTokens("s3cret")
    for header in (
        {},
        {"Authorization": "Bearer s3cre"},
        {"Authorization": "Basic s3cret"},
    ):
        status, answer = await call("GET", "/api/v1/status", headers=header)
        assert (status, answer["error"]["code"]) == (401, "unauthorized")
    right = {"Authorization": "bearer s3cret"}
    assert (await call("GET", "/api/v1/status", headers=right))[0] == 200
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        assert (await call("GET", path))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9901", "[::2]", "10.0.0.1"]
)
async def test_rebound_name_is_refused(call, host):
    """A foreign ``Host`` on loopback (DNS rebinding) gets 403, also on metrics."""
    for path in ("/api/v1/status", "/metrics"):
        status, answer = await call("GET", path, headers={"Host": host})
        assert (status, answer["error"]["code"]) == (403, "bad_host")


@pytest.mark.parametrize("host", ["localhost:9901", "127.0.0.1", "[::1]:9901"])
async def test_names_of_this_machine_are_fine(call, host):
    """Every loopback name is accepted as ``Host``."""
    assert (await call("GET", "/healthz", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ],
)
async def test_other_sites_pages_are_refused(call, backend, headers):
    """A request made by another site's page cannot block a client."""
    body = {"kind": "user", "id": "x"}
    status, _ = await call("POST", "/api/v1/blocks", json=body, headers=headers)
    assert (status, backend.list) == (403, [])


async def test_an_error_names_its_request(call):
    """Errors have a unique request id, also in the response header."""
    seen = set()
    for path in ("/api/v1/blocks/model/x", "/api/v1/nothing", "/nothing"):
        url = aiohttp.client.URL(call.base + path)
        async with call.session.delete(url) as answer:
            error = (await answer.json())["error"]
            assert error["request_id"] == answer.headers["X-Request-Id"]
            seen.add(error["request_id"])
    assert len(seen) == 3

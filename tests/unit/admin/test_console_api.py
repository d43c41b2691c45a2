"""Roles and sessions of the admin port, and the API against its document."""

from __future__ import annotations

import re
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import gateway.admin
from gateway.admin.api import build_app
from gateway.admin.openapi import document
from gateway.admin.sessions import MAX_FAILURES, AdminTokens
from gateway.detect.model import EvidenceWindow, Output, Ref
from tests.records import make_record
from tests.unit.admin.fake_backend import NOW, ApiClient, FakeBackend, make_incident

CONSOLE = Path(gateway.admin.__file__).parent / "console"
BLOCK = {"kind": "user", "id": "x"}
OPERATOR = {"Authorization": "Bearer op"}
VIEWER = {"Authorization": "Bearer view"}
OPEN = {"/", "/healthz", "/readyz", "/metrics", "/console/{name}"}


@pytest.fixture(name="backend")
def _backend():
    backend = FakeBackend()
    backend.tokens = AdminTokens("op", "view")
    return backend


@pytest.fixture(name="app")
def _app(backend):
    return build_app(backend, "127.0.0.1", lambda: NOW)


@pytest.fixture(name="call")
async def _call(app):
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield ApiClient(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


def routes(app) -> set[tuple[str, str]]:
    """Method and path of every route."""
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD"
    }


async def test_every_api_route_refuses_without_the_token(app, call):
    """Every ``/api`` route gets 401 without a token, except the session."""
    for method, path in routes(app):
        if path in OPEN or path == "/api/v1/session":
            continue
        assert path.startswith("/api/v1/")
        status, _ = await call(method, re.sub(r"\{\w+\}", "user", path))
        assert status == 401, path


def test_document_and_routes_agree(app):
    """The OpenAPI document lists exactly the served routes."""
    documented = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
    }
    served = {row for row in routes(app) if row[1].startswith("/api/")}
    assert documented == served


async def test_a_viewer_cannot_make_changes(app, call, backend):
    """Viewers get 403 on every changing route, and the attempts are audited."""
    assert (await call("GET", "/api/v1/blocks", headers=VIEWER))[0] == 200
    tried = [row for row in routes(app) if row[0] in ("POST", "DELETE")]
    tried = [row for row in tried if not row[1].endswith("/session")]
    for method, path in tried:
        target = re.sub(r"\{\w+\}", "user", path)
        status, answer = await call(method, target, json=BLOCK, headers=VIEWER)
        assert (status, answer["error"]["code"]) == (403, "viewer")
    assert [one.status for one in backend.activity.audit_log] == [403] * len(tried)


async def test_a_token_is_exchanged_for_a_cookie(call, backend):
    """A session authenticates, needs its CSRF token for changes, and can be ended."""
    status, session = await call("POST", "/api/v1/session", json={"token": "op"})
    assert (status, session["role"]) == (200, "operator")
    assert (await call("GET", "/api/v1/status"))[0] == 200
    status, answer = await call("POST", "/api/v1/blocks", json=BLOCK)
    assert (status, answer["error"]["code"]) == (403, "csrf")
    csrf = {"X-CSRF-Token": session["csrf"]}
    assert (await call("POST", "/api/v1/blocks", json=BLOCK, headers=csrf))[0] == 201
    assert (await call("GET", "/api/v1/session"))[1]["csrf"] == session["csrf"]
    assert (await call("DELETE", "/api/v1/session"))[0] == 204
    assert (await call("GET", "/api/v1/status"))[0] == 401


async def test_the_cookie_is_httponly_and_strict(call):
    """The session cookie is HttpOnly and SameSite=Strict."""
    url = f"{call.base}/api/v1/session"
    async with call.session.post(url, json={"token": "view"}) as answer:
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


async def test_guessing_is_locked_out(call):
    """After too many wrong tokens further wrong ones get 429, the right one never."""
    await call("POST", "/api/v1/session", json={"token": "op"})
    wrong = {"Authorization": "Bearer no"}
    for _ in range(MAX_FAILURES):
        assert (await call("GET", "/api/v1/status", headers=wrong))[0] == 401
    status, answer = await call("GET", "/api/v1/status", headers=wrong)
    assert (status, answer["error"]["code"]) == (429, "locked_out")
    assert (await call("GET", "/api/v1/status"))[0] == 200
    assert (await call("GET", "/api/v1/status", headers=OPERATOR))[0] == 200


async def test_headers_on_every_answer(call):
    """Security headers are set on pages, errors and the API."""
    for path in ("/", "/console/app.js", "/api/v1/status", "/nothing", "/metrics"):
        async with call.session.get(call.base + path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Frame-Options"] == "DENY"


async def test_the_console_is_served_and_small(call):
    """The console's files are below 200 KB in total and revalidated by ETag."""
    _, page = await call("GET", "/")
    names = re.findall(r"/console/([\w.]+)", page)
    total = len(page)
    modules = {path.name for path in CONSOLE.glob("*.js")}
    for name in {*names, *modules}:
        async with call.session.get(f"{call.base}/console/{name}") as answer:
            assert answer.status == 200
            total += len(await answer.read())
            tag = {"If-None-Match": answer.headers["ETag"]}
        assert (await call("GET", f"/console/{name}", headers=tag))[0] == 304
    assert total < 200_000
    for name in ("..%2Fapi.py", "%2e%2e%2fauth.py", "nothing.js"):
        assert (await call("GET", f"/console/{name}"))[0] == 404


def make_output(**audit_log):
    fields = {
        "type": "incident.opened", "id": "inc_a", "ts": "2025-11-23T16:46:27.000Z",
        "severity": "critical", "cls": "scraping", "score": 7.0,
        "subject": Ref("client_ip", "203.0.113.9"), "tenant": "acme",
        "action": "block", "until": None, "window": EvidenceWindow("a", "b"),
        "observed": {}, "expected": {}, "reasons": ("Requests enumerate a prompt template.",),
    }  # fmt: skip
    return Output(**{**fields, **audit_log})


async def test_one_incident_with_its_history_and_clients(call, backend):
    """An incident's page has its outputs, clients and timeline."""
    backend.activity.observe(make_record(ts=NOW))
    backend.activity.on_output(make_output())
    user = Ref("user", "key_1")
    backend.activity.on_output(make_output(type="client.blocked", subject=user))
    backend.known = [make_incident()]
    status, body = await call("GET", "/api/v1/incidents/inc_a", headers=OPERATOR)
    assert status == 200
    assert [one["type"] for one in body["story"]] == [
        "incident.opened",
        "client.blocked",
    ]
    assert [one["kind"] for one in body["clients"]] == ["client_ip", "user"]
    assert body["timeline"]["items"][-1]["requests"] == 1
    assert (await call("GET", "/api/v1/incidents/x", headers=OPERATOR))[0] == 404


async def test_the_live_stream(call, backend):
    """The stream resumes after ``Last-Event-ID``."""
    backend.activity.on_output(make_output())
    headers = OPERATOR | {"Last-Event-ID": "1-0"}
    async with call.session.get(
        f"{call.base}/api/v1/stream", headers=headers
    ) as answer:
        assert answer.content_type == "text/event-stream"
        text = b""
        while b"event: output" not in text:
            text += await answer.content.readany()
    assert b"id: 1-1" in text


async def test_an_operator_allows_a_subject(call, backend):
    """Allow is stored as an operator's tag and audited as ``allow``."""
    body = BLOCK | {"action": "allow", "ttl": "1h"}
    _, made = await call("POST", "/api/v1/blocks", json=body, headers=OPERATOR)
    assert (made["action"], backend.lesser[0].action) == ("allow", "tag")
    change = (await call("GET", "/api/v1/audit", headers=OPERATOR))[1]["items"][0]
    assert (change["what"], change["id"], change["role"]) == ("allow", "x", "operator")


@pytest.mark.parametrize("minutes", ["0", "1441", "x", "-1", ""])
async def test_timeline_minutes_are_validated(call, minutes):
    """The timeline accepts 1 to 1440 minutes."""
    path = f"/api/v1/timeline?minutes={minutes}"
    assert (await call("GET", path, headers=OPERATOR))[0] == 400
    assert (await call("GET", "/api/v1/timeline", headers=OPERATOR))[0] == 200


async def test_first_view_and_metrics_with_many_clients(call, backend):
    """The requests of the first view take below 3 s of CPU with 100,000 clients."""
    for number in range(100_000):
        record = make_record(ts=NOW, client_ip=f"ip{number}", user="one")
        backend.clients.observe(record)
        backend.metrics.observe(record)
    began = time.process_time()
    for path in ("timeline?minutes=30", "incidents", "clients?sort=now&limit=12"):
        assert (await call("GET", f"/api/v1/{path}", headers=OPERATOR))[0] == 200
    took_s = time.process_time() - began
    print(f"first view: {took_s * 1e3:.0f} ms")  # noqa: T201 - the measured value
    assert took_s < 3.0  # CPU time; typically 0.3 s
    assert len((await call("GET", "/metrics"))[1]) < 1_000_000


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("clients?limit=1_0", "bad_page"),
        ("clients?limit=%D9%A3", "bad_page"),
        ("blocks?cursor=99999999999999999999", "bad_page"),
        ("blocks?kind=model", "bad_kind"),
        ("timeline?minutes=%2B5", "bad_minutes"),
    ],
)
async def test_invalid_query_parameters_are_refused(call, path, code):
    """Numbers must be ASCII digits and kinds must be known."""
    status, answer = await call("GET", f"/api/v1/{path}", headers=OPERATOR)
    assert (status, answer["error"]["code"]) == (400, code)


async def test_a_name_that_begins_like_loopback_is_another_site(call):
    """A host name with a loopback prefix gets 403 (DNS rebinding)."""
    for name in ("127.0.0.1.example.com", "localhost.example.com"):
        headers = OPERATOR | {"Host": name}
        status, answer = await call("GET", "/api/v1/status", headers=headers)
        assert (status, answer["error"]["code"]) == (403, "bad_host")


@pytest.mark.parametrize(
    ("silence", "code"),
    [
        ({"subject": "203.0.113.9"}, "bad_subject"),
        ({"subject": "user:"}, "bad_subject"),
        ({"class": "scrapping"}, "bad_class"),
        ({"class": "scraping", "subject": "client_ip:203.0.113.9"}, None),
        ({"class": "gateway"}, None),
    ],
)
async def test_a_silence_that_would_match_nothing_is_refused(call, silence, code):
    """A silence with an unknown class or malformed subject gets 400."""
    headers = {"Authorization": "Bearer op"}
    status, answer = await call(
        "POST", "/api/v1/silences", json=silence, headers=headers
    )
    assert status == (201 if code is None else 400)
    assert code is None or answer["error"]["code"] == code

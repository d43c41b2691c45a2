"""Endpoints and models that a policy opens, and preflights without credentials."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateway.core.model import ModelList
from gateway.metering.prices import PriceTable, packaged_prices
from gateway.proxy.access import check_model
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
KEY = b"Authorization: Bearer sk-a\r\n"
ROUTE = 'api_key = "PROVIDER"\nwebsocket = true'
TENANT = (
    '[[tenant]]\nname = "a"\napi_keys = ["sha256:'
    + hashlib.sha256(b"sk-a").hexdigest()
    + '"]\n'
)
ACCOUNT = [
    "GET /v1/files",
    "DELETE /v1/files/file-1",
    "GET /v1/files/file-1/content",
    "POST /v1/files",
    "GET /v1/chat/completions",
    "GET /v1/chat/completions/chatcmpl-1/messages",
    "DELETE /v1/chat/completions/chatcmpl-1",
    "GET /v1/organization/admin_api_keys",
    "POST /v1/organization/admin_api_keys",
    "POST /v1/realtime/client_secrets",
    "POST /v1/realtime/sessions",
    "POST /v1/realtime/calls",
    "POST /v1/realtime?model=gpt-realtime",
    "GET /v1/realtime?model=gpt-realtime",
    "GET /v1/batches",
    "GET /v1/batches/batch_1",
    "GET /v1/responses/resp_1/input_items",
    "DELETE /v1/responses/resp_1",
    "DELETE /v1/models/ft:mine",
    "GET /v1/vector_stores",
    "GET /v1/fine_tuning/jobs",
    "GET /v1/FILES",
    "GET /v1/fil%65s",
    "GET /v1beta/files",
    "GET /v1beta/cachedContents",
    "OPTIONS /v1/files",
]
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
OPEN = [
    "GET /v1/models",
    "GET /v1/models/gpt-4o",
    "GET /v1/responses/resp_1",
    "POST /v1/responses/resp_1/cancel",
    "GET /v1/threads/t/runs/run_1",
    "POST /v1/threads/t/runs/run_1/cancel",
    "GET /v1/messages/batches/mb_1/results",
    "GET /v1beta/batches/b1",
]


async def send(gateway: InProcess, line: str, fields: bytes = KEY) -> bytes:
    method, _, path = line.partition(" ")
    return await gateway.talk(
        request(method.encode(), path.encode(), CLOSE + fields, b"")
    )


@pytest.mark.parametrize("line", ACCOUNT)
async def test_the_providers_account_is_not_open_to_tenants(line, upstream):
    """With the gateway's own key, tenants reach what is metered and the models."""
    async with InProcess(upstream, route=ROUTE, more=TENANT) as gateway:
        answer = await send(gateway, line)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert gateway.records[0].outcome == "refused"
        gateway.text = gateway.text.replace(
            'mode = "enforce"', 'endpoints = ["*"]\nmode = "enforce"'
        )
        gateway.reload()
        assert (await send(gateway, line)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("line", OPEN)
async def test_models_and_polls_are_open(line, upstream):
    """Lists of models, and work that is paid later by its id, pass."""
    async with InProcess(upstream, route=ROUTE, more=TENANT) as gateway:
        assert (await send(gateway, line)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("route", "more"), [("", TENANT), (ROUTE, "")])
async def test_an_account_of_ones_own_is_open(route, more, upstream):
    """With the client's own key, or without tenants, every endpoint passes."""
    async with InProcess(upstream, route=route, more=more) as gateway:
        assert (await send(gateway, ACCOUNT[0])).startswith(b"HTTP/1.1 200 ")


async def test_observe_mode_passes_closed_endpoints(upstream):
    """Observe mode refuses nothing for a policy's sake."""
    async with InProcess(upstream, route=ROUTE, more=TENANT) as gateway:
        gateway.text = gateway.text.replace('"enforce"', '"observe"')
        gateway.reload()
        assert (await send(gateway, ACCOUNT[0])).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("entry", "line", "opened"),
    [
        ("GET /v1/files/*", "GET /v1/files/f", True),
        ("GET /v1/files/*", "DELETE /v1/files/f", False),
        ("/v1/files*", "DELETE /v1/files/f", True),
        ("models", "GET /v1/models", True),
        ("models", "DELETE /v1/models/x", False),
        ("other", "GET /v1/containers", True),
        ("chat.*", "GET /v1/models", False),
    ],
)
async def test_a_list_of_endpoints(entry, line, opened, upstream):
    """Entries are names of endpoints, or paths with or without a method."""
    async with InProcess(upstream, policy=f'endpoints = ["{entry}"]') as gateway:
        answer = await send(gateway, line)
    assert answer.startswith(b"HTTP/1.1 200 " if opened else b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "name",
    [
        b"X-HTTP-Method-Override",
        b"x-method-override",
        b"X-HTTP-Method",
        b"X_HTTP_METHOD_OVERRIDE",
        b"x-http_method-override",
    ],
)
@pytest.mark.parametrize("closed", [False, True])
async def test_a_metered_request_is_of_its_method(closed, name, upstream):
    """Fields that override the method do not reach the upstream."""
    fields = KEY + name + b": POST\r\nX-Kept: 1\r\n"
    more = {"route": ROUTE, "more": TENANT} if closed else {}
    async with InProcess(upstream, **more) as gateway:
        await gateway.talk(request(b"POST", CHAT, CLOSE + fields, b'{"model":"m"}'))
        await gateway.talk(request(b"GET", b"/v1/models", CLOSE + fields))
    received = upstream.received.lower()
    assert received.count(b"x-kept: 1\r\n") == 2
    assert name.lower() not in received


async def test_an_upstream_without_meter_gets_every_field(upstream):
    """A passthrough is forwarded as it came."""
    fields = CLOSE + b"X-HTTP-Method-Override: DELETE\r\n"
    async with InProcess(upstream, route='dialect = "passthrough"') as gateway:
        await gateway.talk(request(b"POST", b"/x", fields, b"{}"))
    assert b"x-http-method-override: delete" in upstream.received.lower()


MODELS = 'models = { allow = ["gpt-4o*", "o3"], deny = ["gpt-4o-audio*"] }'


@pytest.mark.parametrize(
    ("model", "passes"),
    [
        ("gpt-4o", True),
        ("GPT-4o-mini", True),
        ("openai/gpt-4o", True),
        ("o3-2025-04-16", True),
        ("gpt-4o-audio-preview", False),
        ("openai/GPT-4O-Audio-preview", False),
        ("gpt-5", False),
        ("", False),
    ],
)
async def test_a_list_of_models(model, passes, upstream):
    """Lists hold in every spelling of a model; allow-listed clients are no exception."""
    rules = MODELS + '\nallow = ["127.0.0.1"]'
    async with InProcess(upstream, policy=rules) as gateway:
        body = json.dumps({"model": model, "messages": []}).encode()
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, body))
    assert answer.startswith(b"HTTP/1.1 200 " if passes else b"HTTP/1.1 403 ")
    assert passes or b"model_not_allowed" in answer


@pytest.mark.parametrize("query", ["model=gpt-5", "deployment=gpt-5", "x=1"])
async def test_a_list_of_models_holds_for_sessions(query, upstream):
    """The model of a WebSocket session is in its query."""
    async with InProcess(upstream, policy=MODELS, route=ROUTE) as gateway:
        answer = await send(gateway, f"GET /v1/realtime?{query}", UPGRADE)
        good = await send(gateway, "GET /v1/realtime?a=1&model=gpt-4o", UPGRADE)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert good.startswith(b"HTTP/1.1 200 ")


def test_a_denied_model_is_denied_by_the_name_of_its_price():
    """A dated alias is the model that the price table knows."""
    prices = PriceTable.parse(packaged_prices())
    denied = (ModelList(deny=("o3",)),)
    assert check_model(denied, "openai/o3-2025-04-16", prices) is not None
    assert check_model(denied, "o3-2025-04-16", None) is not None
    assert check_model(denied, "nobody/knows", prices) is None


PREFLIGHT = b"Origin: https://app.test\r\nAccess-Control-Request-Method: POST\r\n"


async def test_a_preflight_goes_upstream_without_credentials(upstream):
    """A preflight carries neither the provider's key nor the client's, and opens no
    tunnel.
    """
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n"
    fields = PREFLIGHT + KEY + upgrade
    for route in (ROUTE, "websocket = true"):
        async with InProcess(upstream, route=route) as gateway:
            raw = request(b"OPTIONS", CHAT + b"?key=sk-a&b=2", fields)
            assert (await gateway.talk(raw)).startswith(b"HTTP/1.1 200 ")
    received = upstream.received.lower()
    assert b"provider" not in received
    assert b"sk-a" not in received
    assert b"upgrade" not in received
    assert b"?b=2 http" in received


async def test_a_preflight_has_no_body(upstream):
    """A body would reach the upstream uncounted."""
    async with InProcess(upstream, route=ROUTE) as gateway:
        raw = request(b"OPTIONS", CHAT, PREFLIGHT + CLOSE, b'{"model":"m"}')
        assert (await gateway.talk(raw)).startswith(b"HTTP/1.1 400 ")
    assert not upstream.requests


async def test_preflights_are_limited_by_address(upstream):
    """Without a limit per address in the policy, 600 preflights a minute pass."""
    async with InProcess(upstream, route=ROUTE) as gateway:
        client = await gateway.client()
        for _ in range(600):
            client.send(request(b"OPTIONS", CHAT, PREFLIGHT))
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        client.send(request(b"OPTIONS", CHAT, PREFLIGHT))
        assert (await client.answer()).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize(
    "path", [b"/v1/batches", b"/v1/videos", b"/v1/fine_tuning/jobs"]
)
async def test_work_that_is_paid_later_is_not_metered(path, upstream):
    """What no answer states the cost of is opened by its name only."""
    body = b'{"model":"m"}'
    raw = request(b"POST", path, CLOSE + KEY, body)
    async with InProcess(upstream, route=ROUTE, more=TENANT) as gateway:
        assert (await gateway.talk(raw)).startswith(b"HTTP/1.1 403 ")
        gateway.text = gateway.text.replace(
            'mode = "enforce"',
            'endpoints = ["batches", "videos", "fine_tuning.*"]\nmode = "enforce"',
        )
        gateway.reload()
        assert (await gateway.talk(raw)).startswith(b"HTTP/1.1 200 ")


def key_table(rules: str) -> str:
    """A tenant whose only key has a name and ``rules``."""
    hash_ = hashlib.sha256(b"sk-a").hexdigest()
    entry = f'{{ name = "a", hash = "sha256:{hash_}", {rules} }}'
    return f'[[tenant]]\nname = "a"\napi_keys = [{entry}]\n'


@pytest.mark.parametrize(
    ("rules", "policy", "open_"),
    [
        ('endpoints = ["models"]', "", False),
        ('endpoints = ["chat.*"]', "", True),
        ('endpoints = ["chat.*"]', 'endpoints = ["models"]', False),
        ('endpoints = ["*"]', 'endpoints = ["chat.*"]', True),
        ('models = ["gpt-4*"]', "", True),
        ('models = ["gpt-5"]', "", False),
        ('models = ["gpt-4*"]', 'models = { allow = ["gpt-5"] }', False),
        ('models = { deny = ["x"] }', 'models = { deny = ["gpt-4o"] }', False),
    ],
)
async def test_the_lists_of_a_key_only_close(rules, policy, open_, upstream):
    """A request passes if the key's lists and those of the policy open it."""
    body = json.dumps({"model": "gpt-4o", "messages": []}).encode()
    async with InProcess(upstream, policy=policy, more=key_table(rules)) as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, KEY + CLOSE, body))
    assert answer.startswith(b"HTTP/1.1 " + (b"200" if open_ else b"403"))


GEMINI = "/v1beta/models/gemini-2.5-pro:generateContent"
PROMPT = b'{"contents":[{"parts":[{"text":"hi"}]}]}'
PARTS = (
    b"Range: bytes=0-9\r\nIf-Range: x\r\nif-none-match: y\r\nIf_Match: z\r\n"
    b"If-Modified-Since: Mon, 30 Nov 2026 00:00:00 GMT\r\nX-Goog-FieldMask: a\r\n"
    b"X-Rangefinder: kept\r\n"
)


@pytest.mark.parametrize(
    "path",
    [GEMINI + "?fields=candidates", GEMINI + "?alt=proto", "/v1/embeddings?$fields=x"],
)
async def test_answers_without_usage_cannot_be_asked_for(path, upstream):
    """A metered request is refused; observe mode lets it pass."""
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(request(b"POST", path.encode(), CLOSE, PROMPT))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"Answers must be whole" in answer
        assert not upstream.requests
        gateway.text = gateway.text.replace('"enforce"', '"observe"')
        gateway.reload()
        answer = await gateway.talk(request(b"POST", path.encode(), CLOSE, PROMPT))
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("method", "path", "kept"),
    [
        (b"POST", GEMINI + "?alt=sse", False),
        (b"GET", "/v1/messages/batches/b1/results", False),
        (b"GET", "/v1/files/f1/content", True),
        (b"GET", "/v1beta/files/f1?fields=name", True),
    ],
)
async def test_parts_of_metered_answers_cannot_be_asked_for(
    method, path, kept, upstream
):
    """The fields are removed where an answer states usage, and pass elsewhere."""
    async with InProcess(upstream) as gateway:
        body = PROMPT if method == b"POST" else b""
        await gateway.talk(request(method, path.encode(), CLOSE + PARTS, body))
    head = upstream.requests[0].lower()
    for name in (b"range", b"if-range", b"if-none-match", b"x-goog-fieldmask"):
        assert (b"\r\n" + name + b": " in head) is kept
    assert b"x-rangefinder: kept" in head

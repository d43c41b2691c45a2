"""Requests that several models may answer: every one is checked, one is charged."""

from __future__ import annotations

import json

import pytest

from gateway.core.model import Caps, ModelCaps, Policy, Price, RequestFacts, Usage
from gateway.metering.prices import PriceTable, packaged_prices
from gateway.proxy.caps import smallest_caps
from gateway.proxy.fallbacks import answered_place, dearest_model, quote_all
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
CHEAP, DEAR = "gpt-4o-mini", "gpt-5-pro"
RULES = """limits = [{ per = "user", requests = 9, window = "1h" }]
[[policy.default.model]]
match = "gpt-5-pro*"
limits = [
  { per = "user", requests = 1, window = "1h" },
  { per = "user", concurrent = 5 },
]
"""
PRICES = PriceTable.parse(packaged_prices())


def answer(model: str, *, tokens: int = 10, stated: bool = True) -> bytes:
    """An answer of this model."""
    body: dict[str, object] = {"choices": [{"message": {"content": "tide"}}]}
    if model:
        body["model"] = model
    if stated:
        body["usage"] = {
            "prompt_tokens": 10,
            "completion_tokens": tokens,
            "total_tokens": tokens + 10,
        }
    text = json.dumps(body).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(text) + text


def chat(**members: object) -> bytes:
    """A chat request."""
    body = {"messages": [{"role": "user", "content": "hi"}], **members}
    return request(b"POST", CHAT, CLOSE, json.dumps(body).encode())


@pytest.mark.parametrize(
    "members",
    [
        {"model": CHEAP, "models": [DEAR]},
        {"models": [CHEAP, "OpenAI/GPT-5-Pro:online"]},
        {"models": [DEAR]},
        {"model": CHEAP, "fallbacks": [{"model": f"{DEAR}-2025-10-06"}]},
        {"model": CHEAP, "fallbacks": [{CHEAP: [DEAR]}]},
        {"model": CHEAP, "providerOptions": {"gateway": {"models": [DEAR]}}},
        {"model": f"openai/{DEAR}@preset/gpt-4o-mini"},
    ],
)
@pytest.mark.parametrize(
    "policy",
    ['models = { deny = ["gpt-5-pro*"] }', 'models = { allow = ["gpt-4o-mini"] }'],
)
async def test_a_denied_model_is_denied_in_every_list(members, policy, upstream):
    """The request is refused if any model that may answer is not open."""
    async with InProcess(upstream, policy=policy) as gateway:
        reply = await gateway.talk(chat(**members))
    assert reply.startswith(b"HTTP/1.1 403 ")
    assert b"model_not_allowed" in reply
    assert not upstream.requests


async def test_a_preset_is_open_only_by_its_name(upstream):
    """Its model is known to the provider alone, whatever it is called."""
    upstream.default = (answer(CHEAP),)
    policy = 'models = { allow = ["gpt-4o-mini", "@preset/open"] }'
    async with InProcess(upstream, policy=policy) as gateway:
        for name in ("@preset/gpt-4o-mini", "@preset/other"):
            reply = await gateway.talk(chat(model=name))
            assert reply.startswith(b"HTTP/1.1 403 ")
        reply = await gateway.talk(chat(preset="gpt-4o-mini"))
        assert reply.startswith(b"HTTP/1.1 403 ")
        for members in ({"model": "@preset/open"}, {"preset": "open"}):
            reply = await gateway.talk(chat(**members))
            assert reply.startswith(b"HTTP/1.1 200 ")


async def test_a_model_without_a_price_is_refused_in_every_list(upstream):
    """``unknown_price = "deny"`` holds for fallbacks."""
    async with InProcess(upstream, policy='unknown_price = "deny"') as gateway:
        reply = await gateway.talk(chat(model=CHEAP, models=["nobody/knows"]))
    assert b"model_without_price" in reply


def test_the_smallest_caps_of_all_models_hold():
    """A cap of one model is not avoided by naming another first."""
    rules = (
        ModelCaps(("gpt-5*",), Caps(max_tokens=10, n=3, clamp=True)),
        ModelCaps(("o3",), Caps(max_tokens=20, n=2)),
        ModelCaps(("free",), Caps()),
    )
    policy = Policy("p", caps=Caps(max_tokens=90, clamp=True), model_caps=rules)

    def caps(model: str, *models: str) -> Caps:
        return smallest_caps(policy, RequestFacts("x", model=model, models=models))

    assert caps("gpt-5", "o3") == caps("o3", "gpt-5") == Caps(10, 2)
    assert caps("x", "gpt-5") == Caps(10, 3, clamp=True)
    assert caps("free", "x") == Caps(90)
    assert caps("x") == policy.caps


@pytest.mark.parametrize("answered", [DEAR, f"openai/{DEAR.upper()}", "", "router/new"])
async def test_a_limit_of_one_model_holds_in_every_list(answered, upstream):
    """Its second answer has no room, also where the answer does not name its model."""
    upstream.default = (answer(answered),)
    async with InProcess(upstream, policy=RULES) as gateway:
        statuses = [
            (await gateway.talk(chat(model=CHEAP, models=[DEAR])))[9:12]
            for _ in range(3)
        ]
        assert statuses == [b"200", b"429", b"429"]
        # The other model's own limits have room.
        assert (await gateway.talk(chat(model=CHEAP)))[9:12] == b"200"


async def test_a_model_that_has_not_answered_counts_nothing(upstream):
    """Its requests and leases are given back; the common limit counts each request."""
    upstream.default = (answer(f"{CHEAP}-2024-07-18"),)
    async with InProcess(upstream, policy=RULES) as gateway:
        body = chat(model=CHEAP, models=[DEAR])
        statuses = [(await gateway.talk(body))[9:12] for _ in range(10)]
        assert statuses == [b"200"] * 9 + [b"429"]
        await gateway.at_rest()


@pytest.mark.parametrize("answered", [DEAR, "", "router/new"])
async def test_money_is_reserved_and_settled_at_the_dearest(answered, upstream):
    """A policy's low price of the first model is not that of its fallback."""
    upstream.default = (answer(answered, tokens=1000),)
    policy = """limits = [{ per = "user", usd = 1, window = "day" }]
[policy.default.prices."llama3"]
input = 0.001
output = 0.001
"""
    async with InProcess(upstream, policy=policy) as gateway:
        members = {"model": "llama3", "models": [DEAR], "max_tokens": 9000}
        reply = await gateway.talk(chat(**members))
        assert reply.startswith(b"HTTP/1.1 200 ")
        record = await gateway.record()
        assert record.usd == pytest.approx((10 * 15 + 1000 * 120) / 1e6)
        # 9,000 tokens may cost $1.08 and do not fit beside $0.12; 10 of llama3 do.
        reply = await gateway.talk(chat(**members))
        assert reply.startswith(b"HTTP/1.1 429 ")
        reply = await gateway.talk(chat(model="llama3", max_tokens=10))
        assert reply.startswith(b"HTTP/1.1 200 ")


async def test_an_answer_without_usage_is_counted_at_the_dearest(upstream):
    """Nobody states which model it was."""
    upstream.default = (answer("", stated=False),)
    async with InProcess(upstream) as gateway:
        await gateway.talk(chat(model=CHEAP, models=[DEAR]))
        record = await gateway.record()
    assert record.usage_source != "upstream"
    assert record.usd > 1e-4


async def test_a_web_search_is_charged_once(upstream):
    """Of a model that searches for every answer, where the answer does not state it."""
    upstream.default = (answer(DEAR),)
    policy = """[policy.default.prices."searcher*"]
input = 0
output = 0
web_searches = 20
"""
    async with InProcess(upstream, policy=policy) as gateway:
        await gateway.talk(chat(model="searcher:online"))
        assert (await gateway.record()).usd == pytest.approx(0.02)


def test_which_model_answered():
    """By its name as it is, else by one name for all spellings."""
    facts = RequestFacts("x", model="a/gpt-4o-2024-08-06", models=("gpt-4o", "o3"))
    assert answered_place(facts, "gpt-4o", PRICES) == 1
    assert answered_place(facts, "openai/o3-2025-04-16", PRICES) == 2
    assert answered_place(facts, "O3", None) == 2
    assert answered_place(facts, "openai/O3", None) == 2
    assert answered_place(facts, "x", None) is None
    assert answered_place(facts, "", PRICES) is None


def test_the_dearest_model():
    """By what the usage would cost."""
    usage = Usage(10, 10, 20)
    facts = RequestFacts("x", model=CHEAP, models=(DEAR, "nobody/knows"))
    assert dearest_model(PRICES, facts, usage, 0.0) == DEAR
    assert dearest_model(None, facts, usage, 0.0) == CHEAP
    assert dearest_model(PRICES, RequestFacts("x", model="m"), usage, 0.0) == "m"
    table = PRICES.with_overrides({CHEAP: Price(1000.0, 1000.0)})
    assert quote_all(table, facts, usage, 0.0)[:2] == (20_000_000, "policy")


DEPLOYMENT = b"/openai/deployments/%s/chat/completions"


def deployed(name: bytes, model: str) -> bytes:
    """A chat request for a deployment; the body names this model."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return request(b"POST", DEPLOYMENT % name, CLOSE, json.dumps(body).encode())


@pytest.mark.parametrize("names", [(b"gpt-5-pro", CHEAP), (b"mine", DEAR)])
async def test_a_list_of_models_holds_for_path_and_body(upstream, names):
    """Whichever of both a server reads."""
    policy = 'models = { deny = ["gpt-5-pro*"] }'
    async with InProcess(upstream, policy=policy) as gateway:
        upstream.default = (answer(DEAR),)
        text = await gateway.talk(deployed(*names))
        assert text.startswith(b"HTTP/1.1 403"), text
        assert not upstream.requests


@pytest.mark.parametrize(
    ("deployment", "model", "answered"),
    [
        (b"gpt-5-pro", "llama", DEAR),
        (b"llama", "llama", DEAR),
        (b"mine", DEAR, ""),  # pictures and speech do not name their model
    ],
)
async def test_the_path_decides_the_price(deployment, model, answered, upstream):
    """A free name in the body makes no deployment free, nor does a pattern another known
    model.
    """
    upstream.default = (answer(answered, tokens=1000),)
    policy = """limits = [{ per = "tenant", usd = 100, window = "1d" }]
[policy.default.prices."llama*"]
input = 0
output = 0
"""
    async with InProcess(upstream, policy=policy) as gateway:
        await gateway.talk(deployed(deployment, model))
        made = await gateway.record()
    assert made.model == deployment.decode()
    assert made.usd_nanos == PRICES.cost_nanos(DEAR, Usage(10, 1000, 1010))


ADVISED = {
    "model": "claude-haiku-4-5",
    "usage": {
        "input_tokens": 10,
        "output_tokens": 20,
        "iterations": [
            {"type": "message", "input_tokens": 10, "output_tokens": 20},
            {
                "type": "advisor_message",
                "model": "claude-opus-4-6",
                "input_tokens": 1000,
                "output_tokens": 500,
            },
        ],
    },
}
PLAIN = {"model": "claude-haiku-4-5", "usage": {"input_tokens": 9, "output_tokens": 9}}


def advised(**members: object) -> bytes:
    """A message whose answer may take advice of a dearer model."""
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "advisor_20260301", "model": "claude-opus-4-6"}],
        **members,
    }
    return request(b"POST", b"/v1/messages", CLOSE, json.dumps(body).encode())


def json_answer(members: object) -> bytes:
    """An answer with this body."""
    text = json.dumps(members).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(text) + text


@pytest.mark.parametrize(
    "policy",
    ['models = { deny = ["claude-opus*"] }', 'models = { allow = ["claude-haiku*"] }'],
)
async def test_a_list_of_models_holds_for_tools(policy, upstream):
    """A denied model is no advisor either."""
    async with InProcess(upstream, policy=policy) as gateway:
        reply = await gateway.talk(advised())
    assert reply.startswith(b"HTTP/1.1 403 ")
    assert not upstream.requests


async def test_an_advisor_costs_as_its_model(upstream):
    """And is reserved so: beside its cap, a call without a cap may run for it."""
    upstream.default = (json_answer(ADVISED),)
    policy = 'limits = [{ per = "user", usd = 1, window = "day" }]'
    async with InProcess(upstream, policy=policy) as gateway:
        reply = await gateway.talk(advised())
        assert reply.startswith(b"HTTP/1.1 200 "), reply
        record = await gateway.record()
        assert record.total_tokens == 1530
        assert record.usd == pytest.approx((10 + 20 * 5 + 1000 * 5 + 500 * 25) / 1e6)
        await gateway.at_rest()


@pytest.mark.parametrize(("answer", "last"), [(ADVISED, b"429"), (PLAIN, b"200")])
async def test_a_limit_of_the_model_of_a_tool(answer, last, upstream):
    """Counts where the tool has run, and is given back where it has not."""
    upstream.default = (json_answer(answer),)
    policy = """[[policy.default.model]]
match = "claude-opus*"
limits = [{ per = "user", requests = 1, window = "1h" }]
"""
    async with InProcess(upstream, policy=policy) as gateway:
        statuses = [(await gateway.talk(advised()))[9:12] for _ in range(2)]
        assert statuses == [b"200", last]

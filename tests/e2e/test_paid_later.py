"""Work that is accepted now and paid later is counted once, when its end is seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from gateway.limits.ports import Store
from gateway.store import works
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from tests.doubles import RecordingUpstream, RunningUpstream, Script
from tests.engines import Engine, engine_binaries, running_engine
from tests.gateway_process import PATIENT, call, running_gateway
from tests.gateway_process import until as call_until
from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RESPONSES = b"/v1/responses"
MODEL = "o3-pro"
LIMITS = """limits = [
  { per = "tenant", requests = 100, window = "1h" },
  { per = "tenant", tokens = 200_000, window = "1h" },
  { per = "tenant", usd = 1_000, window = "day" },
  { per = "tenant", concurrent = 50 },
]"""
USAGE = {
    "input_tokens": 10,
    "output_tokens": 50_000,
    "output_tokens_details": {"reasoning_tokens": 49_000},
    "total_tokens": 50_010,
}


def ask(cap: int | None = 60_000, **more: Any) -> bytes:
    """The body of a background response."""
    body = {"model": MODEL, "input": "hi", "background": True, **more}
    if cap is not None:
        body["max_output_tokens"] = cap
    return json.dumps(body).encode()


def response(status: str, usage: Any = None, id_: str = "resp_1") -> dict[str, Any]:
    """A response as OpenAI states it."""
    return {"id": id_, "object": "response", "status": status, "usage": usage}


class Answering(RecordingUpstream):
    """Answers by method and path."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}

    def script_for(self, request: bytes) -> Script:
        """The answer that the test has set; 404 for any other path."""
        method, target, _ = request.split(b" ", 2)
        path = target.partition(b"?")[0].decode()
        answer = self.answers.get(f"{method.decode()} {path}")
        if callable(answer):
            answer = answer()
        if answer is None:
            return (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",)
        if isinstance(answer, bytes):
            kind, body = b"text/event-stream", answer
        else:
            kind, body = b"application/json", json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        return (head % (kind, len(body)) + body,)


@pytest.fixture(name="upstream")
async def _upstream() -> AsyncIterator[Answering]:
    """An upstream that accepts responses, and then says that they go on."""
    async with Answering() as upstream:
        upstream.answers["POST /v1/responses"] = response("queued")
        upstream.answers["GET /v1/responses/resp_1"] = response("in_progress")
        yield upstream


@pytest.fixture(name="engine", scope="module")
def _engine() -> Iterator[Engine]:
    binary = engine_binaries().get("redis") or engine_binaries().get("embedded")
    if binary is None:
        pytest.skip("no engine on this machine")
    with running_engine(binary) as engine:
        yield engine


@pytest.fixture(name="open_store", params=["memory", "redis"])
def _open_store(request, engine) -> Callable[[], Store]:
    """Opens a store for one of two gateways that share it."""
    if request.param == "memory":
        shared = MemoryStore()
        return lambda: shared
    engine.command(b"FLUSHALL")
    return lambda: RedisStore(engine.url, timeout_s=5.0)


@contextlib.asynccontextmanager
async def two_gateways(
    upstream: Answering, open_store: Callable[[], Store], policy: str = LIMITS
) -> AsyncIterator[tuple[InProcess, InProcess]]:
    """Two gateways that share a store."""
    one = InProcess(upstream, policy=policy, store=open_store())
    two = InProcess(upstream, policy=policy, store=open_store())
    async with one, two:
        yield one, two


def waiting(store: Store) -> bool:
    """Whether calls to the store have no answer yet."""
    return bool(getattr(store, "backlog", 0) or getattr(store, "_sent", None))


async def send(
    gateway: InProcess,
    path: bytes,
    body: bytes | None = None,
    method: bytes = b"",
    fields: bytes = b"",
) -> bytes:
    """The answer to one request; its record is written, and the store has its end."""
    before = len(gateway.records)
    client = await gateway.client()
    method = method or (b"POST" if body is not None else b"GET")
    if body:
        fields += b"Content-Type: application/json\r\n"
    client.send(request(method, path, fields, body=body))
    answer = await client.answer()
    store = gateway.plane.shared.store
    await until(lambda: len(gateway.records) > before)
    await until(lambda: not (store.up and waiting(store)))
    client.close()
    return answer


class Cells:
    """Remembers the cells of the last reservation, to read their sums."""

    def __init__(self, gateway: InProcess) -> None:
        self.store = gateway.plane.shared.store
        self.cells: tuple[Any, ...] = ()
        self._reserve = self.store.reserve
        self.store.reserve = self._note  # type: ignore[method-assign]

    def _note(self, plan: Any, *rest: Any, **more: Any) -> Any:
        self.cells = plan.cells[: len(plan.cells) - len(plan.looks)]  # no tallies
        return self._reserve(plan, *rest, **more)

    async def sums(self) -> list[int]:
        """Requests, tokens, nano-dollars and open exchanges of the tenant."""
        return await self.store.peek(self.cells)


def usage_of(gateway: InProcess) -> list[tuple[str, int, str]]:
    """Endpoint, tokens and metering of the records."""
    return [(r.endpoint, r.total_tokens, r.metering) for r in gateway.records]


async def test_another_gateway_shows_the_end(upstream, open_store):
    """The reservation stays until the end is seen, which settles it at what is stated,
    once, whoever sees it.
    """
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask())
        assert usage_of(one) == [("responses", 0, "pending")]
        held = await cells.sums()
        assert held[0] == 1
        assert 60_000 < held[1] < 61_000
        assert held[2] > 4e9
        assert held[3] == 0  # the exchange itself has ended
        await send(two, RESPONSES + b"/resp_1")
        assert (await cells.sums())[1:] == held[1:]
        upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
        await asyncio.gather(
            *(send(gateway, RESPONSES + b"/resp_1") for gateway in (one, two) * 10)
        )
        found = [r for r in one.records + two.records if r.total_tokens]
        assert [(r.total_tokens, r.reasoning_tokens) for r in found] == [
            (50_010, 49_000)
        ]
        assert (found[0].endpoint, found[0].model) == ("responses.retrieve", MODEL)
        assert (found[0].usage_source, found[0].metering) == ("upstream", "")
        for _ in range(500):  # the last polls are ending
            settled = await cells.sums()
            if not settled[3]:
                break
            await asyncio.sleep(0.01)
        assert settled == [22, 50_010, found[0].usd_nanos, 0]
        assert found[0].usd_nanos > 3.9e9


async def test_many_are_limited(upstream, open_store):
    """Ten responses of up to 60,000 tokens do not fit a limit of 200,000."""
    numbers = iter(range(100))
    upstream.answers["POST /v1/responses"] = lambda: response(
        "queued", id_=f"resp_{next(numbers)}"
    )
    async with two_gateways(upstream, open_store) as (one, two):
        answers = [await send(one, RESPONSES, ask()) for _ in range(5)]
        answers += [await send(two, RESPONSES, ask()) for _ in range(5)]
        assert sum(b" 200 OK" in answer for answer in answers) == 3
        assert sum(b" 429 " in answer for answer in answers) == 7


@pytest.mark.parametrize(
    ("end", "tokens", "metering", "sums"),
    [
        (response("failed"), 0, "", (0, 0)),
        (response("cancelled"), 60_007, "reserved", (60_007, None)),
        (response("cancelled", USAGE), 50_010, "", (50_010, None)),
        (response("incomplete", USAGE), 50_010, "", (50_010, None)),
    ],
    ids=["failed", "cancelled", "cancelled-stated", "incomplete"],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_other_ends(method, end, tokens, metering, sums, upstream, open_store):
    """What failed costs what is stated: nothing. What was cancelled stays as reserved,
    unless its usage is stated.
    """
    path = RESPONSES + b"/resp_1" + (b"/cancel" if method == b"POST" else b"")
    upstream.answers[f"{method.decode()} {path.decode()}"] = end
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask(input="x" * 24))
        for _ in range(3):
            await send(two, path, b"" if method == b"POST" else None, method)
        first, *others = usage_of(two)
        assert first[1:] == (tokens, metering)
        assert {other[1:] for other in others} == {(0, "")}
        found = await cells.sums()
        assert found[0] == 4
        assert found[1] == sums[0]
        assert found[2] == two.records[0].usd_nanos


async def test_it_is_never_fetched(upstream, open_store, monkeypatch):
    """It stays charged as reserved; when it has waited for too long, a record says so."""
    monkeypatch.setattr(works, "KEPT_S", 0.2)
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask())
        held = (await cells.sums())[1:]
        await asyncio.sleep(0.3)
        upstream.answers["POST /v1/responses"] = response("queued", id_="resp_2")
        await send(two, RESPONSES, ask(cap=10))
        late, new = sorted(two.records, key=lambda r: r.total_tokens, reverse=True)
        assert (late.endpoint, late.metering) == ("responses", "reserved")
        assert late.total_tokens == held[0]
        assert late.request_id == one.records[0].request_id
        assert new.metering == "pending"
        upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
        await send(two, RESPONSES + b"/resp_1")
        assert two.records[-1].total_tokens == 0
        assert (await cells.sums())[1] - held[0] < 30


async def test_it_is_never_fetched_and_nothing_follows(
    upstream, open_store, monkeypatch
):
    """The worker that accepted it asks once a minute for what has waited for too long."""
    monkeypatch.setattr(works, "KEPT_S", 0.1)
    async with two_gateways(upstream, open_store) as (one, _):
        await send(one, RESPONSES, ask())
        await asyncio.sleep(0.2)
        service = one.plane.service
        service.tick()
        assert len(one.records) == 1
        service._swept_at -= 61
        service.tick()
        await until(lambda: len(one.records) == 2)
        assert usage_of(one)[1][2] == "reserved"
        assert one.records[1].usd > 4
        assert one.plane.shared.works_reserved == 1


async def test_without_limits(upstream, open_store):
    """Tokens and money are recorded all the same."""
    async with two_gateways(upstream, open_store, "") as (one, two):
        await send(one, RESPONSES, ask())
        upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
        await send(two, RESPONSES + b"/resp_1")
        await send(two, RESPONSES + b"/resp_1")
        assert [r.total_tokens for r in two.records] == [50_010, 0]
        assert two.records[0].usd > 3.9


def events(*names: str, usage: Any = None, more: str = "") -> bytes:
    """A stream of a response's events."""
    lines = []
    for name in names:
        stated = usage if name == "completed" else None
        event = {"type": f"response.{name}", "response": response(name, stated)}
        lines.append(f"event: response.{name}\ndata: {json.dumps(event)}\n\n")
    return "".join([*lines, more]).encode()


async def test_a_usage_before_the_end(upstream, open_store):
    """What an answer states while the work goes on settles nothing."""
    early = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    upstream.answers["GET /v1/responses/resp_1"] = response("in_progress", early)
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask())
        await send(two, RESPONSES + b"/resp_1")
        assert (await cells.sums())[1] > 60_000
        assert two.records[0].total_tokens == 0


async def test_streams(upstream, open_store):
    """A stream that breaks off is taken up by another call, which shows the end."""
    upstream.answers["POST /v1/responses"] = events(
        "queued", "in_progress", more='event: x\ndata: {"status":"odd"}\n\n'
    )
    upstream.answers["GET /v1/responses/resp_1"] = events("completed", usage=USAGE)
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask(stream=True))
        assert usage_of(one) == [("responses", 0, "pending")]
        assert (await cells.sums())[1] > 60_000
        await send(two, RESPONSES + b"/resp_1?stream=true&starting_after=1")
        await send(one, RESPONSES + b"/resp_1?stream=true&starting_after=1")
        assert [r.total_tokens for r in two.records] == [50_010]
        assert one.records[-1].total_tokens == 0
        assert (await cells.sums())[1] == 50_010


async def test_a_stream_without_a_cap(upstream, open_store):
    """What such a stream has reserved as it flowed is part of what stays."""
    text = "".join(
        f'data: {{"type":"response.output_text.delta","delta":"{"word " * 20}"}}\n\n'
        for _ in range(400)
    )
    upstream.answers["POST /v1/responses"] = events("in_progress", more=text)
    upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask(None, stream=True))
        assert usage_of(one) == [("responses", 0, "pending")]
        assert (await cells.sums())[1] > 4096
        await send(two, RESPONSES + b"/resp_1")
        assert (await cells.sums())[1] == 50_010


async def test_without_a_cap_near_the_edge(upstream, open_store):
    """Work without a cap counts with what it may cost, at most with all that is left, so
    that not one after the other passes the edge of a limit.
    """
    numbers = iter(range(100))
    upstream.answers["POST /v1/responses"] = lambda: response(
        "queued", id_=f"resp_{next(numbers)}"
    )
    limits = 'limits = [{ per = "tenant", tokens = 40_000, window = "1h" }]'
    async with two_gateways(upstream, open_store, limits) as (one, two):
        cells = Cells(one)
        answers = [await send(g, RESPONSES, ask(None)) for g in (one, two) * 4]
        assert sum(b" 200 OK" in answer for answer in answers) == 2
        assert (await one.store.peek(cells.cells[:1]))[0] == 44_000  # all that is left
        for number, status in enumerate(("completed", "failed")):
            path = f"/v1/responses/resp_{number}"
            usage = USAGE if status == "completed" else None
            upstream.answers[f"GET {path}"] = response(status, usage, path[-6:])
            await send(two, path.encode())
        assert (await one.store.peek(cells.cells[:1]))[0] == 50_010


async def test_an_ordinary_response(upstream, open_store):
    """It is settled at once, and fetching it again counts nothing."""
    upstream.answers["POST /v1/responses"] = response("completed", USAGE)
    upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RESPONSES, ask(background=False))
        await send(two, RESPONSES + b"/resp_1")
        assert [r.total_tokens for r in one.records + two.records] == [50_010, 0]
        assert (await cells.sums())[1] == 50_010


async def test_the_client_that_asked_pays(upstream, open_store):
    """Another client that fetches the answer is charged nothing."""
    limits = 'limits = [{ per = "user", tokens = 100_000, window = "1h" }]'
    upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
    async with two_gateways(upstream, open_store, limits) as (one, two):
        cells = Cells(one)
        alice, bob = (b"Authorization: Bearer %b\r\n" % n for n in (b"alice", b"bob"))
        await send(one, RESPONSES, ask(), fields=alice)
        hers = cells.cells
        await send(two, RESPONSES + b"/resp_1", fields=bob)
        assert two.records[0].total_tokens == 50_010
        assert two.records[0].user == one.records[0].user
        assert await one.store.peek(hers) == [50_010]
        await send(one, RESPONSES, ask(cap=100), fields=bob)
        assert (await cells.sums())[0] < 200


async def test_observe_mode(upstream, open_store):
    """What passes beyond a limit is counted when its end is seen."""
    limits = 'limits = [{ per = "tenant", tokens = 100, window = "1h" }]'
    upstream.answers["GET /v1/responses/resp_1"] = response("completed", USAGE)
    async with two_gateways(upstream, open_store, limits) as (one, two):
        cells = Cells(one)
        for gateway in (one, two):
            gateway.text = gateway.text.replace("enforce", "observe")
            gateway.reload()
        await send(one, RESPONSES, ask(input="x" * 4000))
        assert (await cells.sums())[0] == 0
        await send(two, RESPONSES + b"/resp_1")
        assert (await cells.sums())[0] == 50_010


def run(status: str, usage: Any = None) -> dict[str, Any]:
    """A run of an assistant."""
    return {"id": "run_1", "object": "thread.run", "status": status, "usage": usage}


RUNS = b"/v1/threads/t/runs"
RUN_USAGE = {"prompt_tokens": 9_000, "completion_tokens": 900, "total_tokens": 9_900}
RUN = json.dumps({"model": "gpt-4o", "max_completion_tokens": 1000}).encode()


@pytest.mark.parametrize("stream", [False, True])
async def test_runs(stream, upstream, open_store):
    """Calls that go on with a run reserve as well; its end states the usage of all."""
    upstream.answers["POST /v1/threads/t/runs"] = run("queued")
    done = run("completed", RUN_USAGE)
    step = {"object": "thread.run.step", "id": "step_1", "status": "completed"}
    if stream:
        events = [
            ("created", run("queued")),
            ("requires_action", run("requires_action")),
        ]
        upstream.answers["POST /v1/threads/t/runs"] = "".join(
            f"event: thread.run.{name}\ndata: {json.dumps(data)}\n\n"
            for name, data in [*events, ("step.completed", step)]
        ).encode()
    tools = "/v1/threads/t/runs/run_1/submit_tool_outputs"
    upstream.answers[f"POST {tools}"] = run("queued")
    upstream.answers["GET /v1/threads/t/runs/run_1"] = run("in_progress")
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(
            one, RUNS, RUN.replace(b"{", b'{"stream":true,', 1) if stream else RUN
        )
        assert usage_of(one) == [("threads.runs", 0, "pending")]
        held = (await cells.sums())[1]
        await send(two, tools.encode(), b'{"tool_outputs":[]}')
        assert two.records[0].metering == "pending"
        assert (await cells.sums())[1] > held + 4096
        await send(two, RUNS + b"/run_1")
        upstream.answers["GET /v1/threads/t/runs/run_1"] = done
        await send(one, RUNS + b"/run_1")
        await send(two, RUNS + b"/run_1")
        assert [r.total_tokens for r in one.records + two.records] == [0, 9900, 0, 0, 0]
        assert one.records[-1].model == "gpt-4o"
        assert (await cells.sums())[1] == 9900


async def test_a_call_that_goes_on_shows_the_end(upstream, open_store):
    """Its usage is the whole run's, and counts once."""
    tools = "/v1/threads/t/runs/run_1/submit_tool_outputs"
    upstream.answers["POST /v1/threads/t/runs"] = run("queued")
    upstream.answers[f"POST {tools}"] = run("completed", RUN_USAGE)
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, RUNS, RUN)
        await send(two, tools.encode(), b'{"tool_outputs":[]}')
        assert [r.total_tokens for r in two.records] == [9900]
        assert await cells.sums() == [2, 9900, two.records[0].usd_nanos, 0]
        # Of a run that is not known here, the call is charged by itself.
        await send(two, tools.encode(), b'{"tool_outputs":[]}')
        assert (await cells.sums())[1] == 2 * 9900


def interaction(status: str, **more: Any) -> dict[str, Any]:
    """An interaction as Gemini states it."""
    return {"id": "v1_a", "object": "interaction", "status": status, **more}


@pytest.mark.parametrize("status", ["completed", "requires_action"])
@pytest.mark.parametrize("stream", [False, True])
async def test_interactions(stream, status, upstream, open_store):
    """Gemini's Interactions, deep research among them."""
    path = "/v1beta/interactions"
    event = {
        "event_type": "interaction.start",
        "interaction": interaction("in_progress"),
    }
    begun = f"data: {json.dumps(event)}\n\n".encode()
    usage = {"total_input_tokens": 7, "total_output_tokens": 93, "total_tokens": 100}
    upstream.answers[f"POST {path}"] = begun if stream else interaction("in_progress")
    upstream.answers[f"GET {path}/v1_a"] = interaction(status, usage=usage)
    body = {"agent": "deep-research-pro-preview", "input": "hi", "background": True}
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, path.encode(), json.dumps({**body, "stream": stream}).encode())
        assert usage_of(one) == [("interactions", 0, "pending")]
        assert (await cells.sums())[1] > 4096
        await send(two, path.encode() + b"/v1_a?fields=status")
        await send(two, path.encode() + b"/v1_a")
        assert [r.total_tokens for r in two.records] == [0, 100]
        assert (await cells.sums())[1] == 100


@pytest.mark.parametrize("query", [b"?fields=status", b"?%24fields=id", b"?Fields=id"])
async def test_a_part_of_an_answer_settles_nothing(query, upstream, open_store):
    """Google's servers answer with a part where the client asks for one."""
    path = "/v1beta/batches/b1"
    inline = {"batch": {"inputConfig": {"requests": {"requests": [{"request": {}}]}}}}
    name = b"/v1beta/models/gemini-2.5-flash:batchGenerateContent"
    upstream.answers[f"POST {name.decode()}"] = google("PENDING")
    upstream.answers[f"GET {path}"] = google("FAILED")
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, name, json.dumps(inline).encode())
        held = await cells.sums()
        await send(two, path.encode() + query)
        assert (await cells.sums())[1] == held[1] > 4000
        # A part that the field asks for is never sent: the field is removed.
        await send(two, path.encode(), fields=b"X-Goog-FieldMask: name\r\n")
        assert b"fieldmask" not in upstream.requests[-1].lower()
        for _ in range(500):  # the other gateway's settlement is on its way
            settled = (await cells.sums())[1]
            if not settled:
                break
            await asyncio.sleep(0.01)
        assert settled == 0


def google(state: str, *answers: Any) -> dict[str, Any]:
    """Google's operation of a batch."""
    made = {"name": "batches/b1", "metadata": {"state": f"BATCH_STATE_{state}"}}
    if answers:
        made["done"] = True
        made["response"] = {"inlinedResponses": {"inlinedResponses": list(answers)}}
    return made


async def test_googles_batches(upstream, open_store):
    """They cost half of what the answers to their requests state."""
    config = {"generationConfig": {"maxOutputTokens": 1000}}
    items = [{"request": {"contents": [], **config}} for _ in range(3)]
    body = {"batch": {"inputConfig": {"requests": {"requests": items}}}}
    path = b"/v1beta/models/gemini-2.5-flash:batchGenerateContent"
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 100, "totalTokenCount": 107}
    good = {"response": {"candidates": [], "usageMetadata": usage}}
    upstream.answers[f"POST {path.decode()}"] = google("PENDING")
    upstream.answers["GET /v1beta/batches/b1"] = google(
        "SUCCEEDED", good, {"error": {"code": 3}}, good
    )
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, path, json.dumps(body).encode())
        assert usage_of(one) == [("batch_generate_content", 0, "pending")]
        assert (await cells.sums())[1] > 3000
        await send(two, b"/v1beta/batches/b1")
        record = two.records[0]
        assert (record.total_tokens, record.model) == (214, "gemini-2.5-flash")
        prices = two.plane.shared.tables._prices["default"].price("gemini-2.5-flash")
        full = 14 * prices.input + 200 * prices.output
        assert record.usd == pytest.approx(full / 2e6)
        assert (await cells.sums())[:2] == [4, 214]


def message_batch(status: str, **counts: int) -> dict[str, Any]:
    """Anthropic's batch."""
    return {"id": "mb_1", "processing_status": status, "request_counts": counts}


async def test_anthropics_batches(upstream, open_store):
    """Their results state what each request has used."""
    params = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": []}
    body = {"requests": [{"custom_id": "a", "params": params}] * 3}
    path = "/v1/messages/batches"
    message = {"id": "m", "usage": {"input_tokens": 10, "output_tokens": 90}}
    results = [
        {"custom_id": "a", "result": {"type": "succeeded", "message": message}},
        {"custom_id": "b", "result": {"type": "errored", "error": {}}},
        {"custom_id": "c", "result": {"type": "succeeded", "message": message}},
    ]
    upstream.answers[f"POST {path}"] = message_batch("in_progress", succeeded=0)
    ended = message_batch("ended", succeeded=2, errored=1)
    upstream.answers[f"GET {path}/mb_1"] = ended
    upstream.answers[f"GET {path}/mb_1/results"] = b"\n".join(
        json.dumps(result).encode() for result in results
    )
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, path.encode(), json.dumps(body).encode())
        held = await cells.sums()
        assert held[1] > 3000
        await send(two, path.encode() + b"/mb_1")
        assert (await cells.sums())[1] == held[1]
        await send(two, path.encode() + b"/mb_1/results")
        await send(one, path.encode() + b"/mb_1/results")
        assert [r.total_tokens for r in two.records] == [0, 200]
        assert one.records[-1].total_tokens == 0
        assert (await cells.sums())[:2] == [6, 200]


async def test_a_batch_whose_requests_all_failed(upstream, open_store):
    """It costs nothing."""
    params = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": []}
    body = {"requests": [{"custom_id": "a", "params": params}] * 3}
    path = "/v1/messages/batches"
    upstream.answers[f"POST {path}"] = message_batch("in_progress", succeeded=0)
    upstream.answers[f"GET {path}/mb_1"] = message_batch(
        "ended", succeeded=0, errored=3
    )
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, path.encode(), json.dumps(body).encode())
        await send(two, path.encode() + b"/mb_1")
        assert (await cells.sums())[:2] == [4, 0]


async def test_openais_batches(upstream, open_store):
    """The usage and model that a batch of a file states at its end."""
    batch = {"id": "batch_1", "object": "batch", "status": "validating", "model": None}
    usage = {"input_tokens": 100, "output_tokens": 900, "total_tokens": 1000}
    nothing = dict.fromkeys(usage, 0)
    upstream.answers["POST /v1/batches"] = {**batch, "usage": nothing}
    done = {**batch, "status": "completed", "model": "gpt-4o", "usage": usage}
    counts = {"total": 9, "completed": 9, "failed": 0}
    upstream.answers["GET /v1/batches/batch_1"] = {**done, "request_counts": counts}
    async with two_gateways(upstream, open_store) as (one, two):
        cells = Cells(one)
        await send(one, b"/v1/batches", b'{"input_file_id":"f"}')
        assert usage_of(one) == [("batches", 0, "pending")]
        assert (await cells.sums())[1:3] == [8 * 4096 + 1, 10**9]
        await send(two, b"/v1/batches/batch_1")
        record = two.records[0]
        assert (record.total_tokens, record.metering) == (1000, "")
        assert record.usd > 0
        assert (await cells.sums())[1:3] == [1000, record.usd_nanos]


async def test_the_store_is_away(upstream, engine):
    """Accepted meanwhile: charged as reserved at once, and the record says so."""
    stores = [RedisStore(engine.url, timeout_s=0.05) for _ in range(2)]
    queue = iter(stores)
    async with two_gateways(upstream, lambda: next(queue)) as (one, _two):
        engine.freeze()
        try:
            await send(one, RESPONSES, ask())
        finally:
            engine.thaw()
        record = one.records[0]
        assert (record.metering, record.usage_source) == ("reserved", "estimated")
        assert record.total_tokens > 60_000
        assert one.plane.shared.works_reserved == 1
        await until(lambda: all(store.up for store in stores))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": "f"}),
        ("/v1/batches", {"input_file_id": "f"}),
        ("/v1/videos", {"model": "unknown-video", "prompt": "x"}),
        (
            "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
            {"batch": {"inputConfig": {"fileName": "files/f"}}},
        ),
    ],
)
@pytest.mark.parametrize(("usd", "passed"), [("", 2), ("assumed_job_usd = 0.25", 8)])
async def test_work_of_unknown_cost(path, body, usd, passed, upstream, open_store):
    """A limit in money counts an assumed price for it; what is refused costs nothing."""
    upstream.answers[f"POST {path}"] = {"id": "job-1", "object": "job"}
    limits = f'limits = [{{ per = "tenant", usd = 2, window = "day" }}]\n{usd}'
    async with two_gateways(upstream, open_store, limits) as (one, two):
        cells = Cells(one)
        sent = json.dumps(body).encode()
        answers = [await send(g, path.encode(), sent) for g in (one, two) * 5]
        assert sum(b" 200 OK" in answer for answer in answers) == passed
        assert await cells.sums() == [2 * 10**9]
        assert one.records[0].metering in ("unmetered", "unpriced", "part_priced")


async def test_refused_work_of_unknown_cost(upstream, open_store):
    """What the upstream does not accept costs nothing."""
    limits = 'limits = [{ per = "tenant", usd = 2, window = "day" }]'
    async with two_gateways(upstream, open_store, limits) as (one, _):
        cells = Cells(one)
        await send(one, b"/v1/fine_tuning/jobs", b'{"model":"m"}')
        assert await cells.sums() == [0]


POLICY = """
[[upstream]]
name = "recorder"
url = "%s"
[policy.default]
limits = [{ per = "tenant", tokens = 200_000, window = "1h" }]
anomaly = { enabled = false }
"""


def totals(gateway: Any) -> list[tuple[str, int]]:
    """Metering and tokens of the records in the file."""
    lines = gateway.records_file.read_text().splitlines()
    return [(r["metering"], r["total_tokens"]) for r in map(json.loads, lines)]


def test_fleets(engine):
    """Two gateways of two workers each: ten responses of up to 60,000 tokens are limited,
    each is counted once however often it is fetched, and what is given back is free.
    """
    numbers = iter(range(100))
    upstream = Answering()
    upstream.answers["POST /v1/responses"] = lambda: response(
        "queued", id_=f"resp_{next(numbers)}"
    )
    small = {"input_tokens": 10, "output_tokens": 90, "total_tokens": 100}
    for number in range(10):
        path = f"GET /v1/responses/resp_{number}"
        upstream.answers[path] = response("completed", small, f"resp_{number}")
    engine.command(b"FLUSHALL")
    running = RunningUpstream()
    running.upstream = upstream
    options = {"store": engine.url, "workers": 2, "store_keys": PATIENT}
    with running, contextlib.ExitStack() as stack:
        text = POLICY % upstream.url
        gateways = [
            stack.enter_context(running_gateway(text, **options)) for _ in range(2)
        ]
        urls = [f"{gateway.url}/v1/responses" for gateway in gateways]
        accepted = [call("POST", url, ask())[0] for url in urls * 5]
        assert accepted.count(200) == 3
        assert accepted.count(429) == 7
        polls = [f"{url}/resp_{number}" for url in urls for number in range(3)] * 10
        with ThreadPoolExecutor(8) as pool:
            assert {found[0] for found in pool.map(partial(call, "GET"), polls)} == {
                200
            }
        call_until(lambda: len(sum_of(gateways)) == 70)
        found = sum_of(gateways)
        assert sorted(found)[-3:] == [("pending", 0)] * 3
        assert [one for one in found if one[1]] == [("", 100)] * 3
        assert [call("POST", url, ask())[0] for url in urls * 2].count(200) == 3


def sum_of(gateways: list[Any]) -> list[tuple[str, int]]:
    """Records of all gateways."""
    return [one for gateway in gateways for one in totals(gateway)]

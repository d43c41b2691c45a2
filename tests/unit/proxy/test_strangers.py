"""Calls whose credential the upstream has not accepted."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.limits.plans import cells_of_subject
from gateway.proxy import leaving, strangers
from gateway.store.memory import MemoryStore
from tests.doubles import Cut
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
LIMITS = """limits = [
  { per = "tenant", tokens = 100_000, window = "day" },
  { per = "user", tokens = 90_000, window = "day" },
  { per = "user", requests = 90, window = "day" },
]"""
ONE = 'limits = [{ per = "tenant", %s }]'
BODY = b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"four "}}]}\n\n'


def refusal(status: int) -> bytes:
    """A short answer of an upstream that refuses."""
    return b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\n{}" % status


def call(
    key: bytes, members: bytes = b',"max_tokens":80000', path: bytes = CHAT
) -> bytes:
    """A call with this key."""
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]%b}' % members
    fields = CLOSE + b"Authorization: Bearer " + key + b"\r\n"
    return request(b"POST", path, fields, body)


def sums(gateway: InProcess) -> list[int]:
    """What the counters hold that hold something; tallies last."""
    now_us = gateway.store.now_us()
    windows = sorted(gateway.store._windows.items(), key=lambda item: is_tally(item[0]))
    return [total for _, window in windows if (total := window.total(now_us))]


def is_tally(key: bytes) -> bool:
    """Whether it counts what strangers hold."""
    return key.endswith((b":new", b":suspect"))


async def hang_up(gateway: InProcess, upstream, raw: bytes) -> None:
    """Send a call, and leave before its status."""
    seen, client = len(upstream.requests), await gateway.client()
    client.send(raw)
    await until(lambda: len(upstream.requests) > seen)
    client.close()
    await until(lambda: len(gateway.plane.listener.connections) == 0)


async def used_by_all(gateway: InProcess) -> int:
    """What the tenant's limit has counted."""
    tables = gateway.plane.shared.tables
    policy, now = tables.identifier._fallback.policy, time.time()
    cells = cells_of_subject(policy, "default", "tenant", "default", now)
    return (await gateway.store.peek(cells))[0]


@pytest.mark.parametrize("status", [400, 401, 403, 500])
async def test_a_refused_call_that_is_left_costs_nothing(status, upstream):
    """The status is waited for, although nobody gets it."""
    upstream.default = (0.4, refusal(status))
    async with InProcess(upstream, policy=LIMITS) as gateway:
        await hang_up(gateway, upstream, call(b"bad"))
        assert sums(gateway)[-1] > 80_000
        record = await gateway.record()
        assert (record.status, record.outcome) == (status, "client_closed")
        assert (record.total_tokens, record.metering) == (0, "")
        assert sums(gateway) == []
        assert gateway.plane.shared.status_waits == 0


@pytest.mark.parametrize("members", [b"", b',"stream":true'])
@pytest.mark.parametrize("ask_usage", [True, False])
async def test_a_refused_request_for_usage_that_is_left(members, ask_usage, upstream):
    """An answer that would be held for its client is none here."""
    upstream.default = (0.05, refusal(400))
    route = f"ask_usage = {str(ask_usage).lower()}"
    async with InProcess(upstream, policy=LIMITS, route=route) as gateway:
        await hang_up(gateway, upstream, call(b"bad", members))
        assert (await gateway.record()).total_tokens == 0
        assert sums(gateway) == []


async def test_an_accepted_call_that_is_left_is_charged_what_it_used(upstream):
    """The answer without a stream is read to its end."""
    upstream.default = (0.05, GOOD)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        await hang_up(gateway, upstream, call(b"good"))
        record = await gateway.record()
        assert (record.total_tokens, record.usage_source) == (12, "upstream")
        assert await used_by_all(gateway) == 12
        # Now it is known: a call that is left is charged at once.
        upstream.default = (30.0, GOOD)
        await hang_up(gateway, upstream, call(b"good"))
        await until(lambda: len(gateway.records) == 2)
        assert gateway.records[1].completion_tokens == 80_000
        assert await used_by_all(gateway) > 80_000


@pytest.mark.parametrize(("drain", "tokens"), [("cancel", 80_000), ("drain", 12)])
async def test_an_accepted_stream_that_is_left(drain, tokens, upstream):
    """It is charged at its reservation, or read to its end if the route does so."""
    last = b'data: {"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % BODY[9:-1]
    upstream.default = (0.05, SSE, WORD, 0.05, last, Cut.CLOSE)
    route = f'on_disconnect = "{drain}"'
    async with InProcess(upstream, policy=LIMITS, route=route) as gateway:
        members = b',"max_tokens":80000,"stream":true'
        await hang_up(gateway, upstream, call(b"good", members))
        record = await gateway.record()
        assert tokens <= record.total_tokens <= tokens + 20
        assert await used_by_all(gateway) == record.total_tokens


@pytest.mark.parametrize("end", ["silence", "lost", "too many", "shutdown"])
async def test_a_call_of_unknown_status_is_charged_to_its_sender(
    end, upstream, monkeypatch
):
    """Never to the limits that others share."""
    monkeypatch.setattr(leaving, "STATUS_WAIT_S", 0.05)
    if end == "too many":
        monkeypatch.setattr(strangers, "MAX_STATUS_WAITS", 0)
    upstream.default = (0.02, Cut.CLOSE) if end == "lost" else (30.0,)
    if end == "shutdown":
        monkeypatch.setattr(leaving, "STATUS_WAIT_S", 60.0)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        await hang_up(gateway, upstream, call(b"bad"))
        if end == "shutdown":
            await gateway.plane.drain()
        record = await gateway.record()
        assert (record.status, record.completion_tokens) == (499, 80_000)
        assert record.metering == "cut"
        assert sums(gateway) == [record.total_tokens, 1]
        assert await used_by_all(gateway) == 0
        shared = gateway.plane.shared
        assert shared.status_waits_refused == (end == "too many")
        assert shared.status_waits == 0


async def test_a_known_credential_is_charged_although_too_many_wait(
    upstream, monkeypatch
):
    """Of parallel calls with one credential, one that is accepted stands for all."""
    monkeypatch.setattr(strangers, "MAX_STATUS_WAITS", 0)
    upstream.default = (GOOD,)
    upstream.scripts.append((5.0, GOOD))
    async with InProcess(upstream, policy=LIMITS) as gateway:
        client = await gateway.client()
        client.send(call(b"good", b',"max_tokens":500'))
        await until(lambda: upstream.requests)
        await gateway.talk(call(b"good", b""))
        client.close()
        await until(lambda: len(gateway.records) == 2)
        assert gateway.records[1].completion_tokens == 500
        assert await used_by_all(gateway) == 12 + gateway.records[1].total_tokens


@pytest.mark.parametrize(
    "limit",
    [
        'tokens = 100_000, window = "1m"',
        'completion_tokens = 100_000, window = "day"',
        'usd = 1, window = "day"',
        "concurrent = 1",
        'requests = 1, window = "day"',
    ],
)
async def test_strangers_in_flight_refuse_nobody_who_is_known(limit, upstream):
    """Nor do they refuse newcomers, once their address is a suspect."""
    upstream.default = (GOOD,)
    if "requests" in limit:
        limit = limit.replace("1,", "3,")
    async with InProcess(
        upstream,
        server='proxy_protocol = true\ntrusted_proxies = ["127.0.0.1"]',
        policy=ONE % limit,
    ) as gateway:

        def from_(address: bytes, raw: bytes) -> bytes:
            return b"PROXY TCP4 %b 127.0.0.1 9 9\r\n%b" % (address, raw)

        small = b',"max_tokens":20'
        good = from_(b"192.0.2.1", call(b"good", small))
        assert (await gateway.talk(good))[9:12] == b"200"
        bad = from_(b"198.51.100.7", call(b"bad", b',"max_tokens":99000'))
        upstream.scripts.append((refusal(401),))
        assert (await gateway.talk(bad))[9:12] == b"401"
        upstream.scripts.append((0.5, refusal(401)))
        client = await gateway.client()
        client.send(bad)
        await until(lambda: len(upstream.requests) == 3)
        assert (await gateway.talk(good))[9:12] == b"200"
        newcomer = from_(b"192.0.2.9", call(b"new", small))
        assert (await gateway.talk(newcomer))[9:12] == b"200"
        assert b" 401 " in await client.rest()


async def test_strangers_keep_the_limit_among_themselves(upstream):
    """A burst of new credentials is admitted up to the limit, as always."""
    upstream.default = (1.0, GOOD)
    policy = ONE % 'tokens = 100_000, window = "1h"'
    async with InProcess(upstream, policy=policy) as gateway:
        calls = [
            gateway.talk(call(b"k%d" % n, b',"max_tokens":30000')) for n in range(9)
        ]
        answers = await asyncio.gather(*calls)
        assert [answer[9:12] for answer in answers].count(b"200") == 3
        assert await used_by_all(gateway) == 36
        assert b"x-ratelimit-remaining-tokens: 69" in b"".join(answers)


async def test_a_stranger_without_a_cap_takes_an_edge_of_its_own(upstream):
    """Known clients can take the limit's own meanwhile."""
    policy = ONE % 'tokens = 10_000, window = "1h"'
    upstream.default = (GOOD,)
    async with InProcess(upstream, policy=policy) as gateway:
        await gateway.talk(call(b"good", b',"max_tokens":20'))
        upstream.default = (1.0, GOOD)
        calls = [gateway.talk(call(key, b"")) for key in (b"a", b"b", b"good", b"good")]
        statuses = [answer[9:12] for answer in await asyncio.gather(*calls)]
        assert sorted(statuses[:2]) == sorted(statuses[2:]) == [b"200", b"429"]
        assert sums(gateway) == [36]


async def test_a_revoked_credential_is_a_stranger_again(upstream):
    """It reserves as one from its next call on."""
    upstream.default = (GOOD,)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        shared = gateway.plane.shared
        await gateway.talk(call(b"good", b""))
        assert len(shared.accepted) == 1
        upstream.default = (refusal(401),)
        await gateway.talk(call(b"good", b""))
        assert len(shared.accepted) == 0


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (request(b"GET", b"/v1/models", CLOSE), 0),
        (request(b"POST", b"/v1/unknown", CLOSE, b"{}"), 0),
        (request(b"POST", b"/v1/messages/count_tokens", CLOSE, b"{}"), 0),
        (call(b"good", b""), 1),
    ],
    ids=["models", "unknown", "count_tokens", "chat"],
)
async def test_only_billed_work_makes_a_credential_known(raw, known, upstream):
    """Some upstreams serve the rest to everybody; it counts all the same."""
    upstream.default = (GOOD,)
    policy = ONE % 'requests = 9, window = "day"'
    async with InProcess(upstream, policy=policy) as gateway:
        await gateway.talk(raw)
        assert len(gateway.plane.shared.accepted) == known
        assert sums(gateway) == [1]


async def test_with_the_gateways_key_nobody_is_a_stranger(upstream):
    """The provider bills every call."""
    upstream.default = (0.2, refusal(401))
    async with InProcess(
        upstream, policy=LIMITS, route='api_key = "PROVIDER"'
    ) as gateway:
        client = await gateway.client()
        client.send(call(b"bad", b',"max_tokens":9'))
        await until(lambda: upstream.requests)
        assert not any(key.endswith(b":new") for key in gateway.store._windows)
        await client.rest()


@pytest.mark.parametrize("status", [200, 401])
async def test_observe_mode_counts_what_the_upstream_accepted(status, upstream):
    """A limit that is full refuses nobody, and a stranger does not add to it."""
    upstream.default = (GOOD if status == 200 else refusal(status),)
    async with InProcess(
        upstream, policy=ONE % 'requests = 1, window = "1h"'
    ) as gateway:
        gateway.text = gateway.text.replace('mode = "enforce"', 'mode = "observe"')
        gateway.reload()
        for n in range(3):
            await gateway.talk(call(b"k%d" % n, b""))
        assert [record.status for record in gateway.records] == [status] * 3
        assert sums(gateway) == ([3] if status == 200 else [])


class LateStore(MemoryStore):
    """Answers a little later."""

    def reserve(self, plan, costs, done, least=None):
        asyncio.get_running_loop().call_later(
            0.05, super().reserve, plan, costs, done, least
        )


async def test_a_call_that_is_left_before_it_is_sent_leaves_nothing(upstream):
    """Neither for its user nor for others."""
    async with InProcess(upstream, policy=LIMITS, store=LateStore()) as gateway:
        client = await gateway.client()
        client.send(call(b"bad"))
        await until(lambda: gateway.plane.service.open_exchanges)
        client.close()
        assert (await gateway.record()).outcome == "client_closed"
        assert not upstream.requests
        assert sums(gateway) == []

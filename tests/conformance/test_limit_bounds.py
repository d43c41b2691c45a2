"""Limits hold whatever the size of the answers, and however small earlier ones were."""

from __future__ import annotations

import asyncio

import pytest

from tests.doubles import Cut
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


def answer(tokens: int) -> bytes:
    """A JSON answer that states this many completion tokens."""
    body = b'{"usage":{"prompt_tokens":2,"completion_tokens":%d,"total_tokens":%d}}'
    body %= tokens, tokens + 2
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def chat(members: bytes = b"") -> bytes:
    """A chat request of a priced model with these additional members."""
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]%b}'
    return request(b"POST", CHAT, CLOSE, body % members)


def used(gateway: InProcess) -> int:
    """The sum of the only counter of tokens or money."""
    windows = gateway.store._windows.items()
    (window,) = [window for key, window in windows if not key.endswith(b":edge")]
    return window.total(gateway.store.now_us())


async def burst(gateway: InProcess, members: bytes, calls: int) -> list[bytes]:
    """The status of each of so many parallel calls."""
    answers = await asyncio.gather(*(gateway.talk(chat(members)) for _ in range(calls)))
    return [answer[9:12] for answer in answers]


@pytest.mark.parametrize(
    ("limit", "bound"),
    [
        ("tokens = 100_000", 110_000),
        ("completion_tokens = 100_000", 110_000),
        ("usd = 1", 1_100_000_000),
    ],
)
async def test_short_answers_do_not_buy_long_ones(limit, bound, upstream):
    """25 one-token answers, then 40 parallel calls that state and use 30,000 tokens."""
    policy = f'limits = [{{ per = "user", {limit}, window = "1h" }}]'
    async with InProcess(upstream, policy=policy) as gateway:
        upstream.default = (answer(1),)
        for _ in range(25):
            await gateway.talk(chat())
        upstream.default = (0.05, answer(30_000))
        statuses = await burst(gateway, b',"max_tokens":30000', 40)
        assert statuses.count(b"200") == 3
        assert used(gateway) <= bound


@pytest.mark.parametrize(
    "members", [b"", b',"max_tokens":2000', b',"max_tokens":200000']
)
async def test_honest_calls_far_below_their_caps_reach_the_limit(members, upstream):
    """With short answers at least 90 % of the limit is used, and all calls pass until
    then.
    """
    policy = 'limits = [{ per = "user", tokens = 10_000, window = "1h" }]'
    upstream.default = (answer(298),)
    async with InProcess(upstream, policy=policy) as gateway:
        statuses = [(await gateway.talk(chat(members)))[9:12] for _ in range(40)]
        passed = statuses.count(b"200")
        assert statuses == [b"200"] * passed + [b"429"] * (40 - passed)
        assert 9_000 <= used(gateway) <= 11_000


async def test_a_call_without_a_cap_runs_alone_near_the_edge(upstream):
    """Only one answer can exceed the limit, by itself."""
    policy = 'limits = [{ per = "user", tokens = 10_000, window = "1h" }]'
    async with InProcess(upstream, policy=policy) as gateway:
        upstream.default = (answer(8_000),)
        await gateway.talk(chat(b',"max_tokens":8000'))
        upstream.default = (0.05, answer(20_000))
        assert (await burst(gateway, b"", 10)).count(b"200") == 1
        assert used(gateway) == 8_002 + 20_002
        assert (await burst(gateway, b"", 3)).count(b"200") == 0


async def test_without_overdraft_open_calls_stay_within_the_limit(upstream):
    """``overdraft = 0`` is strict."""
    policy = (
        'overdraft = 0\nlimits = [{ per = "user", tokens = 10_000, window = "1h" }]'
    )
    upstream.default = (0.05, answer(3_000))
    async with InProcess(upstream, policy=policy) as gateway:
        statuses = await burst(gateway, b',"max_tokens":3000', 10)
        assert statuses.count(b"200") == 3
        assert used(gateway) == 9_006


async def test_weights_count_in_what_is_reserved(upstream):
    """A weight above 1 does not exceed the limit when the answer is settled."""
    policy = (
        "weights = { completion = 2.0 }\n"
        'limits = [{ per = "user", tokens = 10_000, window = "1h" }]'
    )
    upstream.default = (0.05, answer(1_000))
    async with InProcess(upstream, policy=policy) as gateway:
        await burst(gateway, b',"max_tokens":1000', 10)
        assert 9_000 <= used(gateway) <= 11_000


async def test_the_cap_of_the_policy_is_assumed_where_a_call_states_none(upstream):
    """Then ``assumed_max_tokens``, unless the policy has a cap; eight times that of an
    answer that is not streamed.
    """
    limits = 'limits = [{ per = "user", tokens = 10_000, window = "1h" }]\n'
    for more, passed in (
        ("caps = { max_tokens = 1000 }", 10),
        ("assumed_max_tokens = 5000", 1),
        ("assumed_max_tokens = 600", 3),  # the third at the edge
    ):
        upstream.default = (0.05, answer(900))
        async with InProcess(upstream, policy=limits + more) as gateway:
            assert (await burst(gateway, b"", 12)).count(b"200") == passed


WORD = b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n'
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
)


def long_stream(tokens: int) -> tuple:
    """A stream of one token per event."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":%d,'
    usage += b'"total_tokens":%d}}\n\ndata: [DONE]\n\n'
    pieces = (WORD * 100, 0.01) * (tokens // 100)
    return (STREAM, *pieces, usage % (tokens, tokens + 2), Cut.CLOSE)


@pytest.mark.parametrize("calls", [2, 8, 20])
async def test_one_stream_at_a_time_finishes_beyond_a_limit(calls, upstream):
    """However many streams without a cap outgrow it together."""
    policy = 'limits = [{ per = "user", tokens = 20_000, window = "1h" }]'
    upstream.default = long_stream(30_000)
    async with InProcess(upstream, policy=policy) as gateway:
        calls = [gateway.talk(chat(b',"stream":true')) for _ in range(calls)]
        answers = await asyncio.gather(*calls)
        whole = [answer for answer in answers if b"rate_limit" not in answer]
        refused = [answer for answer in answers if answer[9:12] == b"429"]
        cut = len(answers) - len(whole) - len(refused)
        assert len(whole) == 1
        assert cut >= 1
        assert used(gateway) <= 22_000 + 30_002


@pytest.mark.parametrize("calls", [3, 12])
async def test_one_unseen_answer_at_a_time_exceeds_a_limit(calls, upstream):
    """Answers that are not streamed cannot be cut, so near the edge they run alone."""
    policy = 'limits = [{ per = "user", tokens = 40_000, window = "1h" }]'
    upstream.default = (0.05, answer(30_000))
    async with InProcess(upstream, policy=policy) as gateway:
        statuses = await burst(gateway, b"", calls)
        assert statuses.count(b"200") == 2
        assert used(gateway) <= 44_000 + 30_002


async def test_a_call_at_the_edge_lets_others_go_on(upstream):
    """Capped calls fit beside it, and it does not wait for them to end."""
    policy = 'limits = [{ per = "user", tokens = 10_000, window = "1h" }]'
    async with InProcess(upstream, policy=policy) as gateway:
        upstream.default = (0.2, answer(10))
        capped = [gateway.talk(chat(b',"max_tokens":2000')) for _ in range(5)]
        mixed = (*capped, gateway.talk(chat()), gateway.talk(chat()))
        statuses = [answer[9:12] for answer in await asyncio.gather(*mixed)]
        assert statuses == [b"200"] * 6 + [b"429"]
        assert used(gateway) == 6 * 12


async def test_retry_after_is_the_time_when_all_limits_have_room(upstream):
    """The first limit has room in a second, the second one in an hour."""
    policy = (
        'limits = [{ per = "user", requests = 1, window = "1s" },\n'
        '{ per = "user", requests = 1, window = "1h" }]'
    )
    upstream.default = (answer(1),)
    async with InProcess(upstream, policy=policy) as gateway:
        await gateway.talk(chat())
        for _ in range(2):  # by the store, then by the gate
            refused = await gateway.talk(chat())
            wait_s = int(refused.split(b"retry-after: ")[1].split(b"\r\n")[0])
            assert 3590 <= wait_s <= 3660
            assert b"user.requests.1h" in refused


@pytest.mark.parametrize("limit", ["tokens = 10_000", "usd = 0.1"])
async def test_long_answers_without_a_cap_use_the_limit(limit, upstream):
    """What a client's answers usually cost does not leave more than the overdraft."""
    policy = f'limits = [{{ per = "user", {limit}, window = "1h" }}]'
    upstream.default = (answer(2_098),)
    async with InProcess(upstream, policy=policy) as gateway:
        statuses = [(await gateway.talk(chat()))[9:12] for _ in range(8)]
        assert statuses == [b"200"] * 5 + [b"429"] * 3


async def test_background_calls_without_a_cap_reserve_what_is_left(upstream):
    """They run beyond their call, so they do not hold the edge."""
    policy = 'limits = [{ per = "user", tokens = 10_000, window = "1h" }]'
    body = b'{"id":"resp_%d","object":"response","status":"queued","model":"gpt-4o"}'
    async with InProcess(upstream, policy=policy) as gateway:
        statuses = []
        for number in range(3):
            accepted = body % number
            upstream.default = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(accepted), accepted),
            )
            asked = b'{"model":"gpt-4o","input":"hi","background":true}'
            answer = await gateway.talk(
                request(b"POST", b"/v1/responses", CLOSE, asked)
            )
            statuses.append(answer[9:12])
        assert statuses == [b"200", b"429", b"429"]
        assert used(gateway) == 11_000

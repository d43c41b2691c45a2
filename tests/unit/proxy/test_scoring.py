"""Scores of requests, and control's decisions about their senders."""

from __future__ import annotations

import time
from time import perf_counter

import msgspec
import pytest

from gateway.core.model import CLOSED, DETECTOR, OPENED, WHOLE, Block
from gateway.detect.event_mapping import event_from_request
from gateway.detect.inline import Verdict
from gateway.limits.gate import pack_client_hashes
from gateway.proxy.flow import verdict_of
from gateway.proxy.scoring import verdict_field
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
BODY = b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
HOLD = '[policy.default.anomaly]\ndelay = "500ms"\nmax_delayed = 1'
OFF = "[policy.default.anomaly]\nenabled = false"
HEADER = b"x-tidegate-verdict"


@pytest.fixture(autouse=True)
async def _usage(upstream):
    """The upstream states its usage, so a record exists when the answer does."""
    upstream.default = (GOOD,)


def chat(words: str = "one two three", fields: bytes = CLOSE, **members) -> bytes:
    """The bytes of a chat request."""
    messages = [{"role": "user", "content": words}]
    asked = {"model": "gpt-4o", "messages": messages} | members
    return request(b"POST", CHAT, fields, msgspec.json.encode(asked))


def put_decision(gateway: InProcess, action, *, rate=0, **changes) -> Block:
    """Put a decision about this machine's address into the gate."""
    block = Block(
        "client_ip", "127.0.0.1", "default", time.time() + 60, "It walks.",
        time.time(), DETECTOR, action, "scraping", 4.25, rate,
    )  # fmt: skip
    block = msgspec.structs.replace(block, **changes)
    assert gateway.plane.gate.add_block(block)
    return block


def status(answer: bytes) -> int:
    return int(answer[9:12])


# -- what is written -----------------------------------------------------------------------


def test_verdict_field_is_one_header_line():
    """The field has class, score and action; a class cannot end its line."""
    name, line = verdict_field(Verdict(4.25, "tag", "scraping"))
    assert (name, line) == (b"X-Tidegate-Verdict", b"scraping;score=4.2;action=tag")
    _, line = verdict_field(Verdict(12.0, "throttle", None))
    assert line == b"volume;score=12.0;action=throttle"
    _, line = verdict_field(Verdict(1.0, "tag", "a;b\r\nX: y"))
    assert line == b"a b  X: y;score=1.0;action=tag"


def test_an_operators_block_has_no_class_nor_score():
    """A decision without class or score becomes a verdict without them."""
    assert verdict_of(Block("user", "u")) == Verdict(0.0, "block", None, ())
    block = Block("user", "u", reason="Why.", action="tag", cls="ddos", score=5.0)
    assert verdict_of(block) == Verdict(5.0, "tag", "ddos", ("Why.",))


# -- fingerprints and scores -----------------------------------------------------------------


async def test_prompts_are_fingerprinted(upstream):
    """Similar prompts differ in few bits, others in many; no text has none."""
    async with InProcess(upstream) as gateway:
        text = " ".join(f"word{'abcdefghij'[n % 10]}{n * 'x'}" for n in range(20))
        for words in (text, text, text + " 7", "something else altogether", ""):
            await gateway.talk(chat(words))
        prints = [record.fingerprint for record in gateway.records]
    assert prints[0] == prints[1]
    assert prints[4] is None
    one, two, three = (int(prints[n], 16) for n in (0, 2, 3))
    assert (one ^ two).bit_count() <= 10 < (one ^ three).bit_count()


async def test_detection_off_looks_at_nothing(upstream):
    """With detection off there is no fingerprint, score or record of the opening."""
    async with InProcess(upstream, more=OFF) as gateway:
        upstream.default = (0.05, GOOD)
        client = await gateway.client()
        client.send(chat())
        await until(lambda: upstream.requests)
        gateway.plane.service._record_opened(perf_counter())
        await client.rest()
        record = await gateway.record()
    assert (record.fingerprint, record.score_us, record.phase) == (None, 0.0, WHOLE)


async def test_the_requests_own_score_is_for_its_record(upstream):
    """The score of many similar prompts is recorded, and has no effect."""
    limits = 'limits = [{ per = "client_ip", requests = 1000, window = "1m" }]'
    async with InProcess(upstream, policy=limits) as gateway:
        client = await gateway.client()
        for n in range(60):
            client.send(chat(f"translate this line please {n}", b""))
            await client.answer()
        record = gateway.records[-1]
    assert (record.cls, record.action, record.would) == ("scraping", "allow", "")
    assert record.score > 1
    assert record.score_us > 0
    assert gateway.records[0].score == 0
    assert HEADER not in upstream.received.lower()


# -- tagged and throttled ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client_ip", "tenant"])
async def test_tagged_passes_with_one_header_of_ours(kind, upstream):
    """A tagged request passes with our verdict field, not with the client's."""
    async with InProcess(upstream) as gateway:
        subject = {"client_ip": "127.0.0.1", "tenant": "default"}[kind]
        put_decision(gateway, "tag", kind=kind, id=subject)
        await gateway.talk(chat(fields=CLOSE + b"X-Tidegate-Verdict: mine\r\n"))
        record = await gateway.record()
    (seen,) = upstream.requests
    assert seen.lower().count(HEADER) == 1
    assert b"\r\nX-Tidegate-Verdict: scraping;score=4.2;action=tag\r\n" in seen
    assert (record.action, record.score, record.cls) == ("tag", 4.25, "scraping")
    assert record.reasons == ("It walks.",)


async def test_throttled_keeps_its_rate_besides_its_limits(upstream):
    """A throttle is one more limit: the second request of the minute gets 429."""
    limits = 'limits = [{ per = "user", requests = 9, window = "1h" }]'
    async with InProcess(upstream, policy=limits) as gateway:
        put_decision(gateway, "throttle", rate=1)
        answers = [await gateway.talk(chat()) for _ in range(3)]
        records = gateway.records
    assert [status(answer) for answer in answers] == [200, 429, 429]
    assert b"retry-after: " in answers[1]
    assert [record.action for record in records] == ["throttle"] * 3
    assert [record.outcome for record in records] == ["ok", "refused", "refused"]
    assert {record.cls for record in records} == {"scraping"}
    assert records[1].limit.startswith("throttled_client_ip")
    assert len(upstream.requests) == 1


async def test_a_new_rate_counts_at_once(upstream):
    """A new rate applies at once, and an expired decision no more."""
    async with InProcess(upstream) as gateway:
        put_decision(gateway, "throttle", rate=3)
        assert [status(await gateway.talk(chat())) for _ in range(2)] == [200, 200]
        put_decision(gateway, "throttle", rate=2)
        assert status(await gateway.talk(chat())) == 429
        put_decision(gateway, "throttle", rate=1, until=time.time() - 1)
        assert status(await gateway.talk(chat())) == 200
        assert gateway.records[-1].action == "allow"


async def test_an_ordinary_limit_refuses_before_the_throttle(upstream):
    """A request over a limit and a throttle is refused by the limit."""
    limits = 'limits = [{ per = "user", requests = 1, window = "1h" }]'
    async with InProcess(upstream, policy=limits, more=HOLD) as gateway:
        put_decision(gateway, "throttle", rate=1)
        await gateway.talk(chat())
        assert status(await gateway.talk(chat())) == 429
        assert gateway.records[-1].action == "limit"


async def test_what_is_not_metered_is_throttled_too(upstream):
    """A throttle also counts requests without a metered endpoint."""
    async with InProcess(upstream) as gateway:
        put_decision(gateway, "throttle", rate=1)
        plain = request(b"GET", b"/v1/models", CLOSE)
        statuses = [status(await gateway.talk(plain)) for _ in range(2)]
    assert statuses == [200, 429]


async def test_allow_listed_are_not_acted_on(upstream):
    """Decisions have no effect on a client of the allow list."""
    allow = 'allow = ["client_ip:127.0.0.1"]'
    async with InProcess(upstream, policy=allow) as gateway:
        put_decision(gateway, "throttle", rate=1)
        put_decision(gateway, "block", tenant=None)
        statuses = {status(await gateway.talk(chat())) for _ in range(3)}
    assert statuses == {200}
    assert HEADER not in upstream.received.lower()


async def test_observed_passes_unmarked_and_is_noted(upstream):
    """Observe mode only records tags, throttles and blocks."""
    policy = HOLD.replace("[policy.default.anomaly]", 'mode = "observe"\n\\g', 1)
    policy = policy.replace("\\g", "[policy.default.anomaly]")
    async with InProcess(upstream) as gateway:
        gateway.text = gateway.text.replace('mode = "enforce"', policy)
        gateway.reload()
        for action, times in (("tag", 1), ("throttle", 2), ("block", 1)):
            put_decision(gateway, action, rate=1)
            for _ in range(times):
                assert status(await gateway.talk(chat())) == 200
        records = gateway.records
    assert [record.would for record in records] == [
        "tag", "throttle", "throttle", "block",
    ]  # fmt: skip
    assert {record.cls for record in records} == {"scraping"}
    assert HEADER not in upstream.received.lower()


async def test_a_block_of_the_user_that_the_body_names(upstream):
    """A block of the user that the body names is refused after reading it."""
    async with InProcess(upstream, policy='user_from = ["body"]') as gateway:
        put_decision(gateway, "block", kind="user", id="body:mallory@127.0.0.1")
        assert status(await gateway.talk(chat(user="mallory"))) == 403
        assert status(await gateway.talk(chat(user="alice"))) == 200
        put_decision(gateway, "tag", kind="user", id="body:alice@127.0.0.1")
        await gateway.talk(chat(user="alice"))
        records = gateway.records
    assert [record.action for record in records] == ["block", "allow", "tag"]
    assert records[0].cls == "scraping"


SHARED = 'user_from = ["body", "credential"]\n'
KEYED = b"Authorization: Bearer sk-shared\r\n" + CLOSE


async def test_a_block_of_the_key_waits_for_the_user_of_the_body(upstream):
    """A block of the key waits for the body, which may name another user."""
    async with InProcess(upstream, policy=SHARED) as gateway:
        await gateway.talk(chat(fields=KEYED))
        await until(lambda: gateway.records)
        key = gateway.records[0].user
        put_decision(gateway, "block", kind="user", id=key)
        assert status(await gateway.talk(chat(fields=KEYED, user="alice"))) == 200
        assert status(await gateway.talk(chat(fields=KEYED))) == 403
        asked = request(b"GET", b"/v1/models", KEYED)
        assert status(await gateway.talk(asked)) == 403
        users = [record.user for record in gateway.records]
    assert key.startswith("key_")
    assert users == [key, f"body:alice@{key}", key, key]


async def test_a_request_refused_before_its_body_has_an_unread_user(upstream):
    """A refusal before the body is read marks the record's user as unread."""
    async with InProcess(upstream, policy=SHARED) as gateway:
        await gateway.talk(chat(fields=KEYED, user="alice"))
        await gateway.talk(chat(fields=KEYED))
        put_decision(gateway, "block")
        assert status(await gateway.talk(chat(fields=KEYED, user="alice"))) == 403
        records = gateway.records
    assert [record.unnamed for record in records] == [False, False, True]
    assert records[2].user == records[1].user
    assert event_from_request(records[2]).user == "anonymous"


async def test_a_key_that_comes_first_is_the_user_of_refused_requests_too(upstream):
    """If the credential comes first, a request refused unread still has its user."""
    async with InProcess(upstream) as gateway:
        put_decision(gateway, "block")
        await gateway.talk(chat(fields=KEYED, user="alice"))
        (record,) = gateway.records
    assert not record.unnamed
    assert event_from_request(record).user.startswith("key_")


# -- delayed -------------------------------------------------------------------------------------


async def test_a_flooded_prompt_is_refused_of_a_newcomer(upstream):
    """A template block refuses new clients with that template; their other prompts pass,
    and established clients are not affected.
    """
    async with InProcess(upstream) as gateway:
        gate = gateway.plane.gate
        await gateway.talk(chat("one long story about ships"))
        print_ = (await gateway.record()).fingerprint
        block = Block(
            "prompts", print_, "default", time.time() + 60, "Many ask the same.",
            time.time(), DETECTOR, "block", "ddos", 6.0,
        )  # fmt: skip
        gate.add_block(block)
        gate.set_established({"default": b""})
        answers = [
            status(await gateway.talk(chat(words)))
            for words in ("one long story about ships", "what is the weather today")
        ]
        gate.set_established(
            {"default": pack_client_hashes([("client_ip", "127.0.0.1")])}
        )
        answers.append(status(await gateway.talk(chat("one long story about ships"))))
        refused = gateway.records[1]
    assert answers == [403, 200, 200]
    assert (refused.action, refused.cls, refused.fingerprint) == (
        "block",
        "ddos",
        print_,
    )


def used(gateway: InProcess) -> list[int]:
    """Sums of the store's counters, without edges."""
    windows, now_us = gateway.store._windows, gateway.store.now_us()
    return [w.total(now_us) for key, w in windows.items() if key[-5:] != b":edge"]


async def test_held_requests_pass_later_and_count(upstream):
    """With a delay a throttled request waits, passes, and is charged."""
    limits = f'limits = [{{ per = "user", tokens = 900, window = "1h" }}]\n{HOLD}'
    async with InProcess(upstream, policy=limits) as gateway:
        put_decision(gateway, "throttle", rate=1)
        await gateway.talk(chat())
        began = perf_counter()
        assert status(await gateway.talk(chat())) == 200
        assert perf_counter() - began >= 0.45
        assert sorted(used(gateway)) == [1, 30]
        record = gateway.records[1]
        assert gateway.plane.stats()["delayed"] == 0
    assert (record.action, record.outcome, record.total_tokens) == (
        "throttle", "ok", 15,
    )  # fmt: skip
    assert record.overhead_ms < 400, "waiting is not the gateway's own time"
    assert b"action=throttle" in upstream.requests[1]


async def test_held_requests_keep_to_their_other_limits(upstream):
    """After the delay the other limits still apply."""
    policy = (
        'limits = [{ per = "user", requests = 2, window = "1h" }]\n'
        + HOLD.replace("max_delayed = 1", "max_delayed = 9")
    )
    async with InProcess(upstream, policy=policy) as gateway:
        put_decision(gateway, "throttle", rate=1)
        statuses = [status(await gateway.talk(chat())) for _ in range(3)]
        record = gateway.records[2]
    assert statuses == [200, 200, 429]
    assert (record.action, record.limit) == ("limit", "user.requests.1h")


async def test_held_requests_without_other_limits_pass(upstream):
    """After the delay a plan with no other limit asks no store."""
    async with InProcess(upstream, more=HOLD) as gateway:
        put_decision(gateway, "throttle", rate=1)
        statuses = [status(await gateway.talk(chat())) for _ in range(2)]
    assert statuses == [200, 200]


async def test_only_so_many_are_held(upstream):
    """Above ``max_delayed`` throttled requests are refused and counted."""
    async with InProcess(upstream, more=HOLD) as gateway:
        put_decision(gateway, "throttle", rate=1)
        await gateway.talk(chat())
        clients = [await gateway.client() for _ in range(3)]
        for client in clients:
            client.send(chat())
        statuses = sorted([status(await client.rest()) for client in clients])
        stats = gateway.plane.stats()
    assert statuses == [200, 429, 429]
    assert (stats["turned_away"]["delays"], stats["delayed"]) == (2, 0)


async def test_a_held_client_that_leaves_gives_its_place_back(upstream):
    """A client that leaves during the delay is not forwarded and recorded once."""
    async with InProcess(upstream, more=HOLD) as gateway:
        put_decision(gateway, "throttle", rate=1)
        await gateway.talk(chat())
        client = await gateway.client()
        client.send(chat())
        await until(lambda: gateway.plane.shared.scoring.delayed == 1)
        client.close()
        await until(lambda: len(gateway.records) == 2)
        await until(lambda: gateway.plane.shared.scoring.delayed == 0)
    assert gateway.records[1].outcome == "client_closed"
    assert len(upstream.requests) == 1


# -- announced -----------------------------------------------------------------------------------


async def test_long_requests_are_announced_once(upstream):
    """A long exchange is recorded when it opens and again when it ends."""
    upstream.default = (0.2, GOOD)
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(chat())
        await until(lambda: upstream.requests)
        service = gateway.plane.service
        service._record_opened(perf_counter() - 3600)
        assert gateway.records == []
        for _ in range(2):
            service._record_opened(perf_counter())
        await client.rest()
        opened, closed = gateway.records
    assert (opened.phase, closed.phase) == (OPENED, CLOSED)
    assert (opened.status, opened.total_tokens) == (0, 0)
    assert opened.request_id == closed.request_id
    assert opened.fingerprint == closed.fingerprint is not None
    assert (closed.status, closed.total_tokens) == (200, 15)


async def test_a_request_with_an_incomplete_body_has_no_opening_record(upstream):
    """A request whose body is incomplete has no record of its opening."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        whole = chat()
        client.send(whole[:-9])
        service = gateway.plane.service
        await until(lambda: service.open_exchanges)
        service._record_opened(perf_counter())
        client.send(whole[-9:])
        await client.rest()
        (record,) = gateway.records
    assert record.phase == WHOLE
    assert record.fingerprint is not None

"""Detection end to end: real processes and store, each client on its own address."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from gateway.control.blocks import BlockTable, RedisBlocks
from gateway.core.model import DETECTOR, Block
from gateway.store.client import open_redis
from tests.engines import Engine, engine_binaries, running_engine
from tests.gateway_process import (
    Gateway,
    MockLLM,
    key_hash,
    running_gateway,
    running_mock,
    until,
)
from tests.words import WORDS

pytestmark = [
    pytest.mark.skipif(not engine_binaries(), reason="no store engine here"),
]
ATTACKER, KEY = "127.66.0.1", "sk-attacker"
# Longest time until an attacker is blocked, on a loaded machine.
STOPPED_S = 90.0
ENFORCE = '[policy.default]\nmode = "enforce"\n'
OFF = f"{ENFORCE}[policy.default.anomaly]\nenabled = false\n"
VERDICT = "x-tidegate-verdict"


class Answer(NamedTuple):
    """Status and header fields by lower name."""

    status: int
    headers: dict[str, str]


class Client:
    """One address with one key, on one connection."""

    def __init__(self, gateway: Gateway, source: str, key: str) -> None:
        self.key = key
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", gateway.port, timeout=60, source_address=(source, 0)
        )

    def ask(self, prompt: str, **fields: str) -> Answer:
        """A chat call; ``mock_tag="x"`` is the header ``x-mock-tag``."""
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}
        headers = {f"x-{name.replace('_', '-')}": fields[name] for name in fields}
        headers |= {"Authorization": f"Bearer {self.key}"}
        try:
            self.connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), headers
            )
            answer = self.connection.getresponse()
            answer.read()
        except (http.client.HTTPException, OSError):
            self.connection.close()
            raise
        return Answer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}
        )

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def ask(gateway: Gateway, source: str, key: str, prompt: str = "hi", **fields: str):
    """One call on a connection of its own."""
    client = Client(gateway, source, key)
    with contextlib.closing(client):
        return client.ask(prompt, **fields)


def upstream(mock: MockLLM, rest: str = ENFORCE) -> str:
    """A configuration with the mock as upstream and without limits."""
    return f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n{rest}'


def ordinary_clients(gateway: Gateway, rounds: int = 2) -> set[int]:
    """Send requests of 14 ordinary clients with different prompts; the statuses."""
    chance = random.Random(7)
    seen = set()
    for _ in range(rounds):
        for n in range(14):
            prompt = " ".join(chance.choices(WORDS, k=chance.randint(8, 40)))
            seen.add(ask(gateway, f"127.1.0.{n + 1}", f"sk-{n}", prompt).status)
    return seen


def enumerate_template(
    gateway: Gateway, source: str = ATTACKER, key: str = KEY
) -> Iterator[Answer]:
    """Send variations of a template on one connection for at most ``STOPPED_S``."""
    chance = random.Random(source)
    template = " ".join(chance.choices(WORDS, k=18))
    client = Client(gateway, source, key)
    end = time.monotonic() + STOPPED_S
    with contextlib.closing(client):
        for count in range(1_000_000):
            if time.monotonic() > end:
                return
            yield client.ask(f"{template} {chance.choice(WORDS)} {count}")


def attack(gateway: Gateway, source: str = ATTACKER, key: str = KEY) -> int:
    """Enumerate a template until a request is refused; the last status."""
    status = 0
    for answer in enumerate_template(gateway, source, key):
        status = answer.status
        if status == 403:
            break
    return status


def retry(gateway: Gateway) -> int:
    """Send the attacker's next request; its status."""
    return ask(gateway, ATTACKER, KEY).status


def blocked(gateway: Gateway) -> set[tuple[str, str]]:
    """Subjects in the admin API's list of blocks."""
    rows = gateway.api("GET", "/api/v1/blocks")["items"]
    return {(row["kind"], row["id"]) for row in rows}


def incidents(gateway: Gateway) -> list[dict[str, Any]]:
    """Incidents of the admin API."""
    found: list[dict[str, Any]] = gateway.api("GET", "/api/v1/incidents")["items"]
    return found


@pytest.fixture(name="engine")
def _engine() -> Iterator[Engine]:
    with running_engine(next(iter(engine_binaries().values()))) as engine:
        yield engine


# -- blocks on every gateway, and their removal -----------------------------------------------


def test_a_scraper_alone_is_blocked_on_every_gateway(mock, engine):
    """A scraper is blocked on both gateways and ordinary clients are not; it is served
    again when an operator removes the block.
    """
    config = upstream(mock)
    with (
        running_gateway(config, store=engine.url) as one,
        running_gateway(config, store=engine.url) as two,
    ):
        assert ordinary_clients(one) == {200}
        assert attack(one) == 403
        incident = until(lambda: incidents(one))[0]
        assert (incident["class"], incident["state"]) == ("scraping", "open")
        until(lambda: ("client_ip", ATTACKER) in blocked(one))
        until(lambda: retry(two) == 403, why="the other gateway")
        assert ordinary_clients(one) | ordinary_clients(two, 1) == {200}
        assert {kind for kind, _ in blocked(one)} <= {"client_ip", "user"}
        assert one.status()["detection"]["incidents"] >= 1
        counted = [key for key in one.metrics() if "incidents_total" in key]
        label = re.compile(r'tidegate_incidents_total{class="\w+",severity="\w+"}')
        assert counted
        assert all(map(label.fullmatch, counted)), counted
        _remove_blocks(one)
        until(lambda: retry(one) == 200, why="served again")
        until(lambda: retry(two) == 200, why="served again by the other one")


def _remove_blocks(gateway: Gateway) -> None:
    """Remove every listed block by command, without a tenant."""
    listed = gateway.command("blocks", "list", "--admin", gateway.admin)
    assert ATTACKER in listed.stdout
    for kind, subject in blocked(gateway):
        done = gateway.command(
            "blocks", "remove", kind, subject, "--admin", gateway.admin
        )
        assert done.returncode == 0, done.stderr
    assert blocked(gateway) == set()


def test_a_blocked_attacker_stays_blocked_through_every_restart(mock):
    """A blocked attacker stays blocked after SIGTERM, after a SIGKILL of control and of
    the supervisor, and the incident and baselines are kept.
    """
    gateway = Gateway(upstream(mock), store="embedded:./store").start()
    try:
        until(lambda: '"found":false' in gateway.log())
        ordinary_clients(gateway)
        assert attack(gateway) == 403
        (incident,) = until(lambda: incidents(gateway))
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        gateway.start()
        (found,) = until(lambda: incidents(gateway))
        assert found["id"] == incident["id"]
        assert retry(gateway) == 403
        until(lambda: '"found":true' in gateway.log())
        _kill_control(gateway)
        assert retry(gateway) == 403
        assert ("client_ip", ATTACKER) in blocked(gateway)
        gateway.signal(signal.SIGKILL)
        assert gateway.wait() == -signal.SIGKILL
        gateway.start()
        assert retry(gateway) == 403
        assert ordinary_clients(gateway, 1) == {200}
    finally:
        gateway.stop()


def _kill_control(gateway: Gateway) -> None:
    """Kill control alone, and wait until its successor is ready."""
    (control,) = gateway.children("control")
    control.kill()

    def is_back() -> bool:
        try:
            status = gateway.status()
        except OSError:
            return False
        return bool(status["pid"] != control.pid and status["ready"])

    until(is_back, why="the new control")
    until(lambda: gateway.status()["blocks"]["synced"], why="the list")


# -- observe mode, and detection switched off -------------------------------------------------


def test_observe_mode_decides_and_touches_nothing(mock):
    """In observe mode records state the action that would apply, while client and
    upstream see an unchanged exchange.
    """
    with running_gateway(upstream(mock, ""), "--mode", "observe") as gateway:
        assert ordinary_clients(gateway) == {200}
        for n, answer in enumerate(enumerate_template(gateway)):
            assert answer.status == 200
            if n % 50 == 0 and ("client_ip", ATTACKER) in blocked(gateway):
                break
        answer = ask(gateway, ATTACKER, KEY, mock_tag="watched")
        assert answer.status == 200
        assert VERDICT not in sent(mock, "watched")
        found = gateway.record(
            client_ip=ATTACKER, request_id=answer.headers["x-request-id"]
        )
        assert (found["action"], found["enforced"]) == ("block", False)
        assert (found["class"], found["outcome"]) == ("scraping", "ok")


def test_switching_detection_off_ends_its_blocks_at_once(mock):
    """A reload with detection off ends the detector's blocks and keeps those of
    operators.
    """
    with running_gateway(upstream(mock)) as gateway:
        ordinary_clients(gateway)
        assert attack(gateway) == 403
        block = {"kind": "client_ip", "id": "127.9.9.9"}
        gateway.api("POST", "/api/v1/blocks", block)
        gateway.write_config(upstream(mock, OFF))
        gateway.api("POST", "/api/v1/reload")
        until(lambda: retry(gateway) == 200, why="served")
        until(lambda: ask(gateway, "127.9.9.9", "sk-o").status == 403)
        until(lambda: blocked(gateway) == {("client_ip", "127.9.9.9")})
        until(lambda: gateway.status()["detection"]["incidents"] == 0)


def test_an_allow_listed_client_is_never_refused(mock):
    """A client on the allow list is never refused, although its incident is reported; a
    configured campaign is accepted.
    """
    allow = f'allow = ["client_ip:{ATTACKER}"]\n'
    launch = (
        '[[campaign]]\ntenant = "*"\nfrom = 2026-01-01T00:00:00Z\n'
        "to = 2036-01-01T00:00:00Z\nexpect = 6.0\n"
    )
    with running_gateway(upstream(mock, ENFORCE + allow + launch)) as gateway:
        ordinary_clients(gateway)
        seen = set()
        for n, answer in enumerate(enumerate_template(gateway)):
            seen.add(answer.status)
            if n % 50 == 0 and incidents(gateway):
                break
        assert incidents(gateway)[0]["class"] == "scraping"
        client = Client(gateway, ATTACKER, KEY)
        seen |= {client.ask(f"and on {n}").status for n in range(100)}
        client.close()
        assert seen == {200}
        assert gateway.records(client_ip=ATTACKER, action="block") == []


# -- long answers ---------------------------------------------------------------------------


def test_unanswered_requests_are_evidence(mock):
    """An attacker is blocked on the evidence of requests that the upstream has not
    answered yet.
    """
    with running_gateway(upstream(mock)) as gateway:
        ordinary_clients(gateway)
        with contextlib.ExitStack() as stack:
            count = itertools.count()

            def found() -> bool:
                for _ in range(5):
                    stack.enter_context(_unanswered(gateway, next(count)))
                return ("client_ip", ATTACKER) in blocked(gateway)

            until(found, STOPPED_S, "found")
            ended = gateway.records(client_ip=ATTACKER)
            assert {one["outcome"] for one in ended} <= {"refused"}
            until(lambda: retry(gateway) == 403)


def _unanswered(gateway: Gateway, count: int) -> socket.socket:
    """Send a request that the mock answers after 300 s."""
    text = " ".join(WORDS[:18])
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": f"{text} {count}"}]}
    ).encode()
    connection = socket.create_connection(
        ("127.0.0.1", gateway.port), 60, (ATTACKER, 0)
    )
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-mock-delay-ms: 300000\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )
    return connection


# -- actions: tag, throttle, delay ------------------------------------------------------------

STATES_CONFIG = f"""{ENFORCE}
[policy.slow]
mode = "enforce"
[policy.slow.anomaly]
delay = "2s"
max_delayed = 2
[policy.watch]
mode = "observe"
[[tenant]]
name = "acme"
api_keys = ["{key_hash("sk-acme")}"]
[[tenant]]
name = "slow"
policy = "slow"
api_keys = ["{key_hash("sk-slow")}"]
[[tenant]]
name = "watch"
policy = "watch"
api_keys = ["{key_hash("sk-watch")}"]
"""


class EnforcementStates:
    """A gateway with enforcement states that another gateway's detector published."""

    def __init__(self, gateway: Gateway, mock: MockLLM, url: str) -> None:
        self.gateway = gateway
        self.mock = mock
        self.url = url
        self.active = 0

    def put(self, ip: str, tenant: str, action: Any, rate: int = 0) -> None:
        """Publish a client's enforcement state, and wait until the gateway has it."""
        block = Block(
            "client_ip", ip, tenant, time.time() + 600, "It walks.", time.time(),
            DETECTOR, action, "scraping", 4.25, rate,
        )  # fmt: skip
        asyncio.run(self._publish(block))
        self.active += 1
        until(lambda: self.gateway.status()["detection"]["standings"] == self.active)

    async def _publish(self, block: Block) -> None:
        client = open_redis(self.url)
        table = BlockTable(lambda _message: None)
        await RedisBlocks(client, "tidegate:", table).publish([block], [])
        await client.aclose()

    def ask(self, ip: str, tenant: str, tag: str = "", **fields: str) -> Answer:
        """Send a call of a client of that tenant; ``tag`` identifies it at the
        upstream.
        """
        fields |= {"mock_tag": tag} if tag else {}
        return ask(self.gateway, ip, f"sk-{tenant}", **fields)

    def record_of(self, answer: Answer) -> dict[str, Any]:
        return self.gateway.record(request_id=answer.headers["x-request-id"])


@pytest.fixture(name="states", scope="module")
def _states() -> Iterator[EnforcementStates]:
    with (
        running_mock() as mock,
        running_engine(next(iter(engine_binaries().values()))) as engine,
        running_gateway(upstream(mock, STATES_CONFIG), store=engine.url) as gateway,
    ):
        yield EnforcementStates(gateway, mock, engine.url)


def sent(mock: MockLLM, tag: str) -> dict[str, str]:
    """Header fields of the tagged request as the upstream received them."""
    fields = [(name.lower(), value) for name, value in mock.seen(tag)["fields"]]
    assert len(fields) == len(dict(fields)), "no field twice"
    return dict(fields)


def test_tagged_requests_pass_with_a_note_for_the_upstream(states):
    """A tagged client's request passes with the verdict in one request header, and its
    record has the action ``tag``.
    """
    states.put("127.70.0.1", "acme", "tag")
    answer = states.ask("127.70.0.1", "acme", "tagged", tidegate_verdict="mine")
    assert answer.status == 200
    noted = sent(states.mock, "tagged")[VERDICT]
    assert noted == "scraping;score=4.2;action=tag"
    assert VERDICT not in answer.headers
    record = states.record_of(answer)
    assert (record["action"], record["class"], record["score"]) == (
        "tag", "scraping", 4.25,
    )  # fmt: skip
    assert record["enforced"] is True
    assert record["reasons"] == ["It walks."]


def test_a_clients_own_verdict_never_reaches_the_upstream(states):
    """A verdict header sent by a client is removed."""
    answer = states.ask("127.70.0.2", "acme", "own", tidegate_verdict="fine")
    assert answer.status == 200
    assert VERDICT not in sent(states.mock, "own")


def test_throttled_clients_keep_their_rate(states):
    """A throttled client passes up to its rate per minute with the verdict header; the
    next request is 429 with ``retry-after``.
    """
    states.put("127.70.0.3", "acme", "throttle", rate=2)
    passed = [states.ask("127.70.0.3", "acme", f"slow-{n}") for n in range(2)]
    assert [answer.status for answer in passed] == [200, 200]
    noted = sent(states.mock, "slow-1")[VERDICT]
    assert noted == "scraping;score=4.2;action=throttle"
    refused = states.ask("127.70.0.3", "acme")
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    record = states.record_of(refused)
    assert (record["action"], record["outcome"]) == ("throttle", "refused")
    assert record["class"] == "scraping"
    assert states.ask("127.70.0.33", "acme").status == 200


def test_a_policy_may_slow_down_instead_of_refusing(states):
    """With ``delay`` a bounded number of throttled requests is delayed for that time,
    and the rest is refused.
    """
    states.put("127.70.0.4", "slow", "throttle", rate=1)
    assert states.ask("127.70.0.4", "slow").status == 200
    start = time.monotonic()
    answer = states.ask("127.70.0.4", "slow", "held")
    assert answer.status == 200
    assert time.monotonic() - start >= 1.9
    record = states.record_of(answer)
    assert (record["action"], record["status"]) == ("throttle", 200)
    assert sent(states.mock, "held")[VERDICT].endswith("action=throttle")
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(states.ask, "127.70.0.4", "slow") for _ in range(12)]
        statuses = [one.result().status for one in asked]
    assert set(statuses) == {200, 429}
    workers = states.gateway.status()["workers"]
    assert len(workers) == 1
    assert statuses.count(200) <= 6, "two at a time, while twelve come at once"


def test_observed_tenants_are_not_slowed_down(states):
    """In observe mode a throttled client is served without delay, and its record has
    the action unenforced.
    """
    states.put("127.70.0.5", "watch", "throttle", rate=1)
    answers = [states.ask("127.70.0.5", "watch", f"w-{n}") for n in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert VERDICT not in sent(states.mock, "w-2")
    record = states.record_of(answers[2])
    assert (record["action"], record["enforced"]) == ("throttle", False)


def test_users_behind_a_blocked_address_are_served_on(mock):
    """An outsider who tries invalid keys from a shared address is refused there, and
    with it new keys; users that were served before are not.
    """
    shared = "127.77.0.9"
    with running_gateway(upstream(mock)) as gateway:
        assert ordinary_clients(gateway) == {200}
        for n in range(6):
            assert ask(gateway, shared, f"sk-shared-{n}").status == 200
        refused = (
            ask(gateway, shared, f"sk-guess-{n}", f"try {n}", mock_status="401").status
            for n in range(5000)
        )
        assert 403 in refused
        (block,) = gateway.api("GET", "/api/v1/blocks")["items"]
        assert (block["kind"], block["id"]) == ("client_ip", shared)
        for n in range(6):
            assert ask(gateway, shared, f"sk-shared-{n}").status == 200
        assert ask(gateway, shared, "sk-new").status == 403
        assert ask(gateway, "127.1.0.3", "sk-2").status == 200

"""Outsiders with invalid keys, with two workers on the embedded store: only the upstream
checks keys, and they neither charge nor hold what its clients share.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.gateway_process import Gateway, MockLLM, running_gateway, until

CONFIG = """
[[upstream]]
url = "{url}"
[policy.default]
anomaly = {{ enabled = false }}
limits = [{limits}]
"""
WORKERS = 2
TENANT = '{ per = "tenant", %s }'


@contextlib.contextmanager
def gateway_of(mock: MockLLM, *limits: str) -> Iterator[Gateway]:
    """A gateway whose tenants are known to the upstream alone."""
    config = CONFIG.format(url=mock.url, limits=", ".join(limits))
    with running_gateway(config, store="embedded:", workers=WORKERS) as gateway:
        yield gateway


def raw(key: str, max_tokens: int, status: int = 0, delay_ms: int = 0) -> bytes:
    """A chat call; the mock answers with ``status`` after ``delay_ms``."""
    asked = {"role": "user", "content": "hello"}
    body = {"model": "gpt-4o", "messages": [asked], "max_tokens": max_tokens}
    content = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    if status:
        lines.append(f"X-Mock-Status: {status}")
    if delay_ms:
        lines.append(f"X-Mock-Delay-Ms: {delay_ms}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def connect(gateway: Gateway, source: str) -> socket.socket:
    """A connection from one of this machine's loopback addresses."""
    address = ("127.0.0.1", gateway.port)
    return socket.create_connection(address, 30, source_address=(source, 0))


def ask(gateway: Gateway, sent: bytes, source: str = "127.0.0.1") -> str:
    """The status of a call."""
    with connect(gateway, source) as client:
        client.sendall(sent)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer[9:12].decode()


def become_known(gateway: Gateway, key: str) -> None:
    """Call until every worker has had an answer for the key."""
    for _ in range(24):
        assert ask(gateway, raw(key, 1)) == "200"


@pytest.mark.parametrize("delay_ms", [50, 1500])
def test_a_call_that_is_left_before_its_401_costs_nothing(mock, delay_ms):
    """One would be more than the whole limit of the day."""
    with gateway_of(mock, TENANT % 'usd = 10, window = "day"') as gateway:
        for n in range(8):
            with connect(gateway, f"127.0.9.{n + 1}") as client:
                client.sendall(raw(f"bad{n}", 900_000, 401, delay_ms))
                time.sleep(0.02)
        until(lambda: len(gateway.records()) == 8)
        assert ask(gateway, raw("new", 20)) == "200"
        left = gateway.records(outcome="client_closed")
        assert left
        assert {(r["usd"], r["total_tokens"]) for r in left} == {(0.0, 0)}


def test_valid_keys_that_are_left_before_their_answer_are_charged(mock):
    """Rotating them is no way around the limit."""
    with gateway_of(mock, TENANT % 'tokens = 2_000, window = "day"') as gateway:
        for n in range(30):
            with connect(gateway, "127.0.0.1") as client:
                client.sendall(raw(f"good{n}", 300, 0, 60))
                time.sleep(0.03)
            until(lambda n=n: len(gateway.records()) > n)
        charged = sum(r["total_tokens"] for r in gateway.records())
        refused = [r for r in gateway.records() if r["status"] == 429]
        assert refused or charged < 2_000
        assert charged == sum(
            r["total_tokens"] for r in gateway.records(usage_source="upstream")
        )
        assert charged <= 2_200


@pytest.mark.parametrize(
    ("limit", "attackers"),
    [
        ('tokens = 100_000, window = "1m"', 4),
        ('usd = 1, window = "day"', 4),
        ("concurrent = 4", 12),
        ('requests = 200, window = "1h"', 12),
    ],
)
def test_invalid_keys_in_flight_refuse_nobody_who_is_known(mock, limit, attackers):
    """Nor do they refuse new keys, once their addresses are suspects."""
    with gateway_of(mock, TENANT % limit) as gateway:
        become_known(gateway, "victim")
        ended, seen = threading.Event(), Counter[str]()

        def attack(number: int) -> None:
            count = 0
            while not ended.is_set():
                count += 1
                sent = raw(f"bad{number}-{count}", 99_000, 401, 300)
                status = ask(gateway, sent, f"127.0.8.{number + 1}")
                seen[status] += 1
                if status != "401":
                    time.sleep(0.05)

        with ThreadPoolExecutor(attackers) as pool:
            threads = [pool.submit(attack, number) for number in range(attackers)]
            try:
                until(lambda: seen["401"] > 12 * attackers)
                known = Counter(
                    ask(gateway, raw("victim", 2000), "127.0.0.9") for _ in range(30)
                )
                new = Counter(
                    ask(gateway, raw(f"new{n}", 20), "127.0.0.7") for n in range(10)
                )
            finally:
                ended.set()
            for thread in threads:
                thread.result()
        assert known == {"200": 30}
        assert new["200"] >= 9, new


def test_invalid_keys_leave_no_counters(mock, tmp_path):
    """Whatever models they make up."""
    limits = (
        '{ per = "user", requests = 1000, window = "month" }',
        '{ per = "user", tokens = 1000000, window = "month" }',
        '{ per = "user+model", requests = 1000, window = "day" }',
        '{ per = "model", tokens = 1000000, window = "month" }',
        '{ per = "tenant+model", concurrent = 100 }',
        '{ per = "client_ip", requests = 100000, window = "day" }',
    )
    config = CONFIG.format(url=mock.url, limits=", ".join(limits))
    store = f"embedded:{tmp_path}"
    with running_gateway(config, store=store, workers=WORKERS) as gateway:
        engine = _engine(gateway)
        assert ask(gateway, raw("good", 20)) == "200"
        before = _counters(engine)
        for n in range(60):
            sent = raw(f"bad{n}", 20, (400, 401, 403)[n % 3])
            sent = sent.replace(b"gpt-4o", b"m%05d" % n)
            assert ask(gateway, sent, "127.0.0.5") in ("400", "401", "403")
        until(lambda: len(_counters(engine) - before) == 1)


def _engine(gateway: Gateway) -> redis.Redis:
    for child in gateway.children("engine"):
        for connection in child.net_connections("unix"):
            if connection.laddr:
                return redis.Redis(unix_socket_path=connection.laddr)
    raise AssertionError


def _counters(engine: redis.Redis) -> set[bytes]:
    return {key for key in engine.scan_iter(count=1000) if b"}:w:" in key}

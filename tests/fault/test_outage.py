"""What clients get while the store is unreachable, from the start or for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.gateway_process import (
    Gateway,
    MockLLM,
    call,
    running_gateway,
    running_mock,
    until,
)
from tests.ports import free_port

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
LIMITS = """
[policy.default]
limits = [{{ per = "user", requests = {amount}, window = "1h" }}]
"""


@pytest.fixture(name="mock", scope="module")
def _mock() -> Iterator[MockLLM]:
    with running_mock() as mock:
        yield mock


def _config(mock: MockLLM, amount: int = 1000) -> str:
    return f'[[upstream]]\nurl = "{mock.url}"\n' + LIMITS.format(amount=amount)


def _ask(gateway: Gateway, key: str = "sk-any") -> int:
    """Send one call; its status, or 0 when the connection broke."""
    try:
        url = f"{gateway.url}/v1/chat/completions"
        return call("POST", url, ASKED, key=key)[0]
    except OSError:
        return 0


def _signal(gateway: Gateway, role: str, number: int) -> None:
    os.kill(gateway.children(role)[0].pid, number)


def _kill(gateway: Gateway, role: str) -> None:
    """Kill a child with SIGKILL, and wait until the process is gone."""
    victim = gateway.children(role)[0].pid
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in [child.pid for child in gateway.children(role)])


def test_killed_children_restart_while_the_store_is_frozen(mock):
    """While the store is frozen, killed workers and control restart within seconds,
    users keep their ids, and limits are enforced locally.
    """
    with running_gateway(_config(mock, 12), store="embedded:./s") as gateway:
        assert _ask(gateway) == 200
        _signal(gateway, "engine", signal.SIGSTOP)
        for role in ("worker", "control", "worker"):
            _kill(gateway, role)
            until(lambda: _ask(gateway) in (200, 429), why=f"calls without {role}")
        statuses = [_ask(gateway) for _ in range(14)]
        assert set(statuses[:5]) == {200}
        assert statuses[-1] == 429
        _signal(gateway, "engine", signal.SIGCONT)
        until(lambda: gateway.status()["store"]["up"], why="the store")
        assert _ask(gateway) == 429
        assert len({record["user"] for record in gateway.records()}) == 1


def test_start_without_the_store(mock):
    """A gateway whose store is unreachable starts and enforces limits locally."""
    store = f"redis://127.0.0.1:{free_port()}/0"
    with running_gateway(_config(mock, 2), store=store) as gateway:
        assert [_ask(gateway) for _ in range(3)] == [200, 200, 429]
        until(lambda: gateway.metrics()["tidegate_store_up"] == 0)


@pytest.mark.parametrize(("when_down", "status"), [("open", 200), ("closed", 429)])
def test_when_down_by_choice(mock, when_down, status):
    """While the store is down, ``open`` admits every request and ``closed`` answers
    429; both end when the store is back.
    """
    options = {"store": "embedded:./s", "store_keys": f'when_down = "{when_down}"'}
    with running_gateway(_config(mock, 3), **options) as gateway:
        assert _ask(gateway) == 200
        _signal(gateway, "engine", signal.SIGSTOP)
        assert {_ask(gateway) for _ in range(6)} == {status}
        _signal(gateway, "engine", signal.SIGCONT)
        until(lambda: gateway.status()["store"]["up"], why="the store")
        until(lambda: _ask(gateway, "sk-other") == 200)

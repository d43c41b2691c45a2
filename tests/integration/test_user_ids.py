"""One key is one user in every worker and gateway of a store, whatever starts first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.engines import engine_binaries, running_engine
from tests.gateway_process import Gateway, call, running_mock, until

pytestmark = pytest.mark.skipif(not engine_binaries(), reason="no store engine")

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
LIMITS = 'mode = "enforce"\nlimits = [{ per = "user", requests = 5, window = "1h" }]'


@pytest.fixture(name="mock", scope="module")
def _mock():
    with running_mock() as mock:
        yield mock


@pytest.fixture(name="engine")
def _engine():
    with running_engine(next(iter(engine_binaries().values()))) as engine:
        yield engine


@pytest.fixture(name="start")
def _start(mock, engine, monkeypatch):
    """Starts gateways, each as on a machine of its own: no shared runtime directory."""
    with ExitStack() as stack:

        def start(count: int = 1) -> list[Gateway]:
            config = f'[[upstream]]\nurl = "{mock.url}"\n[policy.default]\n{LIMITS}\n'
            made = []
            for _ in range(count):
                gateway = Gateway(config, store=engine.url, workers=2)
                gateway.environment = {
                    "XDG_RUNTIME_DIR": stack.enter_context(
                        tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp")
                    )
                }
                made.append(gateway)
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(Gateway.start, made))
            for gateway in made:
                stack.callback(gateway.stop)
            return made

        yield start


def users(gateways: list[Gateway], key: str, calls: int = 24) -> set[str]:
    """The user ids of one key's requests; new connections reach each worker."""
    for gateway in gateways:
        before = len(gateway.records())
        for _ in range(calls // len(gateways)):
            call("POST", f"{gateway.url}/v1/chat/completions", CHAT, key=key)
        until(
            lambda g=gateway, n=before: len(g.records()) - n >= calls // len(gateways)
        )
    return {record["user"] for gateway in gateways for record in gateway.records()}


def secrets_in_use(gateways: list[Gateway]) -> set[str]:
    """The secrets of all workers and control processes, as the status page shows them."""
    found = set()
    for gateway in gateways:
        status = gateway.status()
        found.add(status["user_ids"]["secret_id"])
        found |= {worker["stats"].get("secret_id", "") for worker in status["workers"]}
    return found


def test_gateways_that_start_together_agree(start, engine):
    """On an empty store, one creates the secret and all workers use it at once."""
    for _ in range(3):
        gateways = start(2)
        assert all(gateway.status()["user_ids"]["shared"] for gateway in gateways)
        assert len(users(gateways, "sk-one", 12)) == 1
        until(lambda g=gateways: len(secrets_in_use(g)) == 1)
        assert "user_ids_changed" not in "".join(gateway.log() for gateway in gateways)
        engine.command(b"FLUSHALL")


def test_the_stores_secret_replaces_a_temporary_one(start, engine):
    """A gateway that starts while the store is away takes its secret when it is back:
    limits and blocks of a key hold on both gateways.
    """
    (first,) = start()
    engine.freeze()
    (second,) = start()
    assert not second.status()["user_ids"]["shared"]
    assert second.metrics()["tidegate_user_ids_shared"] == 0
    assert "user_ids_not_shared" in second.log()
    engine.thaw()
    both = [first, second]
    until(lambda: len(secrets_in_use(both)) == 1)
    assert "user_ids_changed" in second.log()
    until(lambda: second.metrics()["tidegate_user_ids_shared"] == 1)

    answers = [
        call("POST", f"{gateway.url}/v1/chat/completions", CHAT, key="sk-two")[0]
        for gateway in both * 5
    ]
    assert answers.count(200) == 5
    (user,) = users(both, "sk-two", 4)
    first.api("POST", "/api/v1/blocks", {"kind": "user", "id": user})
    blocked = _answers(second, "sk-two")
    until(lambda: blocked() == 403)


def test_a_store_with_another_secret_replaces_ours(start, engine):
    """After the store is restored with another secret, all workers use that one; a store
    that was emptied gets theirs back.
    """
    gateways = start(2)
    (before,) = secrets_in_use(gateways)
    engine.command(b"DEL tidegate:1:secret")
    until(lambda: engine.command(b"EXISTS tidegate:1:secret") == b":1\r\n")
    assert secrets_in_use(gateways) == {before}
    other = "ab" * 32
    engine.command(f"SET tidegate:1:secret {other}".encode())
    until(lambda: before not in secrets_in_use(gateways))
    until(lambda: len(secrets_in_use(gateways)) == 1)
    assert len({record["user"] for record in _after(gateways, "sk-three")}) == 1


def test_a_restarted_control_process_keeps_a_temporary_secret(start, engine):
    """Without a store, ids do not change because control was restarted."""
    engine.freeze()
    (gateway,) = start()
    (before,) = until(
        lambda: len(secrets_in_use([gateway])) == 1 and secrets_in_use([gateway])
    )
    gateway.children("control")[0].kill()
    until(lambda: _secrets_or_none(gateway) == {before})
    engine.thaw()


def _secrets_or_none(gateway: Gateway) -> Any:
    try:
        return secrets_in_use([gateway])
    except OSError:
        return None


def _after(gateways: list[Gateway], key: str) -> list[dict[str, Any]]:
    counts = [len(gateway.records()) for gateway in gateways]
    users(gateways, key, 12)
    return [
        record
        for gateway, count in zip(gateways, counts, strict=True)
        for record in gateway.records()[count:]
    ]


def _answers(gateway: Gateway, key: str) -> Callable[[], int]:
    url = f"{gateway.url}/v1/chat/completions"
    return lambda: call("POST", url, CHAT, key=key)[0]

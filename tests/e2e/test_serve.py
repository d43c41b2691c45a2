"""``tidegate serve`` as a set of processes: start, reload, kill, drain."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway_process import (
    Gateway,
    MockLLM,
    call,
    running_gateway,
    until,
)

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello river"}]}
ONE_AN_HOUR = """
[policy.default]
limits = [{ per = "user", requests = 1, window = "1h" }]
"""


def _upstream(mock: MockLLM, rest: str = "") -> str:
    return f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n{rest}'


def _ask(gateway: Gateway, key: str = "sk-any", **mock: Any) -> int:
    """Send one chat call on a new connection; its status."""
    headers = {f"x-mock-{k.replace('_', '-')}": str(v) for k, v in mock.items()}
    url = f"{gateway.url}/v1/chat/completions"
    return call("POST", url, ASKED, key=key, headers=headers)[0]


def _answers(gateway: Gateway) -> bool:
    """Whether a new connection is answered with 200."""
    try:
        return _ask(gateway) == 200
    except OSError:
        return False


# -- flags alone ----------------------------------------------------------------------


def test_upstream_flag_alone_serves_within_seconds(mock):
    """With ``--upstream`` alone the gateway prints the exact ready line and serves in
    observe mode with the embedded store.
    """
    with running_gateway(None, "--upstream", mock.url, store=None) as gateway:
        assert gateway.ready_line == (
            f"tidegate ready http://127.0.0.1:{gateway.ports[0]}"
            f" admin http://127.0.0.1:{gateway.ports[1]}"
        )
        assert call("GET", f"{gateway.admin}/readyz")[0] == 200
        assert call("GET", f"{gateway.admin}/healthz")[0] == 200
        (policy,) = gateway.api("GET", "/api/v1/policies")["items"]
        assert "observe" in json.dumps(policy)
        assert "observe" in gateway.log()
        assert {_ask(gateway, f"sk-{n}") for n in range(30)} == {200}
        records = gateway.directory / "tidegate-data" / "records.jsonl"
        until(lambda: records.read_text().count("\n") == 30)


def test_counters_survive_a_restart(mock):
    """Usage in the embedded store survives a restart of the gateway."""
    gateway = Gateway(_upstream(mock, ONE_AN_HOUR), store="embedded:./store").start()
    try:
        assert [_ask(gateway), _ask(gateway)] == [200, 429]
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        gateway.start()
        assert _ask(gateway) == 429
    finally:
        gateway.stop()


def test_an_address_in_use_is_reported(mock):
    """A second gateway on the same port ends with exit 1 and reports the address in
    use.
    """
    with running_gateway(_upstream(mock)) as gateway:
        second = gateway.command("serve", "--config", str(gateway.config_file))
    assert second.returncode == 1
    assert "in use" in second.stderr
    assert "Traceback" not in second.stderr


# -- reload ---------------------------------------------------------------------------


@pytest.fixture(name="reloading", scope="module")
def _reloading(mock: MockLLM) -> Iterator[Gateway]:
    with running_gateway(_upstream(mock)) as gateway:
        yield gateway


def _generation(gateway: Gateway) -> int:
    """The generation of the configuration in force."""
    status = gateway.status()
    wanted: int = status["config"]["generation"]
    return wanted


def _takes(gateway: Gateway, key: str, status: int) -> None:
    until(lambda: _ask(gateway, key) == status, why=f"status {status}")


def test_a_changed_file_is_reloaded(reloading, mock):
    """A changed file is reloaded without a signal."""
    reloading.write_config(_upstream(mock, ONE_AN_HOUR))
    _takes(reloading, "sk-watch", 429)
    reloading.write_config(_upstream(mock))
    _takes(reloading, "sk-watch", 200)


def test_sighup_reloads(reloading, mock):
    """SIGHUP reloads the file, and open connections stay open."""
    host = http.client.HTTPConnection("127.0.0.1", reloading.port, timeout=60)
    host.request("GET", "/echo")
    host.getresponse().read()
    before = _generation(reloading)
    reloading.write_config(_upstream(mock, ONE_AN_HOUR))
    reloading.signal(signal.SIGHUP)
    _takes(reloading, "sk-hup", 429)
    assert _generation(reloading) > before
    host.request("GET", "/echo")
    assert host.getresponse().status == 200
    host.close()
    reloading.write_config(_upstream(mock))
    _takes(reloading, "sk-hup", 200)


def test_reload_leaves_open_streams_alone(reloading, mock):
    """A stream that is open during a reload is relayed to its end."""
    host = http.client.HTTPConnection("127.0.0.1", reloading.port, timeout=60)
    host.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(ASKED | {"stream": True}),
        {"x-mock-tokens": "10", "x-mock-hold": "5", "x-mock-hold-ms": "1500"},
    )
    stream = host.getresponse()
    before = _generation(reloading)
    reloading.write_config(_upstream(mock, ONE_AN_HOUR))
    until(lambda: _generation(reloading) > before)
    _takes(reloading, "sk-after", 429)
    assert stream.read().count(b"tide") == 10
    host.close()
    reloading.write_config(_upstream(mock))
    _takes(reloading, "sk-after", 200)


def test_bad_file_keeps_the_old_configuration(reloading, mock):
    """A file with an error changes nothing, and the status names file and key."""
    reloading.write_config(_upstream(mock, "[policy.default]\nlimitz = []\n"))
    refused = until(lambda: _last_reload(reloading)["errors"])
    assert "limitz" in json.dumps(refused)
    assert reloading.config_file.name in json.dumps(refused)
    assert _ask(reloading) == 200
    reloading.write_config(_upstream(mock))
    until(lambda: _last_reload(reloading)["ok"])


def _last_reload(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.status()["config"]["last_reload"]
    return found


# -- killed processes -----------------------------------------------------------------


@pytest.fixture(name="pair", scope="module")
def _pair(mock: MockLLM) -> Iterator[Gateway]:
    with running_gateway(
        _upstream(mock, ONE_AN_HOUR.replace("1,", "1_000_000,")),
        store="embedded:./store",
        workers=2,
    ) as gateway:
        yield gateway


def _kill(gateway: Gateway, role: str) -> None:
    """Kill one child of a role with SIGKILL, and wait until the role is ready."""
    children = gateway.children(role)
    victim = children[0].pid
    os.kill(victim, signal.SIGKILL)

    def back() -> bool:
        now = gateway.children(role)
        if len(now) < len(children) or victim in {child.pid for child in now}:
            return False
        try:
            workers = gateway.status()["workers"]
        except OSError:
            return False
        return all(worker["ready"] for worker in workers) and len(workers) == 2

    until(back, why=f"{role} is back")


def test_a_killed_worker_is_replaced(pair):
    """A worker killed with SIGKILL is replaced, and requests are answered."""
    _kill(pair, "worker")
    assert all(_answers(pair) for _ in range(10))


def test_a_killed_control_is_replaced_without_a_lost_record(pair, mock):
    """When control is killed with SIGKILL, no request fails, it is replaced, and every
    record is written exactly once.
    """
    ids = [f"over-{time.monotonic_ns()}-{n}" for n in range(40)]
    url = f"{pair.url}/v1/chat/completions"
    os.kill(pair.children("control")[0].pid, signal.SIGKILL)
    for id_ in ids:
        answer = call("POST", url, ASKED, headers={"x-request-id": id_})
        assert answer[0] == 200
    until(lambda: pair.children("control") and _ready(pair), why="control is back")
    until(lambda: _written(pair, ids) == sorted(ids), why="every record, once")


def _ready(gateway: Gateway) -> bool:
    try:
        return call("GET", f"{gateway.admin}/readyz")[0] == 200
    except OSError:
        return False


def _written(gateway: Gateway, ids: list[str]) -> list[str]:
    wanted = set(ids)
    records = gateway.records()
    return sorted(r["request_id"] for r in records if r["request_id"] in wanted)


def test_a_killed_engine_is_restarted_without_a_failed_request(pair):
    """When the embedded engine is killed with SIGKILL, no request fails and it is
    restarted.
    """
    victim = pair.children("engine")[0].pid
    os.kill(victim, signal.SIGKILL)
    assert {_ask(pair) for _ in range(20)} == {200}
    until(lambda: {p.pid for p in pair.children("engine")} - {victim}, why="the engine")
    until(lambda: pair.status()["store"]["up"], why="the store")
    assert _ask(pair) == 200


# -- shutdown -------------------------------------------------------------------------


def test_sigterm_drains_open_streams(mock):
    """After SIGTERM the gateway is not ready, relays an open stream to its end, writes
    the record and exits with 0.
    """
    gateway = Gateway(
        _upstream(mock), server='health_path = "/-/health"\ndrain_timeout = "40s"\n'
    ).start()
    assert call("GET", f"{gateway.url}/-/health")[0] == 200
    host = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    host.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(ASKED | {"stream": True}),
        {"x-mock-tokens": "10", "x-mock-chunk-ms": "100"},
    )
    stream = host.getresponse()
    first = stream.read(20)
    gateway.signal(signal.SIGTERM)
    until(lambda: not _ready(gateway), why="not ready at once")
    body = first + stream.read()
    assert body.count(b"tide") == 10
    assert body.endswith(b"[DONE]\n\n")
    assert gateway.wait() == 0
    (record,) = gateway.records(stream=True)
    assert (record["completion_tokens"], record["outcome"]) == (10, "ok")
    host.close()
    gateway.stop()


def test_sigterm_cuts_at_the_drain_limit(mock):
    """A stream that outlasts ``drain_timeout`` is closed, settled and recorded."""
    gateway = Gateway(_upstream(mock), server='drain_timeout = "300ms"\n').start()
    host = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    host.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(ASKED | {"stream": True}),
        {"x-mock-tokens": "9", "x-mock-hold": "4"},
    )
    stream = host.getresponse()
    seen = 0
    while seen < 4:
        seen += b"tide" in stream.readline()
    began = time.monotonic()
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == 0
    assert time.monotonic() - began < 50, "the stream holds for a minute"
    with pytest.raises(http.client.IncompleteRead):
        stream.read()
    (record,) = gateway.records(stream=True)
    # Zero tokens are accepted: on a loaded machine counting may not start before the end.
    if record["usage_source"] == "counted":
        assert record["completion_tokens"] == 4
    assert record["completion_tokens"] > 0
    assert record["usage_source"] in ("counted", "estimated")
    host.close()
    gateway.stop()

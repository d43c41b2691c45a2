"""The gateway and the mock LLM API as processes, started as an operator does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parent.parent
READY = re.compile(r"^tidegate ready (\S+) admin (\S+)$", re.MULTILINE)
# Timeouts for hung processes; a passing test never waits for them.
START_S = 90.0
STOP_S = 60.0
LONGEST_S = 60.0
# For tests of exact counts: a loaded machine must not exceed the store's timeout.
PATIENT = 'timeout = "5s"'


def key_hash(key: str) -> str:
    """A client key as the configuration holds it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def until(what: Callable[[], Any], timeout_s: float = LONGEST_S, why: str = "") -> Any:
    """Poll ``what`` every 10 ms until it is true; its value."""
    end = time.monotonic() + timeout_s
    while not (found := what()):
        if time.monotonic() > end:
            msg = f"not within {timeout_s:g} s: {why or what}"
            raise AssertionError(msg)
        time.sleep(0.01)
    return found


def call(
    method: str,
    url: str,
    body: Any = None,
    *,
    key: str = "",
    timeout_s: float = 30.0,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Send one plain HTTP call: status, header fields by lower name, body."""
    request = urllib.request.Request(url, method=method, headers=dict(headers or {}))
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    if body is not None:
        request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.status, _fields(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _fields(error.headers), error.read()


def _fields(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class MockLLM:
    """``tests/mockllm.py`` as a process."""

    def __init__(self, *arguments: str, scheme: str = "http") -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.mockllm", *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        assert self._child.stdout is not None
        port = self._child.stdout.readline().split()[-1].decode()
        self.port = int(port)
        self.url = f"{scheme}://127.0.0.1:{port}"

    @property
    def pid(self) -> int:
        return self._child.pid

    def ledger(self) -> dict[str, dict[str, int]]:
        """The mock's token counts by credential."""
        books: dict[str, dict[str, int]] = self._control("GET", "/__ledger")
        return books

    def seen(self, tag: str) -> dict[str, Any]:
        """The request with this ``x-mock-tag``, and how it ended."""
        found: dict[str, Any] = self._control("GET", f"/__seen?tag={tag}")
        return found

    def clear(self) -> None:
        """Set the mock's counts to zero."""
        self._control("POST", "/__clear")

    def _control(self, method: str, path: str) -> Any:
        return json.loads(call(method, self.url + path)[2])

    def stop(self) -> None:
        """Terminate the process."""
        self._child.kill()
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


@contextlib.contextmanager
def running_mock(*arguments: str) -> Iterator[MockLLM]:
    """Run a mock for the length of a block."""
    mock = MockLLM(*arguments)
    try:
        yield mock
    finally:
        mock.stop()


class Gateway:
    """``tidegate serve`` with its own directory.

    ``config`` is TOML without [server] listen, [admin] listen, [store] and [events];
    those go in as flags or are added. ``config=None``: flags only. ``url`` and
    ``admin`` are known once it has been started.
    """

    def __init__(
        self,
        config: str | None = None,
        *flags: str,
        store: str | None = "memory:",
        workers: int = 1,
        server: str = "",
        store_keys: str = "",
        admin: str = "",
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp")
        self.directory = Path(self._home.name)
        # Chosen once, so that a restarted gateway keeps its ports.
        self.ports = (free_port(), free_port())
        self.port = 0
        self.url = self.admin = ""
        self.records_file = self.directory / "records.jsonl"
        self.config_file = self.directory / "tidegate.toml"
        self._stderr = self.directory / "stderr"
        self._workers, self._server = workers, server
        self._store, self._store_keys = store, store_keys
        self._admin_keys = admin
        self._flags = flags
        self._with_file = config is not None
        if config is not None:
            self.write_config(config)
        self._child: subprocess.Popen[bytes] | None = None
        self.started_in_s = 0.0
        self.environment: dict[str, str] = {}

    def write_config(self, config: str) -> None:
        """Write the file (whole, then renamed: watchers see one change)."""
        store = f'[store]\nurl = "{self._store}"\n' if self._store else "[store]\n"
        text = (
            f'[server]\nlisten = "127.0.0.1:{self.ports[0]}"\nworkers = {self._workers}\n'
            f'{self._server}\n[admin]\nlisten = "127.0.0.1:{self.ports[1]}"\n'
            f"{self._admin_keys}\n"
            f"{store}{self._store_keys}\n"
            f'[events]\nfile = "{self.records_file}"\n{config}\n'
        )
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.config_file)

    # -- start and stop ---------------------------------------------------------------

    def start(self) -> Self:
        """Start the process, and wait for the ready line."""
        argv = [sys.executable, "-m", "gateway", "serve"]
        if self._with_file:
            argv += ["--config", str(self.config_file)]
        else:
            argv += ["--listen", f"127.0.0.1:{self.ports[0]}"]
            argv += ["--admin", f"127.0.0.1:{self.ports[1]}"]
            argv += ["--store", self._store] if self._store else []
        began = time.monotonic()
        with self._stderr.open("wb") as stderr:
            self._child = subprocess.Popen(
                [*argv, *self._flags],
                cwd=self.directory,
                stderr=stderr,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | self.environment,
            )
        until(self._ready_or_dead, START_S, "the ready line")
        self.started_in_s = time.monotonic() - began
        address = READY.search(self.log())
        assert address
        self.port = int(address[1].rpartition(":")[2])
        self.url, self.admin = f"http://127.0.0.1:{self.port}", address[2]
        return self

    def _ready_or_dead(self) -> bool:
        assert self._child is not None
        if self._child.poll() is not None:
            msg = f"the gateway ended at once:\n{self.log()}"
            raise AssertionError(msg)
        return READY.search(self.log()) is not None

    def log(self) -> str:
        """Standard error so far."""
        return self._stderr.read_text(errors="replace")

    @property
    def ready_line(self) -> str:
        found = READY.search(self.log())
        assert found
        return found.group()

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the process to end; its exit status."""
        assert self._child is not None
        return self._child.wait(timeout_s)

    def stop(self, *, check: bool = True) -> None:
        """Send SIGTERM; the process must exit with 0 and without a traceback."""
        assert self._child is not None
        status = self._child.poll()
        try:
            if status is None:
                self.signal(signal.SIGTERM)
                status = self.wait()
            log = self.log()
            print(log)  # noqa: T201 - shown with a failure
        finally:
            self._kill_all()
            self._home.cleanup()
        if check:
            assert "Traceback" not in log, log
            assert status == 0, log

    def _kill_all(self) -> None:
        assert self._child is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                process.kill()
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    # -- child processes and admin API ------------------------------------------------

    def children(self, role: str) -> list[psutil.Process]:
        """Child processes of a role: ``worker``, ``control`` or ``engine``."""
        found = []
        for process in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                line = " ".join(process.cmdline())
                name = "worker" if "gateway.worker.worker" in line else "engine"
                name = "control" if "gateway.control.control" in line else name
                if name == role and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def status(self) -> dict[str, Any]:
        """``GET /api/v1/status``."""
        found: dict[str, Any] = self.api("GET", "/api/v1/status")
        return found

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Send a call of the admin API that must succeed; its JSON."""
        status, _, answer = call(method, self.admin + path, body)
        assert status < 300, (status, answer)
        return json.loads(answer) if answer else None

    def reset(self, kind: str, subject: str) -> None:
        """Reset a subject's counters."""
        self.api("POST", f"/api/v1/clients/{kind}/{subject}/reset")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another ``tidegate`` command in the gateway's directory."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )

    # -- records and metrics ----------------------------------------------------------

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """Records so far whose fields have the given values."""
        if not self.records_file.exists():
            return []
        lines = self.records_file.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [r for r in found if all(r[k] == v for k, v in wanted.items())]

    def record(self, **wanted: Any) -> dict[str, Any]:
        """Wait for the only record with the given values."""
        found: list[dict[str, Any]] = until(
            lambda: self.records(**wanted), why=f"a record with {wanted}"
        )
        assert len(found) == 1, found
        return found[0]

    def metrics(self) -> dict[str, float]:
        """Samples of ``/metrics`` by name and labels as printed."""
        text = call("GET", f"{self.admin}/metrics")[2].decode()
        lines = [line for line in text.splitlines() if line and line[0] != "#"]
        pairs = (line.rpartition(" ") for line in lines)
        return {name: float(value) for name, _, value in pairs}


@contextlib.contextmanager
def running_gateway(
    config: str | None = None, *flags: str, **options: Any
) -> Iterator[Gateway]:
    """Run a gateway for the length of a block."""
    gateway = Gateway(config, *flags, **options)
    try:
        gateway.start()
        yield gateway
    except BaseException:
        sys.stderr.write(gateway.log())
        gateway.stop(check=False)
        raise
    gateway.stop()

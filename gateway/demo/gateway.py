"""The gateway of the demo: ``tidegate serve`` in a temporary directory."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from random import Random
from typing import Any

from gateway.demo.clients import SCHOOL, SHOP
from gateway.demo.history import history_requests

START_S = 30.0
END_S = 15.0
LEARN_S = 120.0
CALL_S = 5.0
_READY = re.compile(r"^tidegate ready (\S+) admin (\S+)$", re.MULTILINE)
_PR_SET_PDEATHSIG = 1
_CONFIG = """\
[server]
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1/32"]
drain_timeout = "2s"
[server.log]
format = "json"
[admin]
listen = "{admin}"
[store]
url = "embedded:{folder}/store"
[events]
file = "{folder}/records.jsonl"
[[upstream]]
name = "made-up"
url = "{upstream}"
[policy.default]
mode = "enforce"
user_from = ["header"]
limits = [
  {{ per = "user", requests = 3000, window = "1m" }},
  {{ per = "tenant", usd = 50, window = "day" }},
]
[[tenant]]
name = "{shop}"
policy = "default"
header = {{ name = "x-tenant", value = "{shop}", user_header = "x-user" }}
[[tenant]]
name = "{school}"
policy = "default"
header = {{ name = "x-tenant", value = "{school}", user_header = "x-user" }}
"""


class GatewayError(Exception):
    """The gateway does not run; the text is the end of its standard error."""


class DemoGateway:
    """A gateway process and its directory. ``start`` sets ``url`` and ``admin``.

    Child processes must be started from the main thread: the kernel signals them when
    the thread that started them ends (``_end_with_parent``).
    """

    def __init__(self, admin: str = "127.0.0.1:0") -> None:
        self._admin = admin
        self.folder = tempfile.mkdtemp(prefix="tidegate-demo-")
        self.url = self.admin = ""
        self._stderr = f"{self.folder}/stderr"
        self._child: subprocess.Popen[bytes] | None = None
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def write_config(self, upstream: str) -> None:
        """Write the configuration: two tenants, one upstream."""
        text = _CONFIG.format(
            admin=self._admin,
            folder=self.folder,
            upstream=upstream,
            shop=SHOP,
            school=SCHOOL,
        )
        with open(f"{self.folder}/tidegate.toml", "w", encoding="utf-8") as file:
            file.write(text)

    async def learn(self, rng: Random) -> int:
        """Learn past traffic; the number of requests, 0 without a store engine."""
        path = f"{self.folder}/past.jsonl"
        count = await asyncio.to_thread(_write_history, path, rng)
        argv = self._command("learn", path, "--config", "tidegate.toml")
        child = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.folder,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent(signal.SIGINT),
        )
        try:
            async with asyncio.timeout(LEARN_S):
                learned = await child.wait() == 0
        except (asyncio.CancelledError, TimeoutError):
            child.send_signal(signal.SIGINT)  # it stops the store engine it started
            await child.wait()
            raise
        return count if learned else 0

    async def start(self) -> None:
        """Start the gateway and wait until it is ready. Raises GatewayError."""
        child = self._child = self._launch()
        end = time.monotonic() + START_S
        while (found := _READY.search(self._read_stderr())) is None:
            if child.poll() is not None or time.monotonic() > end:
                raise GatewayError(
                    self._read_stderr()[-2000:] or "the gateway did not start"
                )
            await asyncio.sleep(0.05)
        self.url, self.admin = found[1], found[2]

    def _launch(self) -> subprocess.Popen[bytes]:
        with open(self._stderr, "wb") as stderr:
            return subprocess.Popen(  # noqa: S603 - our own command
                self._command("serve", "--config", "tidegate.toml"),
                cwd=self.folder,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # Ctrl-C reaches only the demo, which then stops the gateway.
                start_new_session=True,
                preexec_fn=_end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - only calls prctl
            )

    async def fetch(self, path: str) -> Any:
        """GET a path of the admin API; None when it does not answer."""
        return await asyncio.to_thread(self._fetch, path)

    def _fetch(self, path: str) -> Any:
        try:
            with self._open(self.admin + path, timeout=CALL_S) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def close(self) -> None:
        """Stop the gateway and remove its directory."""
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()  # its child processes end with it
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_stderr(self) -> str:
        with open(self._stderr, encoding="utf-8", errors="replace") as file:
            return file.read()

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gateway", *arguments]

    def _environ(self) -> dict[str, str]:
        # The parent of this package, so that a checkout runs without being installed.
        here = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
        paths = [here, os.environ.get("PYTHONPATH", "")]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        return clean | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _write_history(path: str, rng: Random) -> int:
    count = 0
    with open(path, "wb") as file:
        for line in history_requests(time.time() - 1.0, rng):
            file.write(line + b"\n")
            count += 1
    return count


def _end_with_parent(signum: signal.Signals) -> Callable[[], None] | None:
    """For ``preexec_fn``: the child gets a signal when this process ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def set_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)

    return set_signal

"""Traffic of ordinary clients and one attacker, and pages of the console."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.gateway_process import Gateway, MockLLM
from tests.words import WORDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Timeout of every page operation; generous, for loaded machines.
DRAWN_MS = 60_000
ATTACK_TIMEOUT_S = 90.0
ATTACKER, KEY = "127.66.0.1", "sk-attacker"
VIEWS = ("now", "incidents", "clients", "policies", "alerts")
CONFIG = """
[[upstream]]
name = "mock"
url = "{url}"
[[alert]]
name = "on-call"
type = "webhook"
url = "http://127.0.0.1:9/hook"
allow_private = true
[policy.default]
mode = "{mode}"
limits = [
  {{ per = "client_ip", requests = 100000, window = "1h" }},
  {{ per = "user", tokens = 2000000, window = "1h" }},
  {{ per = "tenant", usd = 500, window = "1d" }},
]
"""


def config_of(mock: MockLLM, mode: str = "enforce") -> str:
    """A configuration with limits that the tests do not reach."""
    return CONFIG.format(url=mock.url, mode=mode)


def ask(gateway: Gateway, source: str, key: str, prompt: str) -> int:
    """Send one chat request from ``source`` and return the status."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", gateway.port, timeout=60, source_address=(source, 0)
    )
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {key}"}
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def crowd(gateway: Gateway, rounds: int = 1, pause_s: float = 0.0) -> set[int]:
    """Send ordinary requests of 14 clients and return the set of statuses."""
    chance = random.Random(rounds)
    seen = set()
    for _ in range(rounds):
        for n in range(14):
            prompt = " ".join(chance.choices(WORDS, k=chance.randint(8, 40)))
            seen.add(ask(gateway, f"127.1.0.{n + 1}", f"sk-{n}", prompt))
            time.sleep(pause_s)
    return seen


def attack(gateway: Gateway, stop: threading.Event | None = None) -> int:
    """Send variations of one prompt until blocked or stopped; return the last status."""
    chance = random.Random(ATTACKER)
    template = " ".join(chance.choices(WORDS, k=18))
    stop = stop or threading.Event()
    end = time.monotonic() + ATTACK_TIMEOUT_S
    status = count = 0
    while status != 403 and time.monotonic() < end and not stop.is_set():
        count += 1
        prompt = f"{template} {chance.choice(WORDS)} {count}"
        status = ask(gateway, ATTACKER, KEY, prompt)
    return status


@contextlib.contextmanager
def in_background(work: Any, *arguments: Any) -> Iterator[None]:
    """Run ``work(*arguments)`` in a thread and join it at the end of the block."""
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join()


class Page:
    """A page of the console that collects errors, warnings and foreign requests."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.base = base
        self.problems: list[str] = []
        page.set_default_timeout(DRAWN_MS)
        page.on("console", self._on_message)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._on_request)

    def _on_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.problems.append(f"foreign request: {request.url}")

    def open(self, view: str) -> Any:
        """Open a view and wait until it is loaded."""
        self.page.goto(f"{self.base}/#/{view}")
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector(".skeleton", state="detached")
        return self.page


@contextlib.contextmanager
def browser(**launch: Any) -> Iterator[Any]:
    """Run headless Chromium."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - may be missing

    with sync_playwright() as tool:
        chromium = tool.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], **launch
        )
        try:
            yield chromium
        finally:
            chromium.close()

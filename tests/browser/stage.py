"""A gateway with ordinary clients and one attacker, and a browser that looks at it."""

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
# Within which a page shows what it should, on a busy machine too.
DRAWN_MS = 60_000
MOST_ATTACKED_S = 90.0
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
    """Limits that nobody reaches."""
    return CONFIG.format(url=mock.url, mode=mode)


def ask(gateway: Gateway, source: str, key: str, prompt: str) -> int:
    """One chat call from an address of its own; its status."""
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
    """Ordinary clients, each with prompts of its own; what they were answered."""
    chance = random.Random(rounds)
    seen = set()
    for _ in range(rounds):
        for n in range(14):
            prompt = " ".join(chance.choices(WORDS, k=chance.randint(8, 40)))
            seen.add(ask(gateway, f"127.1.0.{n + 1}", f"sk-{n}", prompt))
            time.sleep(pause_s)
    return seen


def attack(gateway: Gateway, enough: threading.Event | None = None) -> int:
    """Walk a template until it is refused, or enough; the last status."""
    chance = random.Random(ATTACKER)
    template = " ".join(chance.choices(WORDS, k=18))
    enough = enough or threading.Event()
    end = time.monotonic() + MOST_ATTACKED_S
    status = count = 0
    while status != 403 and time.monotonic() < end and not enough.is_set():
        count += 1
        prompt = f"{template} {chance.choice(WORDS)} {count}"
        status = ask(gateway, ATTACKER, KEY, prompt)
    return status


@contextlib.contextmanager
def in_background(work: Any, *arguments: Any) -> Iterator[None]:
    """``work(*arguments)`` beside the block, which waits for its end."""
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join()


class Page:
    """A page of the console that remembers what went wrong in it."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.base = base
        self.problems: list[str] = []
        page.set_default_timeout(DRAWN_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.problems.append(f"asked elsewhere: {request.url}")

    def open(self, view: str) -> Any:
        """A view, loaded."""
        self.page.goto(f"{self.base}/#/{view}")
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector(".skeleton", state="detached")
        return self.page


@contextlib.contextmanager
def browser(**launch: Any) -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - may be missing

    with sync_playwright() as tool:
        chromium = tool.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], **launch
        )
        try:
            yield chromium
        finally:
            chromium.close()

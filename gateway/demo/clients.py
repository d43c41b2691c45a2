"""The clients of the demo, their ordinary traffic, and the counts of their answers.

Addresses are reserved for documentation and benchmarks (RFC 5737, RFC 2544). The demo's
gateway trusts this machine's headers for address, tenant and user, as it would trust a
load balancer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import aiohttp
import msgspec

from gateway.demo.prompts import SUPPORT, random_words

SHOP, SCHOOL = "shop", "school"
# Length of a simulated day, seconds: one period of the ordinary load.
DAY_S = 60.0
# Mean time from an answer to the client's next request at the highest load, seconds.
MEAN_GAP_S = 8.0
TIMEOUT_S = 30.0
BLOCKED, LIMITED, OK = 403, 429, 200
_NAMES = """
    ada ben cleo dora emil finn gwen hugo ines jona kira liam mona nils olga pia quin
    rosa sven tilda udo vera wim xenia yann zoe arne bea carl dana elsa falk gina hans
    ida jan
""".split()


class Client(msgspec.Struct, frozen=True):
    """A client; ``app``: it sends one prompt template."""

    name: str
    address: str
    tenant: str = SHOP
    model: str = "gpt-4o-mini"
    app: bool = False


RUNAWAY = Client("ci-agent", "192.0.2.90", model="gpt-4o")


def shop_clients() -> list[Client]:
    """The 40 clients of the shop: people, three applications and one agent."""
    found = [Client(name, f"192.0.2.{n}") for n, name in enumerate(_NAMES, 1)]
    found += [Client(f"bot-{n}", f"192.0.2.{80 + n}", app=True) for n in range(1, 4)]
    return [*found, RUNAWAY]


def school_clients() -> list[Client]:
    """The clients of the second tenant."""
    return [Client(f"pupil-{n}", f"198.51.100.{n}", SCHOOL) for n in range(1, 13)]


def prompt_of(client: Client, rng: Random) -> str:
    """The prompt of a client's next request."""
    if client.app:
        return SUPPORT + random_words(rng, 4, 12)
    return random_words(rng)


def load_level(seconds: float, day_s: float = DAY_S) -> float:
    """The load at a time of day, as a share (0.3 to 1) of the maximum."""
    return 0.65 - 0.35 * math.cos(2.0 * math.pi * seconds / day_s)


class TrafficGenerator:
    """Sends requests to the gateway and counts the answers by group of clients."""

    def __init__(self, url: str, rng: Random) -> None:
        self.url = f"{url}/v1/chat/completions"
        self.rng = rng
        self.answers: dict[str, Counter[int]] = {}
        self.first_refused: dict[str, float] = {}
        """Time of each group's first refused request (monotonic seconds)."""
        self.passed_since: Counter[str] = Counter()
        """By group: requests that passed after its first refusal."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=400),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(
        self, group: str, client: Client, prompt: str, tokens: int, *, stream: bool
    ) -> None:
        """Send one request and count the status of its answer (0: no answer)."""
        body = {
            "model": client.model,
            "max_tokens": tokens,
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        }
        headers = {
            "X-Forwarded-For": client.address,
            "X-Tenant": client.tenant,
            "X-User": client.name,
        }
        try:
            async with self._session.post(self.url, json=body, headers=headers) as got:
                await got.read()
                self._count_answer(group, got.status)
        except (aiohttp.ClientError, TimeoutError):
            self._count_answer(group, 0)

    def _count_answer(self, group: str, status: int) -> None:
        self.answers.setdefault(group, Counter())[status] += 1
        if status in {BLOCKED, LIMITED}:
            self.first_refused.setdefault(group, time.monotonic())
        elif status == OK and group in self.first_refused:
            self.passed_since[group] += 1

    def count(self, group: str) -> int:
        """Requests that a group sent."""
        return sum(self.answers.get(group, Counter()).values())

    def refused(self, group: str) -> int:
        """Requests of a group that were refused (403 or 429)."""
        answers = self.answers.get(group, Counter())
        return answers[BLOCKED] + answers[LIMITED]

    async def send_ordinary(self, client: Client, group: str) -> None:
        """Send requests with random gaps, shorter at high load, until cancelled."""
        rng = self.rng
        await asyncio.sleep(rng.uniform(0.0, MEAN_GAP_S))
        while True:
            tokens = rng.randint(60, 400)
            streamed = rng.random() < 0.5  # noqa: PLR2004 - one in two
            prompt = prompt_of(client, rng)
            await self.send(group, client, prompt, tokens, stream=streamed)
            gap_s = rng.expovariate(1.0) * MEAN_GAP_S / load_level(time.monotonic())
            await asyncio.sleep(min(gap_s, 4.0 * MEAN_GAP_S))

    @contextlib.asynccontextmanager
    async def background(
        self, *groups: tuple[list[Client], str]
    ) -> AsyncIterator[None]:
        """Ordinary traffic of all groups while the block runs."""
        async with asyncio.TaskGroup() as running:
            tasks = [
                running.create_task(self.send_ordinary(client, group))
                for clients, group in groups
                for client in clients
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

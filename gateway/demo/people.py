"""Who comes to the gateway: customers with a tide of their own, and strangers.

Addresses are those reserved for documentation and benchmarks (RFC 5737, RFC 2544). The
gateway of the demo believes what its own machine says of address, tenant and user, as
it would believe a load balancer that has checked them.
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

from gateway.demo.words import SUPPORT, chatter

SHOP, SCHOOL = "shop", "school"
# A day of the demo: ordinary traffic swells and ebbs once in so many seconds.
DAY_S = 60.0
ASKS_EACH_S = 8.0
TIMEOUT_S = 30.0
BLOCKED, LIMITED, OK = 403, 429, 200
_NAMES = """
    ada ben cleo dora emil finn gwen hugo ines jona kira liam mona nils olga pia quin
    rosa sven tilda udo vera wim xenia yann zoe arne bea carl dana elsa falk gina hans
    ida jan
""".split()


class Person(msgspec.Struct, frozen=True):
    """Somebody who asks: name, address, tenant; ``app``: from one template."""

    name: str
    address: str
    tenant: str = SHOP
    model: str = "gpt-4o-mini"
    app: bool = False


RUNAWAY = Person("ci-agent", "192.0.2.90", model="gpt-4o")


def customers() -> list[Person]:
    """The forty who are always there: people, three applications, one agent."""
    found = [Person(name, f"192.0.2.{n}") for n, name in enumerate(_NAMES, 1)]
    found += [Person(f"bot-{n}", f"192.0.2.{80 + n}", app=True) for n in range(1, 4)]
    return [*found, RUNAWAY]


def pupils() -> list[Person]:
    """The other tenant's."""
    return [Person(f"pupil-{n}", f"198.51.100.{n}", SCHOOL) for n in range(1, 13)]


def prompt_of(person: Person, chance: Random) -> str:
    """What it asks this time."""
    if person.app:
        return SUPPORT + chatter(chance, 4, 12)
    return chatter(chance)


def tide(seconds: float, day_s: float = DAY_S) -> float:
    """How busy it is at that time of a day, 0.3 to 1."""
    return 0.65 - 0.35 * math.cos(2.0 * math.pi * seconds / day_s)


class Street:
    """The way to the gateway, and a count of everybody's answers."""

    def __init__(self, url: str, chance: Random) -> None:
        self.url = f"{url}/v1/chat/completions"
        self.chance = chance
        self.answers: dict[str, Counter[int]] = {}
        self.first_refused: dict[str, float] = {}
        """When each group was refused for the first time (monotonic seconds)."""
        self.passed_since: Counter[str] = Counter()
        """Of each group: requests that passed after its first refusal."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=400),
        )

    async def close(self) -> None:
        """No more requests."""
        await self._session.close()

    async def ask(
        self, group: str, person: Person, prompt: str, tokens: int, *, stream: bool
    ) -> None:
        """One request; the answer is counted under ``group`` (0: none came)."""
        body = {
            "model": person.model,
            "max_tokens": tokens,
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        }
        headers = {
            "X-Forwarded-For": person.address,
            "X-Tenant": person.tenant,
            "X-User": person.name,
        }
        try:
            async with self._session.post(self.url, json=body, headers=headers) as got:
                await got.read()
                self._note(group, got.status)
        except (aiohttp.ClientError, TimeoutError):
            self._note(group, 0)

    def _note(self, group: str, status: int) -> None:
        self.answers.setdefault(group, Counter())[status] += 1
        if status in {BLOCKED, LIMITED}:
            self.first_refused.setdefault(group, time.monotonic())
        elif status == OK and group in self.first_refused:
            self.passed_since[group] += 1

    def asked(self, group: str) -> int:
        """Requests of a group that were answered."""
        return sum(self.answers.get(group, Counter()).values())

    def refused(self, group: str) -> int:
        """Those that the gateway turned away."""
        answers = self.answers.get(group, Counter())
        return answers[BLOCKED] + answers[LIMITED]

    async def live(self, person: Person, group: str) -> None:
        """Ask at human gaps, more often at high tide, until cancelled."""
        chance = self.chance
        await asyncio.sleep(chance.uniform(0.0, ASKS_EACH_S))
        while True:
            tokens = chance.randint(60, 400)
            streamed = chance.random() < 0.5  # noqa: PLR2004 - one in two
            prompt = prompt_of(person, chance)
            await self.ask(group, person, prompt, tokens, stream=streamed)
            gap_s = chance.expovariate(1.0) * ASKS_EACH_S / tide(time.monotonic())
            await asyncio.sleep(min(gap_s, 4.0 * ASKS_EACH_S))

    @contextlib.asynccontextmanager
    async def everyday(self, *crowds: tuple[list[Person], str]) -> AsyncIterator[None]:
        """Ordinary life for the length of a block."""
        async with asyncio.TaskGroup() as running:
            tasks = [
                running.create_task(self.live(person, group))
                for people, group in crowds
                for person in people
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

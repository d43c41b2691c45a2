"""The scenarios of the demo: their clients, request rates and prompts."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from gateway.demo.clients import RUNAWAY, SCHOOL, Client, TrafficGenerator
from gateway.demo.prompts import FLOODED, LOOPED, SCRAPED, WORDS, random_words

ScenarioRequest = tuple[Client, str, int]  # client, prompt, completion tokens
_ADDRESSES = 300
_VISITORS = 240


class Scenario(msgspec.Struct, frozen=True):
    """One scenario: ``rate`` requests per second, for ``share`` of the demo's time but
    at least ``least_s`` seconds. ``is_attack``: the gateway should stop it.
    """

    name: str
    title: str
    description: str
    requests: Callable[[Random], Iterator[ScenarioRequest]]
    rate: float
    share: float
    is_attack: bool = True
    least_s: float = 0.0


def scraping(rng: Random) -> Iterator[ScenarioRequest]:
    """A new address enumerates a catalogue with one prompt template."""
    scraper = Client("trial-4711", "203.0.113.66")
    for number in itertools.count(1):
        item = f"{rng.choice(WORDS)} {rng.choice(WORDS)} {number}"
        yield scraper, SCRAPED + item, 300


def cost_spike(_: Random) -> Iterator[ScenarioRequest]:
    """A known agent repeats one expensive step."""
    for number in itertools.count(1):
        yield RUNAWAY, f"{LOOPED * 3} (attempt {number})", 6000


def flood(rng: Random) -> Iterator[ScenarioRequest]:
    """Many addresses send the same prompt template."""
    botnet = [
        Client(f"guest-{n}", f"198.18.{n % 250}.{rng.randint(1, 250)}")
        for n in range(_ADDRESSES)
    ]
    for number in itertools.count(1):
        yield rng.choice(botnet), f"{FLOODED}{number}", 2000


def campaign(rng: Random) -> Iterator[ScenarioRequest]:
    """Hundreds of new clients, each with different prompts."""
    visitors = [
        Client(f"visitor-{n}", f"198.51.100.{13 + n}", SCHOOL) for n in range(_VISITORS)
    ]
    while True:
        yield rng.choice(visitors), random_words(rng), rng.randint(60, 400)


SCENARIOS = (
    Scenario(
        "scraper",
        "A scraper",
        "203.0.113.66, a new address, reads the shop's whole catalogue: one prompt "
        "template, another item each time, 50 requests per second.",
        scraping,
        50.0,
        0.2,
        least_s=10.0,  # a shorter enumeration could be a client's first batch job
    ),
    Scenario(
        "spender",
        "A cost spike",
        "ci-agent, a known client, is stuck in a loop: it repeats one step, with 6,000 "
        "completion tokens each time.",
        cost_spike,
        12.0,
        0.22,
    ),
    Scenario(
        "botnet",
        "A DDoS from many addresses",
        f"{_ADDRESSES} unknown addresses ask for endless stories. Each sends too few "
        "requests for a limit per client.",
        flood,
        90.0,
        0.22,
    ),
    Scenario(
        "visitors",
        "A campaign",
        f"The school was on television: {_VISITORS} new visitors send as many requests "
        "as the botnet, but with different prompts. This is not an attack.",
        campaign,
        60.0,
        0.2,
        is_attack=False,
        least_s=13.0,  # the detector scores a tenant as a whole every 10 s
    ),
)
QUIET_SHARE = 1.0 - sum(scenario.share for scenario in SCENARIOS)


async def play(scenario: Scenario, traffic: TrafficGenerator, seconds: float) -> None:
    """Send the requests of a scenario in a demo of ``seconds``. Open loop: requests do
    not wait for earlier answers.
    """
    end = time.monotonic() + max(scenario.least_s, scenario.share * seconds)
    due = time.monotonic()
    async with asyncio.TaskGroup() as running:
        for client, prompt, tokens in scenario.requests(traffic.rng):
            due += traffic.rng.expovariate(scenario.rate)
            if due >= end:
                break
            await asyncio.sleep(due - time.monotonic())
            running.create_task(
                traffic.send(scenario.name, client, prompt, tokens, stream=False)
            )

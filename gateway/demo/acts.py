"""What happens in the demo, act by act: who comes, how often, and what they ask."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from gateway.demo.people import RUNAWAY, SCHOOL, Person, Street
from gateway.demo.words import FLOODED, LOOPED, SCRAPED, WORDS, chatter

Shot = tuple[Person, str, int]  # who, what, how many tokens of answer
_ADDRESSES = 300
_VISITORS = 240


class Act(msgspec.Struct, frozen=True):
    """``shots`` makes the requests, ``rate`` of them a second; ``share`` of the whole
    time, and at least ``least_s``. ``guilty``: somebody is to be stopped.
    """

    name: str
    title: str
    story: str
    shots: Callable[[Random], Iterator[Shot]]
    rate: float
    share: float
    guilty: bool = True
    least_s: float = 0.0


def scraping(chance: Random) -> Iterator[Shot]:
    """One new address walks a catalogue by a template."""
    thief = Person("trial-4711", "203.0.113.66")
    for number in itertools.count(1):
        item = f"{chance.choice(WORDS)} {chance.choice(WORDS)} {number}"
        yield thief, SCRAPED + item, 300


def spending(_: Random) -> Iterator[Shot]:
    """A known agent repeats one expensive step."""
    for number in itertools.count(1):
        yield RUNAWAY, f"{LOOPED * 3} (attempt {number})", 6000


def flooding(chance: Random) -> Iterator[Shot]:
    """Many addresses send the same."""
    crowd = [
        Person(f"guest-{n}", f"198.18.{n % 250}.{chance.randint(1, 250)}")
        for n in range(_ADDRESSES)
    ]
    for number in itertools.count(1):
        yield chance.choice(crowd), f"{FLOODED}{number}", 2000


def campaigning(chance: Random) -> Iterator[Shot]:
    """Hundreds of new visitors, each with a question of its own."""
    visitors = [
        Person(f"visitor-{n}", f"198.51.100.{13 + n}", SCHOOL) for n in range(_VISITORS)
    ]
    while True:
        yield chance.choice(visitors), chatter(chance), chance.randint(60, 400)


ACTS = (
    Act(
        "scraper",
        "A scraper",
        "203.0.113.66, never seen before, walks the shop's catalogue: one template, "
        "another item each time, 50 requests a second.",
        scraping,
        50.0,
        0.2,
        least_s=10.0,  # who walks few items so far may be a customer's first job
    ),
    Act(
        "spender",
        "A cost spike",
        "ci-agent, a customer for long, hangs in a loop: the same step again and "
        "again, 6,000 tokens of answer each time.",
        spending,
        12.0,
        0.22,
    ),
    Act(
        "botnet",
        "A DDoS from many addresses",
        f"{_ADDRESSES} addresses that nobody knows ask for endless stories. Each of "
        "them asks so seldom that no limit per client would notice.",
        flooding,
        90.0,
        0.22,
    ),
    Act(
        "visitors",
        "A campaign",
        f"The school was on television: {_VISITORS} new visitors, as loud as the "
        "botnet was, each with a question of its own. They are welcome.",
        campaigning,
        60.0,
        0.2,
        guilty=False,
        least_s=13.0,  # a tenant as a whole is looked at every ten seconds
    ),
)
CALM_SHARE = 1.0 - sum(act.share for act in ACTS)


async def play(act: Act, street: Street, seconds: float) -> None:
    """One act of a play of so many seconds. Open loop: whoever attacks does not wait for answers."""
    end = time.monotonic() + max(act.least_s, act.share * seconds)
    due = time.monotonic()
    async with asyncio.TaskGroup() as running:
        for person, prompt, tokens in act.shots(street.chance):
            due += street.chance.expovariate(act.rate)
            if due >= end:
                break
            await asyncio.sleep(due - time.monotonic())
            running.create_task(
                street.ask(act.name, person, prompt, tokens, stream=False)
            )

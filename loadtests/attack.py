"""Attacks a new gateway over real sockets and measures how soon it is stopped.

usage: python -m loadtests.attack [--attack scraping|flood|sweep|shared|slow|outage]
                                  [--clients 40] [--before 90] [--during 60] [--rate 40]

Ordinary clients (each with its own loopback address and prompts) send requests to a
gateway without baselines, then the attack starts. Prints when the attacker was detected,
tagged, throttled and blocked, how many of its requests passed, and the answers of the
others. Exit code 1 when an ordinary client was affected or the attacker was not stopped
within 30 seconds.

Attacks: ``scraping`` one address enumerates items with a template; ``flood`` one address
repeats one prompt; ``sweep`` one address tries keys (the upstream answers 401);
``shared`` one key from thirty addresses; ``slow`` a scraper at a tenth of the rate.
``outage`` is no attack: the upstream fails slowly, all clients retry, and no client may
be affected (``--during 600`` for a long check).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from tests.gateway_process import Gateway, MockLLM, running_mock
from tests.words import WORDS

CONFIG = (
    '[[upstream]]\nname = "mock"\nurl = "{url}"\n[policy.default]\nmode = "enforce"\n'
)
STOPPED_S = 30.0
UNAVAILABLE = 503
# In an outage: tries per request of a client, and the share of failed answers.
TRIES = 5
FAILING = 0.7


class Seen(msgspec.Struct):
    """Answers to one client: (seconds since the attack began, status)."""

    answers: list[tuple[float, int]] = []

    def counts(self) -> dict[int, int]:
        """Answers by status."""
        return dict(Counter(status for _, status in self.answers))


class Stage:
    """The clock of a run, the gateway's port, the answers of all clients."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.chance = random.Random(seed)
        self.attack_at = 0.0
        self.ends_at = 0.0
        self.seen: dict[str, Seen] = {}
        self.broken = False  # from now on the upstream fails

    def note(self, who: str, status: int) -> None:
        """Count an answer."""
        at = time.monotonic() - self.attack_at
        self.seen.setdefault(who, Seen([])).answers.append((at, status))

    def prompt(self, words: int) -> str:
        """A prompt of random words."""
        return " ".join(self.chance.choices(WORDS, k=words))


async def ask(
    stage: Stage,
    source: str,
    key: str,
    prompt: str,
    *,
    status: int = 200,
    delay_ms: int = 0,
) -> int:
    """Send one request on its own connection; its status, 0 without a connection."""
    body = json.dumps(
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"x-mock-status: {status}\r\nx-mock-delay-ms: {delay_ms}\r\n"
        "Connection: close\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", stage.port, local_addr=(source, 0)
        )
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(), 20.0)
        writer.close()
    except (OSError, TimeoutError):
        return 0
    return int(answer[9:12] or 0)


async def ordinary(stage: Stage, number: int) -> None:
    """An ordinary client: a few requests per minute with different prompts."""
    who = f"127.1.0.{number + 1}"
    gap_s = stage.chance.uniform(10.0, 25.0)
    await asyncio.sleep(stage.chance.uniform(0.0, gap_s))
    while time.monotonic() < stage.ends_at:
        prompt = stage.prompt(stage.chance.randint(8, 40))
        for attempt in range(TRIES):
            failing = stage.broken and time.monotonic() > stage.attack_at
            status = 503 if failing and stage.chance.random() < FAILING else 200
            delay_ms = stage.chance.randint(500, 5000) if failing else 0
            key = f"sk-client-{number}"
            answer = await ask(
                stage, who, key, prompt, status=status, delay_ms=delay_ms
            )
            stage.note(who, answer)
            if answer != UNAVAILABLE:
                break
            await asyncio.sleep(0.5 * 2.0**attempt)
        await asyncio.sleep(stage.chance.expovariate(1 / gap_s))


def shots(stage: Stage, kind: str) -> Iterator[tuple[str, str, str, int]]:
    """Requests of the attacker: source, key, prompt, status of the upstream."""
    template = stage.prompt(18)
    base = stage.prompt(24)
    count = 0
    while True:
        count += 1
        word = stage.chance.choice(WORDS)
        if kind == "sweep":
            yield "127.66.0.1", f"sk-guess-{count}", stage.prompt(6), 401
        elif kind == "flood":
            yield "127.66.0.1", "sk-attacker", base, 200
        elif kind == "shared":
            source = f"127.{60 + count % 30}.0.1"
            yield source, "sk-stolen", f"{template} {word} {count}", 200
        else:
            yield "127.66.0.1", "sk-attacker", f"{template} {word} {count}", 200


async def attack(stage: Stage, kind: str, rate: float) -> None:
    """Open loop: the attacker does not wait for answers."""
    rate = rate / 10.0 if kind == "slow" else rate
    send = shots(stage, kind)

    async def shoot(source: str, key: str, prompt: str, status: int) -> None:
        stage.note("attacker", await ask(stage, source, key, prompt, status=status))

    async with asyncio.TaskGroup() as running:
        while time.monotonic() < stage.ends_at:
            running.create_task(shoot(*next(send)))
            await asyncio.sleep(1.0 / rate)


async def play(stage: Stage, args: argparse.Namespace) -> None:
    """Run ordinary traffic and the attack."""
    began = time.monotonic()
    stage.attack_at = began + args.before
    stage.ends_at = stage.attack_at + args.during
    stage.broken = args.attack == "outage"
    crowd = [ordinary(stage, n) for n in range(args.clients)]

    async def later() -> None:
        await asyncio.sleep(args.before)
        if args.attack != "outage":
            await attack(stage, args.attack, args.rate)

    await asyncio.gather(later(), *crowd)


def report(stage: Stage, gateway: Gateway, args: argparse.Namespace) -> bool:
    """Print the result; whether it is as required."""
    attacker = stage.seen.get("attacker", Seen())
    passed = [at for at, status in attacker.answers if status in (200, 401)]
    refused = [at for at, status in attacker.answers if status in (429, 403)]
    others = {who: one.counts() for who, one in stage.seen.items() if who != "attacker"}
    touched = {
        who: counts
        for who, counts in others.items()
        if counts.keys() - {200, UNAVAILABLE}
    }
    incidents = gateway.api("GET", "/api/v1/incidents")["items"]
    print(f"attack         {args.attack}, {args.rate:g} requests/s")
    answers = sum((Counter(counts) for counts in others.values()), Counter())
    print(f"answers        {dict(answers)} to ordinary clients")
    print(f"ordinary       {len(others)} clients, touched: {touched or 'none'}")
    print(f"attacker       {attacker.counts()}")
    if refused:
        late = [at for at in passed if at > refused[0]]
        print(f"first refused  {refused[0]:.1f} s after its first request")
        share = 1.0 - len(late) / max(1, len(late) + len(refused))
        print(f"refused since  {100 * share:.1f} %")
    for incident in incidents:
        print(
            f"incident       {incident['class']} {incident['subject']} "
            f"{incident['action']} score {incident['score']}: "
            + " ".join(incident["reasons"])
        )
    print(f"log            {_steps(gateway)}")
    if stage.broken:
        return not touched and len(incidents) <= 1
    return bool(refused) and refused[0] <= STOPPED_S and not touched


def _steps(gateway: Gateway) -> str:
    steps = []
    for line in gateway.log().splitlines():
        if '"event":"client.' in line:
            said = json.loads(line)
            steps.append(f"{said['event'].partition('.')[2]} {said['subject']}")
    return ", ".join(steps[:12]) or "nobody was acted on"


def main() -> int:
    """Run the attack; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ("scraping", "flood", "sweep", "shared", "slow", "outage")
    parser.add_argument("--attack", choices=kinds, default="scraping")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--before", type=float, default=90.0)
    parser.add_argument("--during", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", default="embedded:./data")
    args = parser.parse_args()
    with ExitStack() as stack:
        mock: MockLLM = stack.enter_context(running_mock())
        gateway = Gateway(CONFIG.format(url=mock.url), store=args.store).start()
        try:
            stage = Stage(gateway.port, args.seed)
            asyncio.run(play(stage, args))
            fine = report(stage, gateway, args)
        finally:
            gateway.stop(check=False)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

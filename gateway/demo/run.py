"""``tidegate demo``: runs all scenarios, then removes everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from random import Random

from rich.console import Console

from gateway.demo.clients import RUNAWAY, TrafficGenerator, school_clients, shop_clients
from gateway.demo.gateway import DemoGateway, GatewayError
from gateway.demo.llm import MockModel
from gateway.demo.narrator import ORDINARY, Narrator, make_console
from gateway.demo.scenarios import QUIET_SHARE, SCENARIOS, play

# Length of the scenarios, seconds; with the start it makes about two minutes.
FULL_S = 100.0
FAST_S = 24.0
# Seconds after a scenario for its pending answers.
SETTLE_S = 1.0
FAILED, OK, INTERRUPTED = 1, 0, 130


def demo(*, fast: bool, admin: str, seed: int) -> int:
    """Run the demo; returns the exit status."""
    console = make_console()
    try:
        return asyncio.run(_run(console, FAST_S if fast else FULL_S, admin, seed))
    except GatewayError as error:
        console.print(
            f"tidegate: the gateway of the demo ended:\n{error}", markup=False
        )
        return FAILED


async def _run(console: Console, seconds: float, admin: str, seed: int) -> int:
    """Run the demo in this task; signals cancel it, so that it cleans up.

    ``seconds``: length of all scenarios. ``admin``: listen address of the admin port.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, task.cancel)
    rng = Random(seed)  # noqa: S311 - not a secret
    try:
        async with _environment(console, rng, admin) as environment:
            await _play_all(environment, seconds)
            await _print_end(environment)
    except asyncio.CancelledError:
        console.print("\nStopped; its processes and files are removed.")
        return INTERRUPTED
    return OK


class Environment:
    """The parts of a running demo."""

    def __init__(
        self,
        model: MockModel,
        gateway_: DemoGateway,
        traffic: TrafficGenerator,
        narrator: Narrator,
    ) -> None:
        self.model = model
        self.gateway_ = gateway_
        self.traffic = traffic
        self.narrator = narrator


@contextlib.asynccontextmanager
async def _environment(
    console: Console, rng: Random, admin: str
) -> AsyncIterator[Environment]:
    """Start the model, the gateway and the traffic; always cleans up."""
    gateway_ = DemoGateway(admin)
    model = MockModel()
    traffic: TrafficGenerator | None = None
    try:
        await model.start()
        gateway_.write_config(model.url)
        console.print("[bold]Tidegate demo[/]: everything runs on this machine.")
        console.print("The gateway learns a day of past traffic …", highlight=False)
        learned = await gateway_.learn(rng)
        await gateway_.start()
        traffic = TrafficGenerator(gateway_.url, rng)
        narrator = Narrator(gateway_, traffic, console)
        _print_start(narrator, gateway_, learned)
        yield Environment(model, gateway_, traffic, narrator)
    finally:
        if traffic is not None:
            await traffic.close()
        gateway_.close()
        await model.close()


def _print_start(narrator: Narrator, gateway_: DemoGateway, learned: int) -> None:
    known = f"{learned:,} requests" if learned else "nothing (no store engine here)"
    narrator.print(f"It learned {known} of {len(shop_clients())} clients.")
    narrator.print(f"\nGateway  {gateway_.url}")
    narrator.print(
        f"Console  [bold]{gateway_.admin}/[/]  (open it while the demo runs)"
    )
    narrator.print("\n[dim]Ordinary clients send requests to a mock LLM through it.[/]")


async def _play_all(environment: Environment, seconds: float) -> None:
    """All scenarios in order, with ordinary traffic in the background."""
    narrator, traffic = environment.narrator, environment.traffic
    others = [
        client for client in shop_clients() if client is not RUNAWAY
    ] + school_clients()
    groups = ((others, ORDINARY), ([RUNAWAY], RUNAWAY.name))
    async with traffic.background(*groups), asyncio.TaskGroup() as running:
        following = running.create_task(narrator.follow())
        await asyncio.sleep(QUIET_SHARE * seconds)
        narrator.print(f"[dim]{narrator.others()}[/]")
        for number, scenario in enumerate(SCENARIOS, 1):
            narrator.open_scenario(number, scenario)
            blocked = await narrator.blocked()
            began_at = time.monotonic()
            await play(scenario, traffic, seconds)
            await asyncio.sleep(SETTLE_S)
            await narrator.close_scenario(scenario, began_at, blocked)
        following.cancel()


async def _print_end(environment: Environment) -> None:
    await environment.narrator.fetch()
    blocked = await environment.narrator.blocked()
    reported = environment.model.tokens
    environment.narrator.table(
        f"The mock model reported {reported:,} tokens in {environment.model.requests:,} "
        f"answers; {blocked} blocks are in force and expire "
        "by themselves."
    )
    environment.narrator.print(
        "\nEnd of the demo: its gateway is stopped and its directory removed."
    )

"""``tidegate demo``: the whole play, and a clean stage after it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from random import Random

from rich.console import Console

from gateway.demo.acts import ACTS, CALM_SHARE, play
from gateway.demo.house import House, HouseError
from gateway.demo.llm import MadeUpModel
from gateway.demo.people import RUNAWAY, Street, customers, pupils
from gateway.demo.voice import ORDINARY, Voice, make_console

# Two minutes, of which the start takes some.
LONG_S = 100.0
FAST_S = 24.0
# Answers that are still under way when an act ends.
BREATH_S = 1.0
FAILED, OK, INTERRUPTED = 1, 0, 130


def demo(*, fast: bool, admin: str, seed: int) -> int:
    """Run it to its end; the exit status."""
    console = make_console()
    try:
        return asyncio.run(_run(console, FAST_S if fast else LONG_S, admin, seed))
    except HouseError as error:
        console.print(
            f"tidegate: the gateway of the demo ended:\n{error}", markup=False
        )
        return FAILED


async def _run(console: Console, seconds: float, admin: str, seed: int) -> int:
    """The play as a task of its own, so that signals end it in order."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, task.cancel)
    chance = Random(seed)  # noqa: S311 - a play, not a secret
    try:
        async with _stage(console, chance, admin) as scene:
            await _acts(scene, seconds)
            await _epilogue(scene)
    except asyncio.CancelledError:
        console.print("\nStopped; nothing of it is left.")
        return INTERRUPTED
    return OK


class Scene:
    """Everything that stands on the stage."""

    def __init__(
        self, model: MadeUpModel, house: House, street: Street, voice: Voice
    ) -> None:
        self.model = model
        self.house = house
        self.street = street
        self.voice = voice


@contextlib.asynccontextmanager
async def _stage(console: Console, chance: Random, admin: str) -> AsyncIterator[Scene]:
    """Model, gateway and street; taken down whatever happens."""
    house = House(admin)
    model = MadeUpModel()
    street: Street | None = None
    try:
        await model.start()
        house.write_config(model.url)
        console.print("[bold]Tidegate demo[/]: everything runs on this machine.")
        console.print("The gateway learns a day of past traffic …", highlight=False)
        learned = await house.learn(chance)
        await house.start()
        street = Street(house.url, chance)
        voice = Voice(house, street, console)
        _prologue(voice, house, learned)
        yield Scene(model, house, street, voice)
    finally:
        if street is not None:
            await street.close()
        house.close()
        await model.close()


def _prologue(voice: Voice, house: House, learned: int) -> None:
    known = f"{learned:,} requests" if learned else "nothing (no store engine here)"
    voice.say(f"It knows {known} of {len(customers())} customers and their tides.")
    voice.say(f"\nGateway  {house.url}")
    voice.say(f"Console  [bold]{house.admin}/[/]  (open it, while this runs)")
    voice.say("\n[dim]Ordinary customers talk to a made-up LLM through it.[/]")


async def _acts(scene: Scene, seconds: float) -> None:
    """All acts, one after another, while everyday life goes on."""
    voice, street = scene.voice, scene.street
    others = [person for person in customers() if person is not RUNAWAY] + pupils()
    crowds = ((others, ORDINARY), ([RUNAWAY], RUNAWAY.name))
    async with street.everyday(*crowds), asyncio.TaskGroup() as running:
        following = running.create_task(voice.follow())
        await asyncio.sleep(CALM_SHARE * seconds)
        voice.say(f"[dim]{voice.others()}[/]")
        for number, act in enumerate(ACTS, 1):
            voice.open_act(number, act)
            blocked = await voice.blocked()
            began_at = time.monotonic()
            await play(act, street, seconds)
            await asyncio.sleep(BREATH_S)
            await voice.close_act(act, began_at, blocked)
        following.cancel()


async def _epilogue(scene: Scene) -> None:
    await scene.voice.look()
    blocked = await scene.voice.blocked()
    spent = scene.model.tokens
    scene.voice.table(
        f"The made-up model generated {spent:,} tokens in {scene.model.requests:,} "
        f"answers; {blocked} blocks stand, and end "
        "by themselves."
    )
    scene.voice.say("\nThat was all: the gateway ends, and its directory goes.")

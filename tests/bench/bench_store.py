"""CPU cost of reserve and settle in worker and engine, compared with redis-py's evalsha.

usage: python tests/bench/bench_store.py [embedded|redis]     (printed figures, ~10 s)
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.core.model import CellKind, Limit
from gateway.limits.ports import Cell, Plan, Reserved
from gateway.store import wire
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from tests.engines import Engine, engine_binaries, running_engine

MINUTE_US = 60_000_000
COSTS, ACTUAL = (1, 480, 1, 480), (1, 310, 1, 310)


def make_cell(name: str, meter: str) -> Cell:
    """One sliding minute, never full."""
    key = b"tidegate:1:{acme}:w:%032d" % (hash((name, meter)) % 10**32)
    limit = Limit(per="user", meter=meter, amount=10**9, window_us=MINUTE_US)
    return Cell(key, CellKind.SLIDING, MINUTE_US, 10**9, limit)


def make_plan(user: int) -> Plan:
    """Four limits: two counters of the user, one of its address, one of the tenant."""
    return Plan(
        (
            make_cell(f"ip{user}", "requests"),
            make_cell(f"user{user}", "tokens"),
            make_cell(f"user{user}", "requests"),
            make_cell("tenant", "tokens"),
        )
    )


def cpu_us() -> tuple[float, float]:
    """User and system CPU of this process, microseconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime * 1e6, usage.ru_stime * 1e6


def engine_us(engine: Engine) -> float:
    """CPU microseconds the engine spent in scripts."""
    text = engine.command(b"INFO commandstats").decode()
    line = next(x for x in text.splitlines() if x.startswith("cmdstat_evalsha:"))
    return float(line.split("usec=")[1].split(",")[0])


async def rounds(store: RedisStore, plans: Sequence[Plan], count: int) -> None:
    """``count`` rounds: all plans reserve in one batch, then all settle in one."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        answered = loop.create_future()
        got: list[Reserved] = []

        def done(
            reserved: Reserved,
            got: list[Reserved] = got,
            answered: asyncio.Future[None] = answered,
        ) -> None:
            got.append(reserved)
            if len(got) == len(plans):
                answered.set_result(None)

        for plan in plans:
            store.reserve(plan, COSTS, done)
        await answered
        for reserved in got:
            store.settle(reserved, ACTUAL)


async def bench_batch(engine: Engine, size: int, *, alike: bool) -> None:
    """One line: batch size, CPU per request on both sides."""
    store = RedisStore(engine.url)
    await store.start()
    plans = [make_plan(0)] * size if alike else [make_plan(i) for i in range(size)]
    await rounds(store, plans, 50)
    count = max(100, 32_000 // size)
    user, system, script = *cpu_us(), engine_us(engine)
    start = time.perf_counter()
    await rounds(store, plans, count)
    wall = time.perf_counter() - start
    user_after, system_after = cpu_us()
    requests = count * size
    print(
        f"batch {size:3d} {'one user ' if alike else 'all apart'}"
        f"  user {(user_after - user) / requests:6.2f} us"
        f"  system {(system_after - system) / requests:6.2f} us"
        f"  script {(engine_us(engine) - script) / requests:6.2f} us"
        f"  wall {wall / requests * 1e6:6.2f} us"
    )
    await store.close()


async def bench_redis_py(engine: Engine, size: int) -> None:
    """The same arguments through redis-py, ``size`` requests per call."""
    from redis.asyncio import Redis  # noqa: PLC0415

    client = Redis(unix_socket_path=engine.socket_path)
    await client.script_load(wire.SCRIPT)
    plan = make_plan(0)
    ops: list[wire.Op] = [(wire.RESERVE, Reserved(plan, COSTS), None)] * size
    count = 4_000 // size
    user, system = cpu_us()
    for seq in range(1, count):
        argument = wire.number_call(seq, wire.encode_call(ops))
        await client.evalsha(wire.SCRIPT_SHA.decode(), 1, b"bench", argument)
    user_after, system_after = cpu_us()
    print(
        f"redis-py, {size:2d} reserves a call"
        f"  user {(user_after - user) / count / size:6.2f} us"
        f"  system {(system_after - system) / count / size:6.2f} us"
    )
    await client.aclose()


def per_call_us(work: Callable[[], object], count: int = 2_000) -> float:
    """The lowest of three means, microseconds per call."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            work()
        best = min(best, (time.perf_counter() - start) / count * 1e6)
    return best


def bench_parts() -> None:
    """The pure functions, per operation in a batch of 16."""
    plan = make_plan(0)
    reserved = Reserved(plan, COSTS)
    reserved.at_us = 1_700_000_000_000_000
    reserves: list[wire.Op] = [(wire.RESERVE, reserved, None)] * 16
    settles: list[wire.Op] = [(wire.SETTLE, reserved, ACTUAL)] * 16
    answer = [reserved.at_us, 1, 2, b"", *([-1, 5, 5, 5, 5] * 16)]

    def read() -> None:
        at = wire.ANSWER_HEAD
        for _ in range(16):
            at = wire.read_reserve(answer, at, reserved, 0.0)

    print(
        f"encode a reserve {per_call_us(lambda: wire.encode_call(reserves)) / 16:.2f} us"
    )
    print(
        f"encode a settle  {per_call_us(lambda: wire.encode_call(settles)) / 16:.2f} us"
    )
    print(f"read an answer   {per_call_us(read) / 16:.2f} us")
    store = MemoryStore()

    def locally() -> None:
        store.settle(store.reserve(plan, COSTS, lambda _: None), ACTUAL)

    print(f"in-process reserve and settle {per_call_us(locally):.2f} us")


async def main(name: str) -> None:
    """Print all figures."""
    bench_parts()
    with running_engine(engine_binaries()[name]) as engine:
        for size in (1, 4, 16, 64):
            await bench_batch(engine, size, alike=False)
        await bench_batch(engine, 16, alike=True)
        for size in (1, 16):
            await bench_redis_py(engine, size)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded"))

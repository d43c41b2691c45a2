"""Effect of open consoles and alerts on the latency of requests.

    python -m loadtests.consoles [--consoles 20] [--rounds 5] [--seconds 3] [--rate 400]

Paired runs in alternating order: the same paced requests through one gateway without
consoles, and with open consoles (each with its live stream, first view and periodic
calls) while ten incidents per second open and are resolved and a receiver gets each.
Two cores, one for the gateway alone. Prints both sides and their ratio; the spread of
runs without consoles is the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from loadtests.rig.procs import (
    Crew,
    RigError,
    engine_argv,
    listens,
    median,
    two_cores,
    wait_until,
)
from tests.ports import free_port

CONNECTIONS = 16
USERS = 200
ALERTS_PER_S = 10
SETTLE_S = 1.0
LONGEST_S = 60.0
ALL_LOOK = "every console is open"
# No run is discarded: a stuck answer ends the whole measurement.
ANSWER_S = 10.0
FIRST_VIEW = ("session", "timeline?minutes=30", "incidents?limit=50", "status")
AGAIN = (("clients?sort=now&limit=12", 3.0), ("alerts?limit=100", 5.0))
PROMPT = "which tide carries the boats out of the harbour today " * 28
BODY = json.dumps(
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]}
).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-%d\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
OK = b"HTTP/1.1 200"


# -- the load ------------------------------------------------------------------------


class Line(asyncio.Protocol):
    """One connection with one request at a time; the mock answers in one piece."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[float] | None = None
        self.wrong = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def ask(self, request: bytes) -> asyncio.Future[float]:
        """Send a request; the time of its answer."""
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def data_received(self, chunk: bytes) -> None:
        if self.answered is not None and not self.answered.done():
            self.wrong += not chunk.startswith(OK)
            self.answered.set_result(time.perf_counter())


async def paced(port: int, rate: float, seconds: float) -> list[float]:
    """Latencies in seconds at a fixed rate. A request that waits for its connection
    counts from the time it was due.
    """
    loop = asyncio.get_running_loop()
    lines = [
        (await loop.create_connection(Line, "127.0.0.1", port))[1]
        for _ in range(CONNECTIONS)
    ]
    taken: list[float] = []
    gap = CONNECTIONS / rate
    start = time.perf_counter() + 0.05

    async def keep(number: int, line: Line) -> None:
        due = start + gap * number / CONNECTIONS
        user = number
        while due < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            # Lateness of the timer belongs to the load generator, not to the gateway.
            began = min(time.perf_counter(), due + gap)
            request = REQUEST % (user % USERS, len(BODY), BODY)
            async with asyncio.timeout(ANSWER_S):
                taken.append(await line.ask(request) - began)
            due, user = due + gap, user + CONNECTIONS

    async with asyncio.TaskGroup() as group:
        for number, line in enumerate(lines):
            group.create_task(keep(number, line))
    for line in lines:
        line.transport.close()
    if wrong := sum(line.wrong for line in lines):
        raise RigError(f"{wrong} of {len(taken)} requests were not answered 200")
    return taken


def percentile(values: list[float], share: float) -> float:
    """A percentile in milliseconds."""
    row = sorted(values)
    return 1000.0 * row[min(len(row) - 1, int(share * len(row)))]


# -- other processes -----------------------------------------------------------------


async def look_on(port: int, store: str, count: int) -> None:
    """Run consoles and produce alerts until killed."""
    opened = asyncio.Semaphore(0)

    async def tell() -> None:
        for _ in range(count):
            await opened.acquire()
        print(ALL_LOOK, flush=True)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(_console(port, number / count, opened))
        group.create_task(_alerts(store))
        group.create_task(tell())


async def _console(port: int, phase: float, opened: asyncio.Semaphore) -> None:
    stream = await asyncio.open_connection("127.0.0.1", port)
    stream[1].write(b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.TaskGroup() as group:
        group.create_task(_drain(stream[0]))
        for path in FIRST_VIEW:
            await _get(port, path)
        opened.release()
        for path, every_s in AGAIN:
            group.create_task(_again(port, path, every_s, phase))


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass
    raise RigError("a stream ended")


async def _again(port: int, path: str, every_s: float, phase: float) -> None:
    await asyncio.sleep(every_s * phase)
    while True:
        await _get(port, path)
        await asyncio.sleep(every_s)


async def _get(port: int, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"GET /api/v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    if not answer.startswith(OK):
        raise RigError(f"{path}: {answer[:80]!r}")


async def _alerts(store: str) -> None:
    """Write incidents as another gateway's detector would."""
    from redis.asyncio import Redis  # noqa: PLC0415 - not on the load's side

    from gateway.alerts.model import report_of  # noqa: PLC0415
    from gateway.alerts.redis_outbox import RedisOutbox  # noqa: PLC0415
    from tests.e2e.test_alerts import said  # noqa: PLC0415

    async with Redis.from_url(store) as client:
        outbox = RedisOutbox(client, "tidegate:")
        first = int(time.time() * 1000)
        for number in range(first, first + 1_000_000):
            for kind in ("incident.opened", "incident.resolved"):
                now = time.time()
                await outbox.report(report_of(said(number, kind), "other"), now)
                await asyncio.sleep(1.0 / ALERTS_PER_S / 2)


async def receive(port: int) -> None:
    """An alert receiver that answers 200."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = head.lower().partition(b"content-length:")[2]
                await reader.readexactly(int(fields.split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


# -- the measurement -----------------------------------------------------------------


class Bench:
    """Mock, store, receiver and gateway on their cores."""

    def __init__(self, chosen: argparse.Namespace, folder: Path, crew: Crew) -> None:
        self.chosen, self.crew, self.folder = chosen, crew, folder
        self.looked = 0
        self.load_core, self.core = two_cores()
        self.root = Path(__file__).resolve().parents[1]
        self.environ = {"PYTHONPATH": str(self.root)}
        self.port, self.admin = free_port(), free_port()
        mock, hook = free_port(), free_port()
        self._start("mock", [str(self.root / "loadtests/rig/mock.py"), str(mock)], mock)
        self._start("hook", ["-m", "loadtests.consoles", "--receive", str(hook)], hook)
        argv, socket = engine_argv(folder)
        child = crew.start("store", argv, self.load_core)
        wait_until("the store", socket.exists, child, 10)
        self.store = f"unix://{socket}"
        config = folder / "tidegate.toml"
        config.write_text(
            '[policy.default]\nmode = "observe"\nlimits = [\n'
            '  { per = "user", requests = 1_000_000_000, window = "1m" },\n'
            '  { per = "user", tokens = 1_000_000_000, window = "1m" },\n]\n'
            f'[server]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"\n[store]\nurl = "{self.store}"\n'
            f'[[upstream]]\nurl = "http://127.0.0.1:{mock}"\n'
            '[events]\nfile = "records.jsonl"\n'
            f'[[alert]]\ntype = "webhook"\nname = "hook"\nallow_private = true\n'
            f'url = "http://127.0.0.1:{hook}/"\nmax_alerts_per_minute = 100_000\n'
        )
        argv = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        child = crew.start(
            "tidegate", argv, self.core, cwd=folder, environ=self.environ
        )
        log = folder / "tidegate.log"
        wait_until("tidegate", lambda: "tidegate ready" in log.read_text(), child, 30)

    def _start(self, name: str, arguments: list[str], port: int) -> None:
        argv = [sys.executable, *arguments]
        child = self.crew.start(name, argv, self.load_core, environ=self.environ)
        wait_until(name, lambda: listens(port), child, 10)

    def run(self, *, watched: bool) -> list[float]:
        """One run; consoles start before it and end after it."""
        if not watched:
            return self._load()
        argv = [sys.executable, "-m", "loadtests.consoles", "--look-on"]
        argv += [str(self.admin), self.store, str(self.chosen.consoles)]
        child = self.crew.start("consoles", argv, self.load_core, environ=self.environ)
        self.looked += 1
        wait_until("consoles", self._all_look, child, 15)
        time.sleep(SETTLE_S)
        try:
            taken = self._load()
            if child.poll() is not None:
                raise RigError("the consoles ended; see their log")
            return taken
        finally:
            self.crew.end(child)

    def _load(self) -> list[float]:
        chosen = self.chosen
        return uvloop.run(paced(self.port, chosen.rate, chosen.seconds))

    def _all_look(self) -> bool:
        return (self.folder / "consoles.log").read_text().count(ALL_LOOK) == self.looked

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return sum(float(x.split()[-1]) for x in lines if x.startswith(name))


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alternating runs; medians of their percentiles, ms. Raises RigError."""
    sides: dict[bool, list[list[float]]] = {False: [], True: []}
    began = time.monotonic()
    with Crew(folder) as crew:
        bench = Bench(chosen, folder, crew)
        bench.run(watched=False)  # connections, caches, first windows
        for number in range(chosen.rounds):
            for watched in (number % 2 == 1, number % 2 == 0):
                sides[watched].append(bench.run(watched=watched))
            if time.monotonic() - began > LONGEST_S - 12:
                break
        alerts = bench.metric('tidegate_alerts_total{result="sent"')
    found: dict[str, Any] = {"alerts": alerts, "rounds": len(sides[True])}
    for name, share in (("p50", 0.50), ("p99", 0.99)):
        alone, watched = (
            [percentile(run, share) for run in sides[side]] for side in (False, True)
        )
        found[name] = {
            "alone_ms": median(alone),
            "watched_ms": median(watched),
            "ratio": median([w / a for a, w in zip(alone, watched, strict=True)]),
            "alone_from_to_ms": [min(alone), max(alone)],
            "watched_from_to_ms": [min(watched), max(watched)],
        }
    return found


def main() -> int:
    """Run and print; exit code 0 when it could be measured."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.consoles")
    parser.add_argument("--consoles", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--receive", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--look-on", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.receive:
        asyncio.run(receive(chosen.receive))
    if chosen.look_on:
        admin, store, count = chosen.look_on
        asyncio.run(look_on(int(admin), store, int(count)))
    try:
        with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
            found = measure(chosen, Path(folder))
    except RigError as error:
        print(f"consoles: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1)) if chosen.json else print_found(chosen, found)
    return 0


def print_found(chosen: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the result as text."""
    print(
        f"{found['rounds']} pairs, {chosen.rate:g} requests/s,"
        f" {chosen.consoles} consoles, {found['alerts']:g} alerts delivered"
    )
    for name in ("p50", "p99"):
        row = found[name]
        low, high = row["alone_from_to_ms"]
        least, most = row["watched_from_to_ms"]
        print(
            f"{name}: alone {row['alone_ms']:.2f} ms ({low:.2f}-{high:.2f}), watched"
            f" {row['watched_ms']:.2f} ms ({least:.2f}-{most:.2f}), ratio"
            f" {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())

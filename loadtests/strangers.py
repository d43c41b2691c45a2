"""Memory use of a gateway with a million new clients.

usage: python -m loadtests.strangers [--clients 1000000] [--connections 32] [--json]

Starts a mock upstream and a gateway that trusts X-Forwarded-For, and sends one request
from each address, each with its own key. Prints memory of worker and control process
before and after, series and bytes of ``/metrics``, and the total time of the console's
first calls. Exit code 1 when a process grew by more than 200 MB, a series was added per
client, ``/metrics`` exceeds 1 MB, or the console's calls take more than 300 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import uvloop
from rich.progress import Progress

from loadtests.idle import weigh
from loadtests.rig.procs import Crew, RigError, listens, wait_until
from tests.ports import free_port

GROWTH_BYTES = 200_000_000
# First occurrences of status codes and actions add series.
SPARE_SERIES = 60
METRICS_BYTES = 1_000_000
VIEW_MS = 300.0
VIEW = ("status", "session", "timeline?minutes=30", "incidents?limit=50")
VIEW += ("clients?sort=now&limit=12",)
VIEWS = 5
WARM_UP = 2000
BODY = (
    '{"model":"gpt-4o-mini","messages":[{"role":"user",'
    '"content":"Number %d asks about %s and %s."}]}'
)
WORDS = [
    "harbours",
    "tides",
    "lanterns",
    "copper",
    "invoices",
    "orchards",
    "glaciers",
    "violins",
    "deserts",
    "maps",
]
HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: crowd\r\n"
    "Authorization: Bearer sk-crowd-%d\r\nX-Forwarded-For: %s\r\n"
    "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
)


def request(number: int) -> bytes:
    """The request of client ``number``."""
    one, other = WORDS[number % 10], WORDS[number // 10 % 10]
    body = BODY % (number, one, other)
    address = f"{11 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}"
    source = f"{address}.{number & 255}"
    return (HEAD % (number, source, len(body), body)).encode()


class Sender(asyncio.Protocol):
    """One connection that sends the next client's request after each answer."""

    def __init__(self, numbers: Any, ended: asyncio.Event) -> None:
        self.numbers = numbers
        self.ended = ended
        self.failed = 0
        self.transport: asyncio.Transport | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.send()

    def send(self) -> None:
        """Send the next request, or finish."""
        assert self.transport is not None
        number = next(self.numbers, None)
        if number is None:
            self.transport.close()
        else:
            self.transport.write(request(number))

    def data_received(self, chunk: bytes) -> None:
        self.buffer += chunk
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r")[0])
        if len(body) < length:
            return
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self.buffer = body[length:]
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def crowd(port: int, first: int, last: int, connections: int, bar: Any) -> int:
    """Send requests of clients ``first`` to ``last``; how many answers were not 200."""
    loop = asyncio.get_running_loop()
    numbers = iter(range(first, last))
    senders: list[Sender] = []
    for _ in range(connections):
        ended = asyncio.Event()
        _, sender = await loop.create_connection(
            lambda ended=ended: Sender(numbers, ended),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        senders.append(sender)
    while not all(sender.ended.is_set() for sender in senders):
        await asyncio.sleep(0.5)
        bar(numbers.__length_hint__())
    return sum(sender.failed for sender in senders)


def fetch(url: str) -> bytes:
    """GET a URL."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def series(admin: str) -> int:
    """The number of series in ``/metrics``."""
    lines = fetch(f"{admin}/metrics").decode().splitlines()
    return sum(not line.startswith("#") for line in lines)


def first_view(admin: str) -> float:
    """Milliseconds for the page and its calls without caches: the longest of a few."""
    longest = 0.0
    for _ in range(VIEWS):
        time.sleep(1.5)
        began = time.perf_counter()
        fetch(f"{admin}/")
        for path in VIEW:
            fetch(f"{admin}/api/v1/{path}")
        longest = max(longest, (time.perf_counter() - began) * 1000.0)
    return longest


def measure(port: int, admin: str, root: int, chosen: argparse.Namespace) -> Any:
    """Measure before and after the clients."""
    uvloop.run(crowd(port, 0, WARM_UP, chosen.connections, lambda _left: None))
    time.sleep(2.0)
    before, series_before = weigh(root), series(admin)
    began = time.monotonic()
    last = WARM_UP + chosen.clients
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("clients", total=chosen.clients)
        failed = uvloop.run(
            crowd(
                port,
                WARM_UP,
                last,
                chosen.connections,
                lambda left: progress.update(task, completed=chosen.clients - left),
            )
        )
    took_s = time.monotonic() - began
    time.sleep(3.0)
    after = weigh(root)
    grown = {
        name: row["share"] - before[name]["share"]
        for name, row in after.items()
        if name in before
    }
    return {
        "clients": chosen.clients,
        "took_s": round(took_s, 1),
        "not_200": failed,
        "before": before,
        "after": after,
        "grown_bytes": grown,
        "series": [series_before, series(admin)],
        "metrics_bytes": len(fetch(f"{admin}/metrics")),
        "first_view_ms": round(first_view(admin), 1),
    }


def run(chosen: argparse.Namespace, folder: Path) -> Any:
    """Run mock, gateway and clients. Raises RigError."""
    port, admin, upstream = free_port(), free_port(), free_port()
    root = Path(__file__).resolve().parents[1]
    config = folder / "tidegate.toml"
    config.write_text(
        '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n'
        '[policy.default]\nmode = "observe"\nlimits = [\n'
        '  { per = "client_ip", requests = 600, window = "1m" },\n'
        '  { per = "user", tokens = 200_000, window = "1m" },\n]\n'
        f'[[upstream]]\nurl = "http://127.0.0.1:{upstream}"\n'
        '[events]\nfile = ""\n'
    )
    with Crew(folder) as crew:
        mock = str(root / "loadtests" / "rig" / "mock.py")
        child = crew.start("mock", [sys.executable, mock, str(upstream)])
        wait_until("the mock upstream", lambda: listens(upstream), child, 10)
        argv = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        argv += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
        argv += ["--store", f"embedded:{folder / 'store'}"]
        child = crew.start("tidegate", argv, environ={"PYTHONPATH": str(root)})
        log = folder / "tidegate.log"
        wait_until("tidegate", lambda: "tidegate ready" in log.read_text(), child, 30)
        return measure(port, f"http://127.0.0.1:{admin}", child.pid, chosen)


def main() -> int:
    """Run; exit code 1 when a bound is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.strangers")
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-crowd-") as folder:
            found = run(chosen, Path(folder))
    except RigError as error:
        print(f"strangers: {error}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{found['clients']:,} clients in {found['took_s']} s")
        for name, grown in found["grown_bytes"].items():
            whole = found["after"][name]["share"] / 1e6
            print(f"{name:12} grew by {grown / 1e6:7.1f} MB to {whole:7.1f} MB")
        print(f"series of /metrics: {found['series'][0]} before, {found['series'][1]}")
        print(f"bytes of /metrics: {found['metrics_bytes']:,}")
        print(f"first view of the console: {found['first_view_ms']} ms")
    return 0 if is_good(found) else 1


def is_good(found: dict[str, Any]) -> bool:
    """Whether all bounds hold."""
    before, after = found["series"]
    fits = all(
        found["grown_bytes"].get(name, 0) <= GROWTH_BYTES
        for name in ("worker", "control")
    )
    seen = found["first_view_ms"] <= VIEW_MS
    fits = fits and seen and found["metrics_bytes"] <= METRICS_BYTES
    return bool(fits and after - before <= SPARE_SERIES)


if __name__ == "__main__":
    sys.exit(main())

"""Memory of a gateway with many idle clients, process by process.

usage: python -m loadtests.idle [--connections 10000] [--store URL] [--json]

Starts a mock upstream and a gateway of its own, makes one request on each connection,
leaves all of them open, and prints the memory of each process before and after. Exit
code 1 when all processes without the store use more than 150 MB at 10,000 connections
(in proportion for more or fewer), or when a connection was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from loadtests.rig.procs import (
    Crew,
    RigError,
    command,
    listens,
    memory_bytes,
    resident_bytes,
    tree,
    wait_until,
)
from tests.ports import free_port

AT_ONCE = 50
# Memory budget with 10,000 idle clients, and memory use without any.
BUDGET_BYTES, BUDGET_CLIENTS = 150_000_000, 10_000
BASE_BYTES = 120_000_000
# In addition to the other descriptors of this process and of the worker.
SPARE_FILES = 200
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: idle\r\n"
    b"Authorization: Bearer sk-idle-%d\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
ROLES = {
    "gateway.serve.supervisor": "supervisor",
    "gateway.control.control": "control",
    "gateway.worker.worker": "worker",
}


class Idler(asyncio.Protocol):
    """One client: a request, its answer, then an idle connection."""

    def __init__(self, request: bytes, answered: asyncio.Future[bool]) -> None:
        self.request = request
        self.answered = answered
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, chunk: bytes) -> None:
        # The mock's answer is short and arrives in one piece.
        if not self.answered.done():
            self.answered.set_result(chunk.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.answered.done():
            self.answered.set_result(False)


async def open_idlers(port: int, count: int, users: int) -> list[Idler]:
    """Open all connections, a few at a time."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)
    idlers: list[Idler] = []

    async def one(number: int) -> None:
        request = REQUEST % (number % users, len(BODY), BODY)
        async with gate:
            answered: asyncio.Future[bool] = loop.create_future()
            # Several loopback addresses: one has only 28,000 ports.
            source = (f"127.0.0.{2 + number // 20_000}", 0)
            _, idler = await loop.create_connection(
                lambda: Idler(request, answered), "127.0.0.1", port, local_addr=source
            )
            idlers.append(idler)
            idler.lost |= not await answered

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return idlers


def role(pid: int) -> str:
    """The role of a process of the gateway."""
    line = command(pid)
    found = [name for module, name in ROLES.items() if module in line]
    if found:
        return found[0]
    return "store" if "-server" in line else "resource tracker"


def weigh(root: int) -> dict[str, dict[str, int]]:
    """Memory of each process: proportional share (PSS) and resident, from /proc."""
    weights: dict[str, dict[str, int]] = {}
    for pid in tree(root):
        row = weights.setdefault(role(pid), {"share": 0, "resident": 0})
        row["share"] += memory_bytes([pid])
        row["resident"] += resident_bytes(pid)
    return weights


def total(weights: dict[str, dict[str, int]], name: str) -> int:
    """Memory of all processes without the store."""
    return sum(row[name] for role, row in weights.items() if role != "store")


async def measure(port: int, root: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure before and with all connections open."""
    await open_idlers(port, 1, 1)
    await asyncio.sleep(1)
    before = weigh(root)
    idlers = await open_idlers(port, chosen.connections, chosen.users)
    await asyncio.sleep(2)
    after = weigh(root)
    grown = total(after, "share") - total(before, "share")
    return {
        "connections": len(idlers),
        "lost": sum(idler.lost for idler in idlers),
        "before": before,
        "after": after,
        "bytes_per_connection": round(grown / max(1, len(idlers))),
        "tree_share_bytes": total(after, "share"),
        "tree_resident_bytes": total(after, "resident"),
        "budget_bytes": budget(len(idlers)),
    }


def budget(connections: int) -> int:
    """The budget: 150 MB at 10,000 connections, in proportion for others."""
    each = (BUDGET_BYTES - BASE_BYTES) / BUDGET_CLIENTS
    return round(BASE_BYTES + each * connections)


def serve_argv(folder: Path, port: int, upstream: int, store: str) -> list[str]:
    """Arguments of a gateway with four limits and records."""
    config = folder / "tidegate.toml"
    config.write_text(
        "[policy.default]\nlimits = [\n"
        '  { per = "client_ip", requests = 100_000_000, window = "1m" },\n'
        '  { per = "user", requests = 100_000_000, window = "1m" },\n'
        '  { per = "user", tokens = 100_000_000, window = "1m" },\n'
        '  { per = "tenant", tokens = 100_000_000, window = "1m" },\n]\n'
        '[server]\nkeepalive_timeout = "10m"\nmax_connections = 200_000\n'
        "max_connections_per_ip = 200_000\n"
        f'[[upstream]]\nurl = "http://127.0.0.1:{upstream}"\n'
        '[events]\nfile = "records.jsonl"\n'
    )
    argv = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    argv += ["--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
    return [*argv, "--store", store or f"embedded:{folder / 'store'}"]


def run(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run mock, gateway and clients. Raises RigError."""
    port, upstream = free_port(), free_port()
    root = Path(__file__).resolve().parents[1]
    mock = str(root / "loadtests" / "rig" / "mock.py")
    with Crew(folder) as crew:
        child = crew.start("mock", [sys.executable, mock, str(upstream)])
        wait_until("the mock upstream", lambda: listens(upstream), child, 10)
        argv = serve_argv(folder, port, upstream, chosen.store)
        environ = {"PYTHONPATH": str(root)}
        child = crew.start("tidegate", argv, environ=environ)
        log = folder / "tidegate.log"
        ready = "tidegate ready"
        wait_until("tidegate", lambda: ready in log.read_text(), child, 30)
        return uvloop.run(measure(port, child.pid, chosen))


def print_found(found: dict[str, Any]) -> None:
    """Print MB of each process before and after."""
    print(f"{found['connections']:,} idle connections, {found['lost']} lost")
    print(f"{'MB':18}{'before':>10}{'after':>10}{'resident':>10}")
    for name, row in found["after"].items():
        before = found["before"].get(name, row)["share"] / 1e6
        share, resident = row["share"] / 1e6, row["resident"] / 1e6
        print(f"{name:18}{before:10.1f}{share:10.1f}{resident:10.1f}")
    whole = found["tree_share_bytes"] / 1e6
    resident = found["tree_resident_bytes"] / 1e6
    print(f"{'without store':18}{'':10}{whole:10.1f}{resident:10.1f}")
    print(f"{found['bytes_per_connection']:,} bytes a connection")


def raise_files(wanted: int) -> int:
    """Raise the limit of open files as far as permitted; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return max(soft, wanted)


def main() -> int:
    """Run; exit code 1 when over the budget."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.idle")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=100, help="different credentials")
    parser.add_argument("--store", default="", help="default: an embedded one")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    files = raise_files(chosen.connections + SPARE_FILES)
    if files < chosen.connections + SPARE_FILES:
        chosen.connections = files - SPARE_FILES
        print(f"open files: {files}; {chosen.connections} clients", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-idle-") as folder:
            found = run(chosen, Path(folder))
    except RigError as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1)) if chosen.json else print_found(found)
    fits = found["tree_share_bytes"] <= found["budget_bytes"]
    return 0 if fits and not found["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())

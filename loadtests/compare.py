"""Compares Tidegate with other proxies on the same load and machine.

usage: python -m loadtests.compare --scratch DIR [--peers nginx,haproxy,envoy,litellm,floor]
           [--variants json,json40k,sse,newheads] [--rounds 3] [--seconds 4] [--json]

Load, mock upstream and store share one core, each proxy has another. Runs alternate
(Tidegate, peer, Tidegate, peer, …), so that other load of the machine affects both;
figures are medians of the rounds. Peers are installed into DIR (and by apt, when root).
Needs wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway import __version__
from loadtests.rig.peers import PEERS, Launch, Site
from loadtests.rig.procs import (
    Crew,
    RigError,
    Shot,
    command,
    cpu_s,
    engine_argv,
    listens,
    median,
    memory_bytes,
    tree,
    two_cores,
    wait_until,
    wrk,
)
from tests.ports import free_port

KEY = "sk-compare-0123456789abcdef"
RIG = Path(__file__).parent / "rig"
CONFIG = Path(__file__).with_name("bench.toml")
TARGET = "/v1/chat/completions"
VARIANTS: dict[str, dict[str, str]] = {
    "json": {"PROMPT_BYTES": "1500"},
    "json40k": {"PROMPT_BYTES": "40000"},
    "sse": {"PROMPT_BYTES": "1500", "STREAM": "true"},
    # All request heads differ, so the cache of parsed heads never hits.
    "newheads": {"PROMPT_BYTES": "1500", "NEW_HEADS": "1"},
}
MOST_ROUNDS, MOST_SECONDS = 20, 60
ONE_CONNECTION_S = 2
WARM_UP_S = 1


class Proxy:
    """A running proxy."""

    def __init__(self, name: str, port: int, pid: int, worker: str) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}{TARGET}"
        self.tree = tree(pid)
        self.workers = [pid for pid in self.tree if worker in command(pid)]


class Figures:
    """The runs of one proxy on one variant."""

    def __init__(self) -> None:
        self.loaded: list[Shot] = []
        self.alone: list[Shot] = []
        self.worker_us: list[float] = []
        self.tree_us: list[float] = []
        self.memory = 0

    def public(self, direct: Figures) -> dict[str, Any]:
        """Medians, under the names of ``--json``."""
        p50, p99 = self.alone_us("p50"), self.alone_us("p99")
        return {
            "requests_per_s": round(median([shot.per_s for shot in self.loaded])),
            "worker_cpu_us": round(median(self.worker_us), 1),
            "tree_cpu_us": round(median(self.tree_us), 1),
            "latency_p50_us": round(p50),
            "latency_p99_us": round(p99),
            "added_p50_us": round(p50 - direct.alone_us("p50")),
            "added_p99_us": round(p99 - direct.alone_us("p99")),
            "memory_mb": round(self.memory / 1e6, 1),
            "requests": sum(shot.requests for shot in self.loaded),
            "not_2xx": sum(shot.refused for shot in self.loaded + self.alone),
            "errors": sum(shot.errors for shot in self.loaded + self.alone),
        }

    def alone_us(self, name: str) -> float:
        return median([getattr(shot, name) for shot in self.alone])


class Bench:
    """Runs mock, store and Tidegate, and one peer after the other."""

    def __init__(self, chosen: argparse.Namespace, crew: Crew) -> None:
        self.chosen = chosen
        self.crew = crew
        self.load_core, self.proxy_core = two_cores()
        self.folder: Path = chosen.scratch
        self.site = self._start_site()
        self.direct = f"http://127.0.0.1:{self.site.upstream}{TARGET}"
        self.tidegate = self._start_tidegate()

    def _start_site(self) -> Site:
        port = free_port()
        pause_ms = str(self.chosen.chunk_ms)
        argv = [sys.executable, str(RIG / "mock.py"), str(port), pause_ms]
        mock = self.crew.start("mock", argv, self.load_core)
        wait_until("the mock upstream", lambda: listens(port), mock, 10)
        argv, path = engine_argv(self.folder)
        engine = self.crew.start("store", argv, self.load_core)
        wait_until("the store", path.exists, engine, 10)
        return Site(self.folder, port, path, KEY)

    def _start_tidegate(self) -> Proxy:
        port, admin = free_port(), free_port()
        argv = [sys.executable, "-m", "gateway", "serve", "--config", str(CONFIG)]
        argv += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
        argv += ["--store", f"unix://{self.site.store}", "--mode", "enforce"]
        argv += ["--upstream", f"http://127.0.0.1:{self.site.upstream}"]
        records = str(self.folder / "records.jsonl")
        root = Path(__file__).resolve().parents[1]
        environ = {"TIDEGATE_EVENTS__FILE": records, "PYTHONPATH": str(root)}
        child = self.crew.start("tidegate", argv, self.proxy_core, environ=environ)
        log = self.folder / "tidegate.log"
        ready = f"http://127.0.0.1:{port} admin"
        wait_until("tidegate", lambda: ready in log.read_text(), child, 30)
        return Proxy("tidegate", port, child.pid, "gateway.worker.worker")

    def start_peer(self, name: str) -> tuple[Proxy, subprocess.Popen[bytes]]:
        """Install and start a peer. Raises RigError."""
        port = free_port()
        launch: Launch = PEERS[name](self.site, port)
        child = self.crew.start(
            name, launch.argv, self.proxy_core, environ=launch.environ
        )
        try:
            wait_until(name, lambda: listens(port), child, launch.ready_s)
        except RigError:
            self.crew.end(child)
            raise
        return Proxy(name, port, child.pid, launch.worker), child

    # -- runs ------------------------------------------------------------------------

    def beside(self, peer: Proxy | None, variant: str) -> dict[str, Figures]:
        """Alternating rounds of Tidegate and the peer (if any)."""
        proxies = [self.tidegate] if peer is None else [self.tidegate, peer]
        figures = {name: Figures() for name in ("direct", *(p.name for p in proxies))}
        for proxy in proxies:
            self._load(proxy.url, 8, WARM_UP_S, variant)
        for _ in range(self.chosen.rounds):
            direct = self._load(self.direct, 1, ONE_CONNECTION_S, variant)
            figures["direct"].alone.append(direct)
            for proxy in proxies:
                self._round(proxy, variant, figures[proxy.name])
        return figures

    def _round(self, proxy: Proxy, variant: str, figures: Figures) -> None:
        worker_s, tree_s = cpu_s(proxy.workers), cpu_s(proxy.tree)
        chosen = self.chosen
        shot = self._load(proxy.url, chosen.connections, chosen.seconds, variant)
        # The last records are still being written.
        time.sleep(0.2)
        if shot.requests:
            each = 1e6 / shot.requests
            figures.loaded.append(shot)
            figures.worker_us.append((cpu_s(proxy.workers) - worker_s) * each)
            figures.tree_us.append((cpu_s(proxy.tree) - tree_s) * each)
        figures.memory = memory_bytes(proxy.tree)
        figures.alone.append(self._load(proxy.url, 1, ONE_CONNECTION_S, variant))

    def _load(self, url: str, connections: int, seconds: float, variant: str) -> Shot:
        return wrk(
            url, connections, seconds, self.load_core, KEY=KEY, **VARIANTS[variant]
        )

    def compare(self, name: str) -> list[dict[str, Any]]:
        """Compare one peer on every variant; its failure does not stop other peers."""
        try:
            peer, child = self.start_peer(name)
        except (RigError, OSError, subprocess.SubprocessError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            return []
        try:
            return [self.row(peer, variant) for variant in self.chosen.variants]
        finally:
            self.crew.end(child)

    def row(self, peer: Proxy | None, variant: str) -> dict[str, Any]:
        """The comparison with one peer (None: with the direct connection only)."""
        figures = self.beside(peer, variant)
        direct = figures.pop("direct")
        shown = {name: found.public(direct) for name, found in figures.items()}
        row: dict[str, Any] = {"variant": variant, "peer": peer and peer.name}
        row["direct_p50_us"] = round(direct.alone_us("p50"))
        row |= shown
        if peer is not None:
            row["ratio"] = ratios(shown["tidegate"], shown[peer.name])
        if not self.chosen.json:
            print_row(row)
        return row


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Tidegate's figure divided by the peer's, where both are above 0."""
    names = ("requests_per_s", "worker_cpu_us", "tree_cpu_us", "added_p50_us")
    return {
        name: round(ours[name] / theirs[name], 2)
        for name in (*names, "added_p99_us", "memory_mb")
        if theirs[name] > 0 and ours[name] > 0
    }


# -- output ----------------------------------------------------------------------------

COLUMNS = (
    ("requests/s", "requests_per_s"),
    ("worker µs", "worker_cpu_us"),
    ("tree µs", "tree_cpu_us"),
    ("+p50 µs", "added_p50_us"),
    ("+p99 µs", "added_p99_us"),
    ("MB", "memory_mb"),
    ("not 2xx", "not_2xx"),
    ("errors", "errors"),
)


def print_row(row: dict[str, Any]) -> None:
    """Print one comparison as text."""
    peer = row["peer"] or "alone"
    print(f"\n{row['variant']}, direct p50 {row['direct_p50_us']} µs")
    print(f"  {'':10}" + "".join(f"{title:>12}" for title, _ in COLUMNS))
    for name in ("tidegate", peer):
        if name in row:
            cells = "".join(f"{row[name][key]:>12,}" for _, key in COLUMNS)
            print(f"  {name:10}{cells}")
    if "ratio" in row:
        ratio = row["ratio"]
        cells = "".join(f"{ratio.get(key, '-'):>12}" for _, key in COLUMNS)
        print(f"  {'ratio':10}{cells}", flush=True)


def machine() -> dict[str, Any]:
    """The machine of the measurement."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "tidegate": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": model,
        "cores": two_cores(),
    }


def words_of(known: Sequence[str]) -> Any:
    """An argument type: known words separated by commas."""

    def parse(text: str) -> list[str]:
        words = [word for word in text.split(",") if word]
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} (known: {', '.join(known)})"
            )
        return words

    return parse


def read_arguments() -> argparse.Namespace:
    """The validated command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.compare",
        description="Tidegate beside other proxies on the same work.",
    )
    add = parser.add_argument
    add("--scratch", type=Path, required=True, help="where to install and log")
    add("--peers", type=words_of(tuple(PEERS)), default=["nginx", "haproxy", "floor"])
    add(
        "--variants", type=words_of(tuple(VARIANTS)), default=["json", "json40k", "sse"]
    )
    add("--rounds", type=int, default=3)
    add("--seconds", type=int, default=4, help="of each run")
    add("--connections", type=int, default=32)
    add("--chunk-ms", type=float, default=4, help="between the 50 events of a stream")
    add("--json", action="store_true", help="one JSON document instead of tables")
    chosen = parser.parse_args()
    chosen.rounds = min(max(1, chosen.rounds), MOST_ROUNDS)
    chosen.seconds = min(max(1, chosen.seconds), MOST_SECONDS)
    chosen.scratch = chosen.scratch.resolve()
    return chosen


def main() -> int:
    """Run all comparisons; exit code 1 when nothing could be measured."""
    chosen = read_arguments()
    chosen.scratch.mkdir(parents=True, exist_ok=True)
    (chosen.scratch / "tidegate.log").unlink(missing_ok=True)
    rows: list[dict[str, Any]] = []
    try:
        with Crew(chosen.scratch) as crew:
            bench = Bench(chosen, crew)
            for name in chosen.peers:
                rows += bench.compare(name)
            if not chosen.peers:
                rows += [bench.row(None, variant) for variant in chosen.variants]
    except RigError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())

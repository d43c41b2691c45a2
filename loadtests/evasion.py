"""Tries ways around the meter on a running gateway, and compares bills with records.

usage: python -m loadtests.evasion [--only KIND]... [--case TEXT] [--json] [--list]
                                   [--workers 2] [--store embedded:./data]

Starts mock upstreams that read requests as OpenAI, Ollama (Go), vLLM (pydantic), nginx
and a lax server do and that bill what they generate, and a gateway with several workers
before them. Each case is a client with a valid key and full control of its requests,
sockets and timing. Afterwards the bills of each case are compared with its records.

Outcomes: ``held`` (refused, or recorded at least as much as billed, within the caps and
limits of its policy), ``evaded`` (billed more than recorded, or beyond a cap or limit),
``known`` (every fault of the case is one that a sentence of docs/ admits). Prints a table per kind and a
summary. Exit code 1 when a case evades.

  --only KIND   only cases of this kind (see --list); may be repeated
  --case TEXT   only cases whose name contains TEXT
  --json        one JSON object per case on standard output, the summary last
  --verbose     also the cases that are held
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from loadtests.evasions import access, bodies, later, streams, wire
from loadtests.evasions.stage import KEYS, Case, Result, Stage, judge

DOCS = Path(__file__).resolve().parents[1] / "docs"
AT_ONCE = 16


def all_cases() -> list[Case]:
    """Every case with its id and the number of its key."""
    found: list[Case] = []
    keys: Counter[str] = Counter()
    for group in (bodies, wire, streams, later, access):
        for case in group.cases():
            case.id = f"c{len(found):03d}"
            case.number = keys[case.policy]
            keys[case.policy] += 1
            assert case.number < KEYS, f"too few keys for {case.policy}"
            found.append(case)
    return found


def admitted(sentence: str) -> bool:
    """Whether a page of docs/ has this sentence."""
    pages = (" ".join(page.read_text().split()) for page in DOCS.glob("*.md"))
    return any(" ".join(sentence.split()) in page for page in pages)


async def run(cases: list[Case], workers: int, store: str) -> list[Result]:
    """Run the cases, some at a time, and judge them when all records are there."""
    async with Stage(workers, store) as stage:
        slots, done = asyncio.Semaphore(AT_ONCE), 0

        async def one(case: Case) -> object:
            nonlocal done
            async with slots:
                client = await stage.run(case)
            done += 1
            progress(done, len(cases))
            return client

        clients = await asyncio.gather(*(one(case) for case in cases))
        records = await stage.settle()
        by_case: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            name = str(record["request_id"]).partition("-")[0]
            by_case.setdefault(name, []).append(record)
        results = []
        for client in clients:
            case, bills = client.case, stage.upstreams.ledger.of(client.case.id)
            found = by_case.get(case.id, [])
            used = await stage.used(case, found) if case.held else {}
            results.append(judge(client, bills, found, used))
        return results


def progress(done: int, of: int) -> None:
    """A bar, on a terminal."""
    if not sys.stderr.isatty():
        return
    width = 40 * done // of
    end = "\n" if done == of else ""
    bar = "#" * width + "." * (40 - width)
    print(f"\r[{bar}] {done}/{of}", end=end, file=sys.stderr, flush=True)


def lines(results: list[Result], *, verbose: bool) -> Iterator[str]:
    """A table per kind: its counts, and the cases that are not held."""
    for kind in dict.fromkeys(result.kind for result in results):
        group = [result for result in results if result.kind == kind]
        counts = Counter(result.outcome for result in group)
        yield f"{kind}: " + ", ".join(f"{n} {o}" for o, n in sorted(counts.items()))
        for r in group:
            if r.outcome == "held" and not verbose:
                continue
            yield (
                f"  {r.outcome:6} {r.case} {r.name[:44]:44} {r.server:7}{r.policy:8}"
                f" billed {r.billed_tokens:7,} recorded {r.recorded_tokens:7,}"
                f" ${r.billed_usd:.4f} ${r.recorded_usd:.4f}"
                f" {','.join(map(str, r.statuses[:6]))} {r.reason}"
            )


def main() -> int:
    """Run all that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="KIND")
    parser.add_argument("--case", default="", metavar="TEXT")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", default="embedded:./data")
    args = parser.parse_args()
    cases = [
        case
        for case in all_cases()
        if (not args.only or case.kind in args.only) and args.case in case.name
    ]
    if not cases:
        parser.error("no such cases; --list shows the kinds")
    if args.list:
        for kind, number in Counter(case.kind for case in cases).items():
            print(f"{number:4} {kind}")
        return 0
    for case in cases:
        if case.known and not admitted(case.known.sentence):
            print(f"not in docs: {case.known.sentence}", file=sys.stderr)
            case.known = None
    began = time.monotonic()
    results = asyncio.run(run(cases, args.workers, args.store))
    counts = Counter(result.outcome for result in results)
    took = time.monotonic() - began
    summary = {"cases": len(results), **counts, "seconds": round(took, 1)}
    if args.json:
        for result in results:
            print(msgspec.json.encode(result).decode())
        print(json.dumps(summary))
    else:
        print("\n".join(lines(results, verbose=args.verbose)))
        print(", ".join(f"{value} {name}" for name, value in summary.items()))
    return int(counts["evaded"] > 0)


if __name__ == "__main__":
    sys.exit(main())
